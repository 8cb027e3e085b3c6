"""Keras model -> versioned SavedModel that TensorFlow Serving loads."""

import argparse
import json
import os
import pathlib
import shutil

import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving import signature
from zoo import preprocess, runs
from zoo.data import proposals

TOP_K = 5  # labels in the answer to an image, or all where there are fewer


def export(model, classes, directory, version=None, card=None, regions=None):
    """Writes one version of a model, with the signatures of `serving`.

    The version is written under another name and renamed when it is whole, so
    a server that watches the folder never sees a half one.

    Args:
        model: `keras.Model` from images of one fixed size to logits of shape
            `(batch, num_classes)`, or to a dict with these as `"logits"`. A
            dict may hold `"sequence"`, class indices of shape
            `(batch, max_labels)` with -1 after the last, and
            `"sequence_probabilities"` of them. Nothing else of it is served.
            A model that looks at regions takes a dict of `"image"` and
            `"regions"`, float32 of shape `(batch, num_regions, 4)`.
        classes: sequence of str, in the order of the logits.
        directory: str or path. The model's base path; the version becomes a
            folder in it, its name a number.
        version: int above 0, or `None` for the next free one.
        card: dict or `None`. Written to `assets.extra/card.json`.
        regions: float array of shape `(num_regions, 4)`, ymin xmin ymax xmax,
            0 to 1 of the image, or `None` for those of
            `zoo.data.proposals.sliding_windows`. Where a model that takes
            regions looks in an image that comes without any: at least one,
            each of some area; as many as it takes, if that number is fixed.

    Returns:
        `pathlib.Path` of the new version.

    Raises:
        ValueError: If `classes` and logits differ in number, the model has no
            logits or no fixed image size, takes other inputs than these,
            `regions` are not such an array or the model takes none, or
            `version` is below 1.
        FileExistsError: If the version exists: versions are never overwritten.

    Example:

    >>> import tempfile
    >>> from zoo.backbones import tiny
    >>> from zoo.models import csra
    >>> model = csra(tiny(image_size=32), num_classes=2)
    >>> export(model, ["cat", "dog"], tempfile.mkdtemp()).name
    '1'
    """
    directory = pathlib.Path(directory)
    grid = _grid(model, regions)
    image_size = _image_size(model)
    # `output_shape` of a dict has no names, and a Sequential no `output`.
    outputs = _by_name(model.compute_output_spec(model.inputs))
    num_classes = outputs["logits"].shape[-1]
    if num_classes != len(classes):
        raise ValueError(
            f"The model has {num_classes} classes. "
            f"Received: {len(classes)} names in `classes`"
        )
    if version is None:
        version = max(versions(directory), default=0) + 1
    if version < 1:
        raise ValueError(
            f"`version` must be at least 1. Received: version={version}"
        )
    target = directory / str(version)
    temporary = directory / f"writing-{version}-{os.getpid()}"
    if target.exists():
        raise FileExistsError(
            f"Version {version} exists already, and versions are never "
            f"overwritten. Received: directory={str(directory)!r}"
        )
    try:
        archive = _archive(model, classes, image_size, grid)
        archive.write_out(str(temporary), verbose=False)
        _write_extras(temporary, classes, card)
        _write_warmup(temporary, image_size, grid)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def versions(directory):
    """Lists the numbers of the versions in a model's base path, ascending."""
    folders = pathlib.Path(directory).glob("[0-9]*")
    return sorted(int(f.name) for f in folders if f.name.isdecimal())


def _image_size(model):
    input_shape = model.inputs[0].shape  # a dict's are sorted by their names
    height, width = input_shape[1:3]
    if height is None or height != width:
        raise ValueError(
            "Export needs a model with one fixed, square image size. "
            f"Received: input_shape={input_shape}"
        )
    return height


