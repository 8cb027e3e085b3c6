"""ROI pooling: the strongest features of each region, on a fixed grid."""

import itertools

import keras
from keras import ops

from zoo.layers.roi_crop_and_resize import RoiCropAndResize

_CHUNKS = 6


@keras.saving.register_keras_serializable(package="zoo")
class RoiPooling(keras.layers.Layer):
    """Pools a feature map to one size in each region.

    A crop of twice the size, whose points are bilinear, and the maximum of
    each 2 x 2 of them: as Girshick (2015), https://arxiv.org/abs/1504.08083,
    but without rounding a region to whole pixels.

    The crop is four times as large as what comes out: 0.45 GiB for 300 regions
    of 4 images at 14 x 14 x 512. So where that of a region takes more than 64
    KiB the regions go in six chunks, none of which keeps its crop: the
    backward pass crops again, which is little beside what VGG's FC6 takes on
    the result. A training step of both peaks at 3.6 GiB, not 4.1. Small crops
    go all at once, which is faster. `tests/benchmarks/region_benchmark.py`
    measures both.

    Args:
        size: int. Height and width of what comes out, at least 1.

    Call arguments:
        features: Float tensor of shape `(batch, height, width, channels)`.
        regions: Float tensor of shape `(batch, num_regions, 4)`: ymin, xmin,
            ymax, xmax, 0 to 1 of the image, as `RoiCropAndResize` takes them.
            A row of zeros is padding.

    Returns:
        Float tensor of shape `(batch, num_regions, size, size, channels)`. It
        is 0 for padding.

    Raises:
        ValueError: If `size` is below 1, or a shape is not as above with
            known channels.

    Example:

    >>> regions = ops.array([[[0.0, 0.0, 1.0, 1.0], [0.2, 0.1, 0.7, 0.5]]])
    >>> tuple(RoiPooling(size=7)(ops.ones((1, 14, 14, 64)), regions).shape)
    (1, 2, 7, 7, 64)
    """

    _LARGE_CROP = 2**14  # numbers, of one region: 64 KiB

    def __init__(self, size, **kwargs):
        # Half precision would move the regions by whole pixels.
        super().__init__(autocast=False, **kwargs)
        if size < 1:
            raise ValueError(
                f"`size` must be at least 1. Received: size={size}"
            )
        self.size = size
        self.crop = RoiCropAndResize(
            2 * size, dtype=self.dtype_policy, name="crop"
        )

    def build(self, features_shape, regions_shape):
        self.crop.build(features_shape, regions_shape)

    def call(self, features, regions):
        if (2 * self.size) ** 2 * features.shape[-1] <= self._LARGE_CROP:
            return self._pool(features, regions)[1]
        pool = keras.remat(self._pool)
        num_regions = ops.shape(regions)[1]
        count = min(_CHUNKS, regions.shape[1] or _CHUNKS)
        ends = [num_regions * i // count for i in range(count + 1)]
        chunks = []
        for start, end in itertools.pairwise(ends):
            # A chunk hands the features on, so that the chunks wait for one
            # another, forward and backward: one crop is in memory at a time.
            features, pooled = pool(features, regions[:, start:end])
            chunks.append(pooled)
        return ops.concatenate(chunks, axis=1)

    def _pool(self, features, regions):
        # TensorFlow ends the process at the gradient of pooling nothing, and
        # there may be no regions: the first one is padding.
        regions = ops.pad(regions, ((0, 0), (1, 0), (0, 0)))
        crops = self.crop(features, regions)
        batch, num_regions, *sides = ops.shape(crops)
        # Strides too, or Keras 3.15 makes wrong ones for JAX.
        pooled = ops.max_pool(ops.reshape(crops, (-1, *sides)), 2, strides=2)
        # Flat and by `ops.slice`: TensorFlow's gradient of `[:, 1:]` on five
        # axes would take longer than all the rest.
        depth = self.size**2 * sides[-1]
        pooled = ops.reshape(pooled, (batch, num_regions, depth))
        pooled = ops.slice(pooled, (0, 1, 0), (batch, num_regions - 1, depth))
        shape = (batch, num_regions - 1, self.size, self.size, sides[-1])
        return features, ops.reshape(pooled, shape)

    def compute_output_shape(self, features_shape, regions_shape):
        size = (self.size, self.size)
        return (*regions_shape[:2], *size, features_shape[-1])

    def get_config(self):
        return {**super().get_config(), "size": self.size}
