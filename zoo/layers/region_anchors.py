"""Regions of several sizes and shapes around a location."""

import math

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="zoo")
class RegionAnchors(keras.layers.Layer):
    """Lays a region of each scale and ratio around a location.

    As in Chen et al. (2018), https://arxiv.org/abs/1712.07465, "Implementation
    details":

        height = scale * sqrt(ratio)
        width  = scale / sqrt(ratio)

    so that `scale**2` is the region's area and `ratio` its height over its
    width. What lies outside of the image is cut off.

    Args:
        scales: tuple of float, above 0. Roots of the areas, as shares of the
            image's side. The paper's 80, 160 and 320 pixels of a view of 448
            are `(80 / 448, 160 / 448, 320 / 448)`.
        ratios: tuple of float, above 0. The paper's are `(2, 1, 1 / 2)`.

    Call arguments:
        locations: Float tensor of shape `(batch, 2)`: y and x of the middle,
            0 to 1 of the image.

    Returns:
        Float32 tensor of shape `(batch, len(scales) * len(ratios), 4)`, also
        under mixed precision: ymin, xmin, ymax, xmax, 0 to 1. All ratios of a
        scale stand together.

    Raises:
        ValueError: If `scales` or `ratios` is empty or not above 0, or
            `locations` is not of shape `(batch, 2)`.

    Example:

    >>> anchors = RegionAnchors(scales=(0.25, 0.5), ratios=(4.0, 1.0))
    >>> anchors(ops.array([[0.5, 0.125]]))[0].numpy().tolist()[:2]
    [[0.25, 0.0625, 0.75, 0.1875], [0.375, 0.0, 0.625, 0.25]]
    """

    def __init__(self, scales, ratios, **kwargs):
        # Half precision would move the regions by whole pixels.
        super().__init__(autocast=False, **kwargs)
        for name, values in (("scales", scales), ("ratios", ratios)):
            if not values or min(values) <= 0:
                raise ValueError(
                    f"`{name}` must be numbers above 0. "
                    f"Received: {name}={values}"
                )
        self.scales = tuple(scales)
        self.ratios = tuple(ratios)

    def build(self, locations_shape):
        if len(locations_shape) != 2 or locations_shape[-1] != 2:
            raise ValueError(
                "`RegionAnchors` expects locations of shape `(batch, 2)`. "
                f"Received: locations_shape={locations_shape}"
            )

    def call(self, locations):
        sides = [
            (scale * math.sqrt(ratio), scale / math.sqrt(ratio))
            for scale in self.scales
            for ratio in self.ratios
        ]
        half = np.array(sides, "float32") / 2  # (R, 2)
        middle = ops.cast(locations, "float32")[:, None]  # (B, 1, 2)
        regions = ops.concatenate([middle - half, middle + half], axis=-1)
        return ops.clip(regions, 0, 1)

    def get_config(self):
        return {
            **super().get_config(),
            "scales": self.scales,
            "ratios": self.ratios,
        }
