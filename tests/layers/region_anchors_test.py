import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.layers import RegionAnchors

SCALES, RATIOS = (0.2, 0.5), (2.0, 1.0, 0.5)


def reference(locations, scales, ratios):
    """Lays one region at a time."""
    regions = np.zeros((len(locations), len(scales) * len(ratios), 4))
    for b, (y, x) in enumerate(locations):
        r = 0
        for scale in scales:
            for ratio in ratios:
                height, width = scale * ratio**0.5, scale / ratio**0.5
                regions[b, r] = (
                    max(0, min(1, y - height / 2)),
                    max(0, min(1, x - width / 2)),
                    max(0, min(1, y + height / 2)),
                    max(0, min(1, x + width / 2)),
                )
                r += 1
    return regions


class RegionAnchorsTest(parameterized.TestCase, tf.test.TestCase):
    def test_contract(self):
        layer = RegionAnchors(SCALES, RATIOS)
        check_layer(layer, (3, 2), self.get_temp_dir())

    def test_matches_reference(self):
        locations = np.random.default_rng(0).uniform(-0.1, 1.1, (9, 2))
        regions = RegionAnchors(SCALES, RATIOS)(locations.astype("float32"))
        self.assertEqual(regions.shape, (9, 6, 4))
        self.assertAllClose(regions, reference(locations, SCALES, RATIOS))

    def test_sides_are_those_of_the_paper(self):
        # 80 pixels of 512 at a ratio of 2: 113 high, 57 wide, 80 squared.
        layer = RegionAnchors((80 / 512,), (2.0,))
        ymin, xmin, ymax, xmax = 512 * layer(tf.constant([[0.5, 0.5]]))[0, 0]
        self.assertAllClose(ymax - ymin, 80 * 2**0.5, rtol=1e-5)
        self.assertAllClose(xmax - xmin, 80 / 2**0.5, rtol=1e-5)

    def test_gradient_reaches_the_location(self):
        location = tf.Variable([[0.5, 0.5]])
        with tf.GradientTape() as tape:
            regions = RegionAnchors(SCALES, RATIOS)(location)
            loss = tf.reduce_sum(regions, axis=(0, 1))[0]  # of every ymin
        self.assertAllClose(tape.gradient(loss, location), [[6.0, 0.0]])

    @parameterized.parameters("mixed_bfloat16", "mixed_float16")
    def test_regions_are_float32(self, dtype):
        layer = RegionAnchors(SCALES, RATIOS, dtype=dtype)
        regions = layer(tf.constant([[0.3001, 0.7003]]))
        self.assertDTypeEqual(regions, "float32")
        expected = RegionAnchors(SCALES, RATIOS)(
            tf.constant([[0.3001, 0.7003]])
        )
        self.assertAllEqual(regions, expected)

    def test_names_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "Received: scales="):
            RegionAnchors((), RATIOS)
        with self.assertRaisesRegex(ValueError, "Received: ratios="):
            RegionAnchors(SCALES, (1.0, 0.0))
        with self.assertRaisesRegex(ValueError, "Received: locations_shape="):
            RegionAnchors(SCALES, RATIOS)(tf.zeros((2, 3)))