def _grid(model, regions):
    """Gives the regions of an image that comes without, or `None`."""
    names = [tensor.name for tensor in model.inputs]
    if len(names) == 1:
        if regions is not None:
            raise ValueError(
                "The model takes no regions. "
                f"Received: `regions` of shape {np.shape(regions)}"
            )
        return None
    if names != [signature.IMAGE, signature.REGIONS]:
        raise ValueError(
            "Export needs a model of images, or of a dict of 'image' and "
            f"'regions'. Received: inputs={names}"
        )
    num_regions = model.inputs[1].shape[1]  # `None` for any number
    if regions is None:
        regions = proposals.sliding_windows(num_regions=num_regions)
    try:
        grid = np.asarray(regions, "float32")
    except ValueError as error:  # rows of several lengths
        raise ValueError(
            "`regions` must have the shape (num_regions, 4). "
            f"Received: regions={regions}"
        ) from error
    if grid.shape != (num_regions or max(1, grid.size // 4), 4):
        raise ValueError(
            f"`regions` must have the shape ({num_regions or 'num_regions'}, "
            "4), and at least one row. "
            f"Received: `regions` of shape {grid.shape}"
        )
    start, end = np.split(grid, 2, axis=1)
    is_good = ((0 <= start) & (start < end) & (end <= 1)).all(axis=1)
    if not is_good.all():  # also for NaN
        row = is_good.argmin()
        raise ValueError(
            "`regions` must be ymin xmin ymax xmax, 0 to 1 of the image, and "
            f"have some area. Received: regions[{row}]={grid[row].tolist()}"
        )
    return grid


def _by_name(outputs):
    """Gives a dict of outputs, also where a model has but one."""
    if not isinstance(outputs, dict):
        return {"logits": outputs}
    if "logits" not in outputs:
        raise ValueError(
            "A model with a dict of outputs must have 'logits' among them. "
            f"Received: outputs={sorted(outputs)}"
        )
    return outputs


def _archive(model, classes, image_size, grid):
    labels = tf.constant(list(classes))
    sequence_labels = tf.constant(["", *classes])  # -1, no class, comes first
    top_k = min(TOP_K, len(classes))
    image_shape = (None, image_size, image_size, 3)

    def from_image(image, regions=None):
        # A wrong rank that reaches the model aborts the server's process.
        inputs = image = tf.ensure_shape(image, image_shape)
        if grid is not None:
            if regions is None:
                regions = tf.tile(grid[None], (tf.shape(image)[0], 1, 1))
            inputs = {signature.IMAGE: image, signature.REGIONS: regions}
        # Without training=False an export can carry training behaviour.
        outputs = _by_name(model(inputs, training=False))
        logits = tf.cast(outputs["logits"], "float32")
        answer = {signature.PROBABILITIES: tf.sigmoid(logits)}
        if "sequence" in outputs:
            answer[signature.SEQUENCE_LABELS] = tf.gather(
                sequence_labels, outputs["sequence"] + 1
            )
            answer[signature.SEQUENCE_PROBABILITIES] = tf.cast(
                outputs["sequence_probabilities"], "float32"
            )
        return answer

    def from_bytes(image_bytes, regions=None):
        image = tf.map_fn(
            lambda encoded: preprocess.load(encoded, image_size),
            tf.ensure_shape(image_bytes, (None,)),
            fn_output_signature=tf.TensorSpec(image_shape[1:]),
        )
        answer = from_image(image, regions)
        values, indices = tf.math.top_k(answer[signature.PROBABILITIES], top_k)
        return {
            **answer,
            signature.TOP_LABELS: tf.gather(labels, indices),
            signature.TOP_PROBABILITIES: values,
        }

    def from_regions(image_bytes, regions):
        regions = tf.ensure_shape(regions, model.inputs[1].shape)
        return from_bytes(image_bytes, _checked(regions, image_bytes))

    bytes_spec = tf.TensorSpec((None,), "string", name=signature.IMAGE_BYTES)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(signature.SERVING_DEFAULT, from_bytes, [bytes_spec])
    archive.add_endpoint(
        signature.IMAGE_SIGNATURE,
        from_image,
        [tf.TensorSpec(image_shape, "float32", name=signature.IMAGE)],
    )
    archive.add_endpoint(
        signature.LABELS_SIGNATURE, lambda: {signature.LABELS: labels}, []
    )
    if grid is not None:
        archive.add_endpoint(
            signature.REGIONS_SIGNATURE,
            from_regions,
            [
                bytes_spec,
                tf.TensorSpec(model.inputs[1].shape, name=signature.REGIONS),
            ],
        )
    return archive


def _checked(regions, image_bytes):
    """Gives regions that fit their images, or an error that says why not."""
    regions = tf.debugging.check_numerics(regions, "`regions` must be finite")
    num_images, shape = tf.size(image_bytes), tf.shape(regions)
    number = tf.strings.format(
        "`regions` must be given for each image. Received: {} images and "
        "`regions` of shape {}",
        (num_images, shape),
    )
    # True for padding. What is in pixels, or has its end first, would get an
    # answer about another place.
    start, end = tf.split(regions, 2, axis=-1)
    is_good = tf.reduce_all((0 <= start) & (start <= end) & (end <= 1), axis=-1)
    place = tf.strings.format(
        "`regions` must be ymin xmin ymax xmax, 0 to 1 of the image, or zeros. "
        "Received: {}",
        tf.boolean_mask(regions, ~is_good)[:1],
    )
    checks = [
        tf.debugging.Assert(shape[0] == num_images, [number]),
        tf.debugging.Assert(tf.reduce_all(is_good), [place]),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(regions)


def _write_extras(folder, classes, card):
    for path, text in {
        signature.LABELS_FILE: "".join(f"{name}\n" for name in classes),
        signature.CARD_FILE: json.dumps(card or {}, indent=2),
    }.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)


def _write_warmup(folder, image_size, grid):
    """Writes what the server runs first, so that no request is slow."""
    grey = tf.fill((image_size, image_size, 3), tf.constant(128, "uint8"))
    image_bytes = {signature.IMAGE_BYTES: [tf.io.encode_jpeg(grey).numpy()]}
    requests = {signature.SERVING_DEFAULT: image_bytes}
    if grid is not None:
        requests[signature.REGIONS_SIGNATURE] = {
            **image_bytes,
            signature.REGIONS: grid[None],
        }
    with tf.io.TFRecordWriter(str(folder / signature.WARMUP_FILE)) as writer:
        for name, inputs in requests.items():
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = name
            for key, values in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(values))
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())


def main(argv=None):
    """Exports a finished run: `python -m export RUN`."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Exports a finished run as the next version of a "
        "SavedModel that TensorFlow Serving loads.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "run", type=pathlib.Path, help="folder of a finished run"
    )
    parser.add_argument(
        "--directory",
        type=pathlib.Path,
        help="base path of the model (default: RUN/export/METHOD)",
    )
    parser.add_argument(
        "--version", type=int, help="a number above 0 (default: the next)"
    )
    arguments = parser.parse_args(argv)
    try:
        card = runs.finished(arguments.run)
        model = keras.saving.load_model(arguments.run / runs.MODEL)
        base_path = arguments.run / "export" / card["method"]
        directory = arguments.directory or base_path
        print(
            export(model, card["classes"], directory, arguments.version, card)
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
