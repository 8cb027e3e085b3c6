"""What of an image goes into a shard."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from zoo import preprocess

QUALITY = 95  # of a JPEG that was resized


def fitted(image_bytes, largest_side=None):
    """Makes sure that an image can be decoded, and makes a large one smaller.

    Args:
        image_bytes: bytes, the encoded image.
        largest_side: int, in pixels; `None` for any.

    Returns:
        The bytes of the image, and `None` if it is as it was, or else its new
        height and width in pixels.

    Raises:
        tf.errors.InvalidArgumentError: If the image cannot be decoded.

    Example:

    >>> png = tf.io.encode_png(tf.zeros((20, 30, 3), "uint8")).numpy()
    >>> fitted(png, largest_side=15)[1]
    (10, 15)
    """
    with tf.device("CPU"):  # not worth the way to a GPU and back
        sides = None
        if largest_side is not None:
            sides = _shape(image_bytes).numpy()
        if sides is None or sides.max() <= largest_side:
            _read_all(image_bytes)
            return image_bytes, None
        image = Image.fromarray(_decode(image_bytes).numpy())
    sides = np.maximum(np.round(sides * (largest_side / sides.max())), 1)
    height, width = map(int, sides)
    smaller = image.resize((width, height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    if image_bytes.startswith(b"\x89PNG"):
        smaller.save(file, "PNG")
    else:
        smaller.save(file, "JPEG", quality=QUALITY)
    return file.getvalue(), (height, width)


# As graphs, since threads then hardly wait for Python's lock.
_BYTES = [tf.TensorSpec((), "string")]
_decode = tf.function(preprocess.decode, input_signature=_BYTES)
_shape = tf.function(preprocess.image_shape, input_signature=_BYTES)


@tf.function(input_signature=_BYTES)
def _read_all(image_bytes):
    """Reads all data of an image, at the cost of an eighth of its size."""
    # Something of the image must be used, or it would not be decoded.
    return tf.shape(preprocess.decode(image_bytes, ratio=8))
