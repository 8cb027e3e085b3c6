"""Crops of a feature map at regions, all of one size."""

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.ops import control_flow_util

# TensorFlow's op gives 0 for a point that rounding puts past the last pixel,
# so regions shrink by a little more than the op rounds.
_SHRINK = 1 - 2**-21
_OUTSIDE = 2.0  # as a coordinate of a region, whose range is 0 to 1


@keras.saving.register_keras_serializable(package="zoo")
class RoiCropAndResize(keras.layers.Layer):
    """Samples a feature map on a grid of points in each region.

    The points include the region's edges, as in `tf.image.crop_and_resize`:
    for `i` from 0 to `size - 1`, and alike for `x`,

        y[i] = (ymin + i * (ymax - ymin) / (size - 1)) * (height - 1)

    and a single point is the region's middle. Between pixels the map is
    bilinear. Gradients flow to the features and to the regions; that to a
    region is 0 at a point that lies on pixel 0 of an axis, where the map has
    a corner.

    TensorFlow's own op does this where it can, and four gathers do it on other
    backends and under XLA, which has no such op. Both give the same numbers
    and gradients.

    Args:
        size: int. Height and width of a crop in points, at least 1.

    Call arguments:
        features: Float tensor of shape `(batch, height, width, channels)`.
        regions: Float tensor of shape `(batch, num_regions, 4)`: ymin, xmin,
            ymax, xmax, 0 to 1 of the image. They are clipped to this range,
            so that a region outside becomes an empty one at the border, whose
            crop repeats the border's pixels. A row of zeros is padding.

    Returns:
        Float tensor of shape `(batch, num_regions, size, size, channels)` and
        of the layer's compute dtype, sampled in float32. The crop of padding
        is 0 and has no gradient.

    Raises:
        ValueError: If `size` is below 1, or a shape is not as above with
            known channels.

    Example:

    >>> features = ops.reshape(ops.arange(9.0), (1, 3, 3, 1))
    >>> regions = ops.array([[[0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]]])
    >>> crops = RoiCropAndResize(size=2)(features, regions)
    >>> crops[..., 0].numpy().round(3).tolist()
    [[[[0.0, 1.0], [6.0, 7.0]], [[0.0, 0.0], [0.0, 0.0]]]]
    """

    def __init__(self, size, **kwargs):
        # Half precision would move the regions by whole pixels.
        super().__init__(autocast=False, **kwargs)
        if size < 1:
            raise ValueError(
                f"`size` must be at least 1. Received: size={size}"
            )
        self.size = size

    def build(self, features_shape, regions_shape):
        if len(features_shape) != 4 or features_shape[-1] is None:
            raise ValueError(
                "`RoiCropAndResize` expects features of shape `(batch, height, "
                "width, channels)` with known channels. "
                f"Received: features_shape={features_shape}"
            )
        if len(regions_shape) != 3 or regions_shape[-1] != 4:
            raise ValueError(
                "`RoiCropAndResize` expects regions of shape `(batch, "
                f"num_regions, 4)`. Received: regions_shape={regions_shape}"
            )

    def call(self, features, regions):
        features = ops.cast(features, "float32")
        regions = ops.cast(regions, "float32")
        real = ops.any(regions != 0, axis=-1)
        regions = ops.clip(regions, 0, 1) * _SHRINK
        crop = _crop_by_op if _has_op() else _crop_by_take
        crops = crop(features, regions, real, self.size)
        return ops.cast(crops, self.compute_dtype)

    def compute_output_shape(self, features_shape, regions_shape):
        size = (self.size, self.size)
        return (*regions_shape[:2], *size, features_shape[-1])

    def get_config(self):
        return {**super().get_config(), "size": self.size}


def _has_op():
    """Tells whether this call is traced on TensorFlow and outside XLA.

    TensorFlow has no public way to ask for the second, only the way in which
    its own gradients ask. A `tf.function` that was traced outside of XLA keeps
    the op, and cannot be called in one that XLA compiles.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    graph = tf.compat.v1.get_default_graph()
    return not control_flow_util.GraphOrParentsInXlaContext(graph)


def _crop_by_op(features, regions, real, size):
    batch, num_regions = tf.unstack(tf.shape(regions)[:2])
    # The op gives 0, without a gradient, outside of the map. That of a single
    # pixel has no outside until the pixel is repeated, which changes nothing.
    single = tf.reduce_all(tf.shape(features)[1:3] == 1)
    repeats = [[0, 0], [0, tf.cast(single, "int32")], [0, 0], [0, 0]]
    crops = tf.image.crop_and_resize(
        tf.pad(features, repeats, "SYMMETRIC"),
        tf.reshape(tf.where(real[..., None], regions, _OUTSIDE), (-1, 4)),
        tf.repeat(tf.range(batch), num_regions),
        (size, size),
    )
    shape = (batch, num_regions, size, size, features.shape[-1])
    return tf.reshape(crops, shape)


def _crop_by_take(features, regions, real, size):
    batch, height, width, channels = ops.shape(features)
    ymin, xmin, ymax, xmax = ops.unstack(regions[..., None], 4, axis=-2)
    low_y, high_y, share_y = _points(ymin, ymax, height, size)  # (B, R, size)
    low_x, high_x, share_x = _points(xmin, xmax, width, size)
    image = ops.reshape(ops.arange(batch, dtype="int32"), (-1, 1, 1, 1))
    pixels = ops.reshape(features, (-1, channels))
    crops = 0.0
    for y, weight_y in ((low_y, 1 - share_y), (high_y, share_y)):
        weight_y *= ops.cast(real, "float32")[..., None]
        for x, weight_x in ((low_x, 1 - share_x), (high_x, share_x)):
            index = (image * height + y[..., :, None]) * width
            index += x[..., None, :]  # (B, R, size, size)
            weight = weight_y[..., :, None] * weight_x[..., None, :]
            crops += weight[..., None] * ops.take(pixels, index, axis=0)
    return crops


def _points(start, end, length, size):
    """Gives the pixels around each point, and the second one's share."""
    last = ops.cast(length - 1, "float32")
    if size == 1:
        position = 0.5 * (start + end) * last
    else:
        step = (end - start) * last / (size - 1)
        position = start * last + ops.arange(size, dtype="float32") * step
    low, high = ops.floor(position), ops.ceil(position)
    return ops.cast(low, "int32"), ops.cast(high, "int32"), position - low
