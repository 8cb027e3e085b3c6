"""A SavedModel with the signatures of the zoo's exports, made in a second."""

import pathlib
import uuid

import tensorflow as tf
from tensorflow_serving.apis import (
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
)

CLASSES = ("dog", "person", "caf\u00e9")  # one name that is not ASCII
SIZE = 8  # pixels, height and width of what `image` takes


class SmallModel(tf.Module):
    """Calls an image the more of everything the brighter it is.

    And, given regions of it, the larger the largest of them is.

    Args:
        gate: `None`, or path of a folder: `serving_default` writes a file
            `started` into it and goes on when there is a file `go`.
    """

    def __init__(self, gate=None):
        super().__init__()
        # A variable, or TensorFlow looks for the file only once.
        self.gate = gate and tf.Variable(str(gate))
        self.scale = tf.Variable([0.25, 1.0, 0.5])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def serving_default(self, image_bytes):
        if self.gate is not None:
            tf.io.write_file(self.gate + "/started", "")
            (image_bytes,) = tf.while_loop(
                lambda _: tf.size(tf.io.matching_files(self.gate + "/go")) < 1,
                lambda images: (images,),
                (image_bytes,),
            )
        brightness = tf.map_fn(
            lambda data: tf.reduce_mean(
                tf.cast(tf.io.decode_jpeg(data, channels=3), tf.float32)
            ),
            image_bytes,
            fn_output_signature=tf.float32,
        )
        probabilities = brightness[:, None] / 255.0 * self.scale
        top_probabilities, indices = tf.math.top_k(probabilities, k=2)
        return {
            "probabilities": probabilities,
            "top_labels": tf.gather(tf.constant(CLASSES), indices),
            "top_probabilities": top_probabilities,
        }

    @tf.function(
        input_signature=[tf.TensorSpec([None, SIZE, SIZE, 3], tf.float32)]
    )
    def image(self, image):
        brightness = tf.reduce_mean(image, axis=[1, 2, 3])
        return {"probabilities": brightness[:, None] / 255.0 * self.scale}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string),
            tf.TensorSpec([None, None, 4], tf.float32),
        ]
    )
    def regions(self, image_bytes, regions):
        tf.debugging.assert_equal(tf.size(image_bytes), tf.shape(regions)[0])
        regions = tf.debugging.check_numerics(regions, "regions")
        sides = regions[..., 2:] - regions[..., :2]
        tf.debugging.assert_non_negative(sides)
        tf.debugging.assert_less_equal(regions, 1.0)
        area = tf.reduce_max(tf.reduce_prod(sides, axis=-1), axis=1)[:, None]
        answer = self.serving_default(image_bytes)
        return {
            "probabilities": area * answer["probabilities"],
            "top_labels": answer["top_labels"],
            "top_probabilities": area * answer["top_probabilities"],
        }

    @tf.function(input_signature=[])
    def labels(self):
        return {"labels": tf.constant(CLASSES)}


def jpeg(brightness, size=SIZE):
    """Encodes a grey image.

    Args:
        brightness: int, 0 to 255.
        size: int. Height and width in pixels.

    Returns:
        bytes, the content of a JPEG file.
    """
    pixels = tf.cast(tf.fill([size, size, 3], brightness), tf.uint8)
    return tf.io.encode_jpeg(pixels, quality=100).numpy()


def save(base_path, version, gate=None, warmup=None):
    """Writes a version as the export does: elsewhere first, then renamed.

    Args:
        base_path: str or path of the model's folder.
        version: int.
        gate: `None` or path. See `SmallModel`.
        warmup: `None`, or a list of bytes, the image of one request each.

    Returns:
        `pathlib.Path` of the version.
    """
    base_path = pathlib.Path(base_path)
    unfinished = base_path / f"unfinished-{uuid.uuid4().hex}"
    model = SmallModel(gate)
    tf.saved_model.save(
        model,
        str(unfinished),
        signatures={
            "serving_default": model.serving_default,
            "image": model.image,
            "regions": model.regions,
            "labels": model.labels,
        },
    )
    if warmup is not None:
        write_warmup(unfinished, warmup)
    return unfinished.rename(base_path / str(version))


def write_warmup(directory, images):
    """Writes one warm-up request an image."""
    path = directory / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image in images:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(name="any"),
                inputs={"image_bytes": tf.make_tensor_proto([image])},
            )
            log = prediction_log_pb2.PredictionLog(
                predict_log=prediction_log_pb2.PredictLog(request=request)
            )
            writer.write(log.SerializeToString())
