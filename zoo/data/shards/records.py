"""Example <-> the record that holds it."""

import numpy as np
import tensorflow as tf

from zoo.data import encoded
from zoo.data.example import Example

# Of records and index. In format 1 an example may have its image also where the
# one before it is of the same.
FORMAT = 2
READ = (1, 2)
INDEX = "shards.json"
UNFINISHED = "unfinished.json"  # the index of what is still being written


def serialize(example, image_bytes, image_file, size):
    """Gives the record of an example.

    Args:
        example: `Example`.
        image_bytes: bytes, its encoded image.
        image_file: str, the same for all examples of an image.
        size: `None`, or height and width of that image in pixels.

    Returns:
        bytes, a serialized `tf.train.Example`; of equal examples the same.
    """
    record = tf.train.Example()
    features = record.features.feature
    for name, value in (
        (encoded.IMAGE, image_bytes),
        ("image_file", _bytes(image_file)),
        ("image_id", _bytes(example.image_id)),
    ):
        features[name].bytes_list.value.append(value)
    for name, values in (
        ("targets", example.targets),
        ("boxes", example.boxes),
        ("crop", example.crop),
        ("regions", example.regions),
    ):
        # A list that is there and empty is something else than none.
        if values is not None:
            features[name].float_list.value.extend(np.ravel(values))
    for name, values in (
        ("box_classes", example.box_classes),
        ("box_difficult", example.box_difficult),
        ("size", size),
    ):
        if values is not None:
            features[name].int64_list.value.extend(map(int, values))
    return record.SerializeToString(deterministic=True)


def parse(record, path, span):
    """Gives the example that a record holds.

    Args:
        record: bytes, as `serialize` gives them.
        path: str, the shard.
        span: where in it the record lies: offset and length in bytes.

    Returns:
        `(Example, image_file)`.
    """
    features = tf.train.Example.FromString(record).features.feature

    def text(name):
        return (
            features[name]
            .bytes_list.value[0]
            .decode("utf-8", "surrogateescape")
        )

    def floats(name):
        return np.array(features[name].float_list.value, "float32")

    def ints(name):
        return np.array(features[name].int64_list.value, "int32")

    example = Example(
        image_id=text("image_id"),
        image_path=path,
        targets=floats("targets"),
        boxes=floats("boxes").reshape(-1, 4),
        box_classes=ints("box_classes"),
        box_difficult=ints("box_difficult").astype(bool),
        crop=tuple(floats("crop").tolist()) or None,
        size=tuple(ints("size").tolist()) or None,
        regions=(
            floats("regions").reshape(-1, 4) if "regions" in features else None
        ),
        span=span,
    )
    return example, text("image_file")


def _bytes(text):
    # Names of files may hold bytes that are not UTF-8.
    return text.encode("utf-8", "surrogateescape")
