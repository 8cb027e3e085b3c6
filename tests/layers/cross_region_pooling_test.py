import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.layers import CrossRegionPooling

EDGES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)


def reference(values, regions, edges):
    """Zhao et al. (2016), section 3.2, one bin and channel at a time."""
    batch, _, channels = values.shape
    z = np.zeros((batch, len(edges) + 1, channels))
    for b, s, k in np.ndindex(z.shape):
        low, high = (0, *edges, 1)[s : s + 2]
        members = []
        for value, (ymin, xmin, ymax, xmax) in zip(
            values[b, :, k], regions[b], strict=True
        ):
            if low < (ymax - ymin) * (xmax - xmin) <= high:
                members.append(value)
        if members:
            z[b, s, k] = max(members)
    return z.reshape(batch, -1)


def inputs(num_regions=40):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, num_regions, 2))
    corners = rng.uniform(0, 1, (3, num_regions, 2, 2))
    regions = np.sort(corners, axis=2).reshape(3, num_regions, 4)
    regions[:, -3:] = 0
    values[:, -3:] = 99
    return values.astype("float32"), regions.astype("float32")


def squares(*areas):
    """Gives regions of these areas: `(1, num_regions, 4)`."""
    return np.array([[[0, 0, a**0.5, a**0.5] for a in areas]], "float32")


class CrossRegionPoolingTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters((EDGES,), ((0.1,),), ((),))
    def test_contract(self, edges):
        shapes = [(2, 7, 3), (2, 7, 4)]
        layer = CrossRegionPooling(edges)
        check_layer(layer, shapes, self.get_temp_dir())

    @parameterized.parameters((EDGES,), ((0.1, 0.7),), ((),))
    def test_matches_paper(self, edges):
        values, regions = inputs()
        pooled = CrossRegionPooling(edges)(values, regions)
        self.assertAllClose(pooled, reference(values, regions, edges))

    def test_edge_belongs_to_the_smaller_bin(self):
        for s, edge in enumerate((*EDGES, 1.0)):
            for share in (1.0, 0.999, 0.501):
                pooled = CrossRegionPooling()(
                    np.full((1, 1, 1), 5.0), squares(share * edge)
                )
                self.assertAllEqual(pooled, 5 * np.eye(5)[None, s])

    def test_rounding_does_not_move_a_region_over_an_edge(self):
        # In float32 these areas of a quarter come out on both sides of it.
        rng = np.random.default_rng(0)
        height = rng.uniform(0.25, 1, (1, 1000))
        sides = np.stack([height, 0.25 / height], axis=-1)
        corners = (1 - sides) * rng.uniform(0, 1, sides.shape)
        regions = np.concatenate([corners, corners + sides], axis=-1)
        regions = regions.astype("float32")
        sides = regions[..., 2:] - regions[..., :2]
        areas = np.prod(sides, axis=-1)
        self.assertLess(np.min(areas), 0.25)
        self.assertGreater(np.max(areas), 0.25)
        values = np.ones((1, 1000, 1), "float32")
        pooled = CrossRegionPooling()(values, regions)
        self.assertAllEqual(pooled, [[0, 0, 0, 1, 0]])

    def test_padding_is_inert(self):
        values, regions = inputs()
        expected = CrossRegionPooling()(values[:, :-3], regions[:, :-3])
        values[:, -3:] = np.nan
        variable = tf.Variable(values)
        with tf.GradientTape() as tape:
            pooled = CrossRegionPooling()(variable, regions)
        self.assertAllEqual(pooled, expected)
        slope = tape.gradient(pooled, variable)
        self.assertAllEqual(slope[:, -3:], np.zeros((3, 3, 2)))
        self.assertAllEqual(tf.reduce_max(slope, axis=1), np.ones((3, 2)))

    def test_nothing_but_padding(self):
        values = tf.Variable(-np.ones((2, 4, 3), "float32"))
        with tf.GradientTape() as tape:
            pooled = CrossRegionPooling()(values, tf.zeros((2, 4, 4)))
        self.assertAllEqual(pooled, np.zeros((2, 15)))
        self.assertAllEqual(tape.gradient(pooled, values), tf.zeros((2, 4, 3)))
        none = CrossRegionPooling()(tf.zeros((2, 0, 3)), tf.zeros((2, 0, 4)))
        self.assertAllEqual(none, np.zeros((2, 15)))

    @parameterized.parameters("mixed_bfloat16", "mixed_float16")
    def test_bins_do_not_depend_on_precision(self, dtype):
        values, regions = inputs()
        pooled = CrossRegionPooling(dtype=dtype)(values, regions)
        expected = CrossRegionPooling()(values, regions)
        self.assertDTypeEqual(pooled, dtype.removeprefix("mixed_"))
        self.assertAllEqual(pooled, tf.cast(expected, pooled.dtype))

    def test_names_bad_arguments(self):
        for edges in ((0.5, 0.25), (0.0,), (1.0,), (0.5, 0.5)):
            with self.assertRaisesRegex(ValueError, "Received: edges="):
                CrossRegionPooling(edges)
        good = (5, 3), (5, 4)
        for name, shapes in {
            "values_shape": ((5, None), good[1]),
            "regions_shape": (good[0], (5, 3)),
        }.items():
            arguments = [keras.Input(shape) for shape in shapes]
            with self.assertRaisesRegex(ValueError, f"Received: {name}="):
                CrossRegionPooling()(*arguments)
