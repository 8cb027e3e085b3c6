"""Image bytes -> pixels: the one definition for training and serving."""

import tensorflow as tf

MARGIN = 16  # pixels, the largest block of a JPEG


def decode(image_bytes, ratio=1):
    """Decodes a JPEG or PNG image.

    The slow but accurate inverse DCT gives the pixels that Pillow gives.

    Args:
        image_bytes: string scalar, the encoded image.
        ratio: int. 1, or 2, 4 or 8 for a JPEG at that fraction of its size.

    Returns:
        uint8 tensor of shape `(height, width, 3)`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not a whole image.
    """
    is_png = tf.strings.substr(image_bytes, 0, 4) == b"\x89PNG"
    # The op below would read WebP too, but into a tensor of another rank.
    known = tf.debugging.Assert(
        tf.io.is_jpeg(image_bytes) | is_png,
        ["Expected a JPEG or PNG image, it begins with other bytes."],
    )
    with tf.control_dependencies([known] if known is not None else []):
        # This op reads PNG too, and it alone lets us choose the inverse DCT.
        return tf.io.decode_jpeg(
            image_bytes,
            channels=3,
            ratio=ratio,
            dct_method="INTEGER_ACCURATE",
        )


def decode_crop(image_bytes, crop):
    """Decodes a part of an image; the rest of a JPEG is skipped.

    Args:
        image_bytes: string scalar, the encoded image.
        crop: float tensor `(4,)`: ymin xmin ymax xmax, 0 to 1 of the image,
            rounded to whole pixels and at least one of them.

    Returns:
        uint8 tensor of shape `(height, width, 3)`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not an image.
    """
    crop = tf.convert_to_tensor(crop, "float32")
    shape = image_shape(image_bytes)
    size = tf.cast(shape, "float32")
    start = tf.minimum(tf.cast(tf.round(crop[:2] * size), "int32"), shape - 1)
    end = tf.cast(tf.round(crop[2:] * size), "int32")
    end = tf.maximum(end, start + 1)
    # A decoder smooths colours over neighbours: to give the edge of the crop
    # the pixels that it has in the whole image, read a margin and cut it off.
    outer = tf.maximum(start - MARGIN, 0)
    window = tf.concat([outer, tf.minimum(end + MARGIN, shape) - outer], axis=0)
    image = tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.decode_and_crop_jpeg(
            image_bytes, window, channels=3, dct_method="INTEGER_ACCURATE"
        ),
        lambda: tf.image.crop_to_bounding_box(
            decode(image_bytes), *tf.unstack(window)
        ),
    )
    (top, left), (bottom, right) = (
        tf.unstack(start - outer),
        tf.unstack(end - outer),
    )
    return image[top:bottom, left:right]


def image_shape(image_bytes):
    """Reads the size of an image; that of a JPEG stands in its header.

    Args:
        image_bytes: string scalar, the encoded image.

    Returns:
        int32 tensor of shape `(2,)`: height and width in pixels.
    """
    return tf.cond(
        tf.io.is_jpeg(image_bytes),
        lambda: tf.io.extract_jpeg_shape(image_bytes)[:2],
        lambda: tf.shape(decode(image_bytes))[:2],
    )


def resize(image, image_size):
    """Resizes to a square, whatever the shape, as Pillow's bilinear filter.

    Args:
        image: uint8 or float tensor of shape `(height, width, 3)`.
        image_size: int. Height and width of the result, in pixels.

    Returns:
        float32 tensor of shape `(image_size, image_size, 3)`, in the range of
        the input, not rounded.
    """
    # Without antialias a smaller picture skips pixels and is not Pillow's.
    image = tf.image.resize(image, (image_size, image_size), antialias=True)
    return tf.ensure_shape(image, (image_size, image_size, 3))


def load(image_bytes, image_size, crop=None):
    """Turns encoded bytes into what every model takes.

    Args:
        image_bytes: string scalar, an encoded JPEG or PNG image.
        image_size: int. Height and width of the result, in pixels.
        crop: `None`, or a float tensor `(4,)`: ymin xmin ymax xmax, 0 to 1 of
            the image.

    Returns:
        float32 tensor of shape `(image_size, image_size, 3)`, RGB, 0 to 255.

    Example:

    >>> png = tf.io.encode_png(tf.zeros((20, 30, 3), "uint8"))
    >>> tuple(load(png, image_size=8).shape)
    (8, 8, 3)
    """
    if crop is None:
        return resize(decode(image_bytes), image_size)
    return resize(decode_crop(image_bytes, crop), image_size)
