"""The multi-scale pooling of RGNN, over the regions of an image."""

import itertools

import keras
from keras import ops

# Coordinates in float32 put an area at most 2e-7 beside its true value.
_TOLERANCE = 1e-6


@keras.saving.register_keras_serializable(package="zoo")
class CrossRegionPooling(keras.layers.Layer):
    """Takes the maximum over the regions of each size, and chains the sizes.

    Formula, from Zhao et al. (2016), https://doi.org/10.5244/C.30.72, section
    3.2, where a region `i` is in bin `s` by its share of the image's area:

        z[s, k] = max {x[i, k] : edges[s - 1] < area[i] <= edges[s]}

    with 0 before the first edge and 1 after the last one. A bin without a
    region is 0. A region without an area is in no bin, nor is padding.

    Args:
        edges: tuple of float, increasing, between 0 and 1: where one bin ends
            and the next begins. Five bins are the paper's; none, `()`, make
            a single bin (its Table 1).

    Call arguments:
        values: Float tensor of shape `(batch, num_regions, channels)`.
        regions: Float tensor of shape `(batch, num_regions, 4)`: ymin, xmin,
            ymax, xmax, 0 to 1 of the image. A row of zeros is padding.

    Returns:
        Float tensor of shape `(batch, (len(edges) + 1) * channels)`, small
        regions first.

    Raises:
        ValueError: If `edges` are not as above, or a shape is not as above
            with known channels.

    Example:

    >>> values = ops.array([[[1.0], [2.0], [3.0], [9.0]]])
    >>> small, large, padding = [0, 0, 0.1, 0.1], [0, 0, 1, 1], [0, 0, 0, 0]
    >>> regions = ops.array([[small, small, large, padding]], "float32")
    >>> CrossRegionPooling()(values, regions).numpy().tolist()
    [[2.0, 0.0, 0.0, 0.0, 3.0]]
    """

    def __init__(self, edges=(1 / 32, 1 / 16, 1 / 8, 1 / 4), **kwargs):
        # Half precision would move areas across the edges.
        super().__init__(autocast=False, **kwargs)
        edges = tuple(edges)
        if any(a >= b for a, b in itertools.pairwise((0, *edges, 1))):
            raise ValueError(
                "`edges` must increase and lie between 0 and 1. "
                f"Received: edges={edges}"
            )
        self.edges = edges

    def build(self, values_shape, regions_shape):
        if len(values_shape) != 3 or values_shape[-1] is None:
            raise ValueError(
                "`CrossRegionPooling` expects values of shape `(batch, "
                "num_regions, channels)` with known channels. "
                f"Received: values_shape={values_shape}"
            )
        if len(regions_shape) != 3 or regions_shape[-1] != 4:
            raise ValueError(
                "`CrossRegionPooling` expects regions of shape `(batch, "
                f"num_regions, 4)`. Received: regions_shape={regions_shape}"
            )

    def call(self, values, regions):
        values = ops.cast(values, self.compute_dtype)
        sides = regions[..., 2:] - regions[..., :2]
        area = ops.prod(ops.cast(sides, "float32"), axis=-1)
        ends = [edge + _TOLERANCE for edge in self.edges]
        bins = itertools.pairwise((0.0, *ends, float("inf")))
        members = [(area > low) & (area <= high) for low, high in bins]
        members = ops.stack(members, axis=1)[..., None]  # (B, bins, R, 1)
        pooled = ops.where(members, values[:, None], -float("inf"))
        # `initial` for images without any region.
        pooled = ops.max(pooled, axis=2, initial=-float("inf"))  # (B, bins, C)
        pooled = ops.where(ops.any(members, axis=2), pooled, 0.0)
        return ops.reshape(
            pooled, (-1, (len(self.edges) + 1) * values.shape[-1])
        )

    def get_config(self):
        return {**super().get_config(), "edges": self.edges}
