import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.layers import FeatureGate

SHAPES = [(2, 5, 3), (2, 5, 7)]  # scores, representation


def reference(x, u, kernel, bias):
    """Zhao et al. (2016), eq. (4), one score of a region at a time."""
    gated, gates = np.zeros(x.shape), np.zeros(x.shape)
    for b, i, k in np.ndindex(x.shape):
        v = sum(u[b, i] * kernel[:, k]) + bias[k]
        gates[b, i, k] = a = 1 / (1 + np.exp(-v))
        gated[b, i, k] = a * x[b, i, k]
    return gated, gates


def inputs():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES]


class FeatureGateTest(parameterized.TestCase, tf.test.TestCase):
    def test_contract(self):
        check_layer(FeatureGate(), SHAPES, self.get_temp_dir())

    def test_matches_paper(self):
        layer = FeatureGate()
        layer.build(*SHAPES)
        layer.set_weights([w + 0.3 for w in layer.get_weights()])
        gated, gate = layer(*inputs())
        expected = reference(*inputs(), *layer.get_weights())
        self.assertAllClose(gated, expected[0], rtol=1e-5)
        self.assertAllClose(gate, expected[1], rtol=1e-5)

    @parameterized.parameters((20.0, 1.0), (-20.0, 0.0))
    def test_open_and_closed(self, bias, expected):
        layer = FeatureGate()
        layer.build(*SHAPES)
        layer.set_weights([np.zeros((7, 3)), np.full(3, bias)])
        scores, representation = inputs()
        gated, gate = layer(scores, representation)
        self.assertAllClose(gate, np.full((2, 5, 3), expected))
        self.assertAllClose(gated, expected * scores)

    @parameterized.parameters(
        ((2, 3), (2, 5, 7), "Received: scores_shape=.2, 3."),
        ((2, 5, None), (2, 5, 7), "Received: scores_shape=.2, 5, None."),
        ((2, 5, 3), (2, 7), "Received: representation_shape=.2, 7."),
    )
    def test_names_bad_shapes(self, scores, representation, message):
        with self.assertRaisesRegex(ValueError, message):
            FeatureGate().build(scores, representation)
