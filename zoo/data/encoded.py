"""An example's encoded image: from a file of its own, or from a shard."""

import os

import tensorflow as tf

from zoo import preprocess

IMAGE = "image"  # the feature of a shard's record that holds the bytes
# Around what a TFRecord holds: its length and that number's checksum before
# it, its own checksum behind it.
RECORD_HEAD, RECORD_TAIL = 12, 4
NO_SPAN = (0, -1)  # among the spans of a tensor, for a file of its own


def read_bytes(path, span=None):
    """Reads an encoded image; `*example.location` says where it lies.

    Args:
        path: str. A file of an encoded image, or a shard.
        span: `None`, or where in the shard the record lies: offset and length
            in bytes.

    Returns:
        bytes.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the shard holds no such record, or a damaged one.
    """
    if span is None:
        with open(path, "rb") as file:
            return file.read()
    with open(path, "rb"):  # for the system's own errors
        pass
    try:
        with tf.device("CPU"):
            return read(path, tf.constant(span, "int64")).numpy()
    except (
        tf.errors.DataLossError,
        tf.errors.InvalidArgumentError,
        tf.errors.OutOfRangeError,
    ) as error:
        raise ValueError(
            f"{path} has no record of an image there; it was changed. "
            f"Received: span={span}"
        ) from error


def read(path, span=None):
    """Reads an encoded image by TensorFlow's ops, as `read_bytes` does.

    Reading one record out of a shard takes about a tenth of a millisecond
    more than reading a file, and compares the record's checksum.

    Args:
        path: string scalar.
        span: `None`, or int64 tensor `(2,)`; `NO_SPAN` where the path is a
            file of its own.

    Returns:
        string scalar.

    Raises:
        tf.errors.OpError: If the file or the record cannot be read.
    """
    if span is None:
        return tf.io.read_file(path)
    return tf.cond(
        span[1] < 0, lambda: tf.io.read_file(path), lambda: _record(path, span)
    )


def _record(path, span):
    # `tf.data.TFRecordDataset` can only begin at the beginning.
    one_string = {"output_types": ["string"], "output_shapes": [()]}
    records = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type="",
        buffer_size=0,
        byte_offsets=span[:1] - RECORD_HEAD,
    )
    first = tf.raw_ops.TakeDataset(input_dataset=records, count=1, **one_string)
    [record] = tf.raw_ops.DatasetToSingleElement(dataset=first, **one_string)
    features = {IMAGE: tf.io.FixedLenFeature((), "string")}
    return tf.io.parse_single_example(record, features)[IMAGE]


def fault(image_bytes):
    """Says why an image cannot be decoded.

    Args:
        image_bytes: bytes, of which `zoo.preprocess.decode` made an error.

    Returns:
        str.

    Example:

    >>> fault(b"")
    'empty; JPEG, PNG and WebP are taken'
    """
    try:
        reason = preprocess.fault(image_bytes).numpy().decode()
    except tf.errors.InvalidArgumentError:  # already the header is broken
        reason = ""
    return reason or "not a whole JPEG, PNG or WebP image"


def absence(path):
    """Says why a file could not be read, after an `OSError`.

    Args:
        path: str.

    Returns:
        str.
    """
    if os.path.isfile(path):
        return "the file cannot be read"
    return "there is no such file"
