"""Random changes of a training image; each is a function of its seed."""

import tensorflow as tf


def random_crop(shape, seed, min_area=0.7, max_ratio=4 / 3):
    """Draws a crop of random area and aspect ratio, as Szegedy et al. (2015).

    Args:
        shape: int32 tensor `(2,)`: height and width of the image in pixels.
        seed: int32 tensor `(2,)`.
        min_area: float in `(0, 1]`. Least share of the image's area; the
            share is uniform between it and 1.
        max_ratio: float, at least 1. The crop's width over height is
            log-uniform between `1 / max_ratio` and `max_ratio`, then the
            nearest one with which the crop fits into the image.

    Returns:
        float32 tensor `(4,)`: ymin xmin ymax xmax, 0 to 1 of the image.
    """
    height, width = tf.unstack(tf.cast(shape, "float32"))
    draws = tf.random.stateless_uniform((4,), seed)
    area = (min_area + (1 - min_area) * draws[0]) * height * width
    ratio = max_ratio ** (2 * draws[1] - 1)  # width over height
    # Only such ratios fit into the image with all of the area.
    ratio = tf.clip_by_value(ratio, area / height**2, width**2 / area)
    sides = tf.stack(
        [tf.sqrt(area / ratio) / height, tf.sqrt(area * ratio) / width]
    )
    sides = tf.minimum(sides, 1.0)  # rounding
    start = draws[2:] * (1 - sides)
    return tf.concat([start, start + sides], axis=0)


def random_shift(image, seed, max_shift):
    """Moves an image by whole pixels; its mirror image fills the gap.

    Unlike a crop that is resized, this leaves the pixels as sharp as they are
    in evaluation, which matters where images are no larger than the input.

    Args:
        image: tensor of shape `(height, width, channels)`.
        seed: int32 tensor `(2,)`.
        max_shift: int. Most pixels in each direction, less than the height
            and the width.

    Returns:
        Tensor of the same shape and dtype.
    """
    padding = [[max_shift, max_shift], [max_shift, max_shift], [0, 0]]
    padded = tf.pad(image, padding, "REFLECT")
    top, left = tf.unstack(
        tf.random.stateless_uniform(
            (2,), seed, 0, 2 * max_shift + 1, dtype="int32"
        )
    )
    height, width = tf.unstack(tf.shape(image)[:2])
    shifted = padded[top : top + height, left : left + width]
    return tf.ensure_shape(shifted, image.shape)


def random_flip(image, seed):
    """Mirrors left and right with probability one half.

    Args:
        image: tensor of shape `(height, width, channels)`.
        seed: int32 tensor `(2,)`.

    Returns:
        Tensor of the same shape and dtype.
    """
    return tf.image.stateless_random_flip_left_right(image, seed)
