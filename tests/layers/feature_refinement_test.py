import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from tests.contract import check_layer
from zoo.layers import FeatureRefinement

HIGH, LOW = (2, 2, 3, 4), (2, 4, 6, 5)  # shapes


def reference(high, low, w1, b1, w2, b2, pool):
    """Yan et al. (2019), eqs. (1) to (3), one image and channel at a time."""
    refined = np.empty_like(low)
    for image in range(len(low)):
        channels = [*np.moveaxis(high[image], -1, 0)]
        channels += [*np.moveaxis(low[image], -1, 0)]
        z = np.array([pool(channel) for channel in channels])
        w = np.maximum(z @ w1 + b1, 0) @ w2 + b2
        for c, weight in enumerate(w):
            gate = 1 / (1 + np.exp(-weight))
            refined[image, :, :, c] = gate * low[image, :, :, c]
    return refined


def maps():
    rng = np.random.default_rng(0)
    return [rng.normal(size=s).astype("float32") for s in (HIGH, LOW)]


class FeatureRefinementTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(("max", 7), ("avg", None))
    def test_contract(self, pooling, hidden_units):
        layer = FeatureRefinement(pooling, hidden_units)
        check_layer(layer, [HIGH, LOW], self.get_temp_dir())

    @parameterized.parameters(("max", np.max), ("avg", np.mean))
    def test_matches_paper(self, pooling, pool):
        layer = FeatureRefinement(pooling, hidden_units=7)
        layer.build(HIGH, LOW)
        rng = np.random.default_rng(1)
        weights = [rng.normal(size=w.shape) for w in layer.get_weights()]
        layer.set_weights(weights)
        expected = reference(*maps(), *weights, pool)
        self.assertAllClose(layer(*maps()), expected, rtol=1e-5, atol=1e-6)

    def test_hidden_units(self):
        for hidden_units, expected in ((None, 5), (7, 7)):
            layer = FeatureRefinement(hidden_units=hidden_units)
            layer.build(HIGH, LOW)
            self.assertEqual(layer.hidden.kernel.shape, (9, expected))

    def test_gates_do_not_compete(self):
        # Unlike with the softmax that eq. (8) prints.
        layer = FeatureRefinement()
        high, low = maps()
        layer.build(HIGH, LOW)
        layer.gate.bias.assign(ops.full((5,), 1e3))
        self.assertAllClose(layer(high, low), low)
        layer.gate.bias.assign(ops.full((5,), -1e3))
        self.assertAllClose(layer(high, low), ops.zeros_like(low))

    def test_names_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "Received: pooling='mean'"):
            FeatureRefinement("mean")
        with self.assertRaisesRegex(ValueError, "Received: hidden_units=0"):
            FeatureRefinement(hidden_units=0)
        for high, low in (((4,), LOW[1:]), (HIGH[1:], (4, 6, None))):
            with self.assertRaisesRegex(ValueError, "Received: high_shape="):
                FeatureRefinement()(keras.Input(high), keras.Input(low))
