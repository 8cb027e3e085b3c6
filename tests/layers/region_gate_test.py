import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.layers import RegionGate

SHAPES = [(2, 5, 3), (2, 5, 7)]  # scores, representation


def reference(x, u, kernel, bias):
    """Zhao et al. (2016), eq. (2), one region at a time."""
    gated, gates = np.zeros(x.shape), np.zeros((*x.shape[:2], 1))
    for b, i in np.ndindex(x.shape[:2]):
        v = sum(u[b, i] * kernel[:, 0]) + bias[0]
        gates[b, i] = a = 1 / (1 + np.exp(-v))
        gated[b, i] = a * x[b, i]
    return gated, gates


def inputs():
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype("float32") for shape in SHAPES]


class RegionGateTest(parameterized.TestCase, tf.test.TestCase):
    def test_contract(self):
        check_layer(RegionGate(), SHAPES, self.get_temp_dir())

    def test_matches_paper(self):
        layer = RegionGate()
        layer.build(*SHAPES)
        layer.set_weights([w + 0.3 for w in layer.get_weights()])
        gated, gate = layer(*inputs())
        expected = reference(*inputs(), *layer.get_weights())
        self.assertAllClose(gated, expected[0], rtol=1e-5)
        self.assertAllClose(gate, expected[1], rtol=1e-5)

    @parameterized.parameters((20.0, 1.0), (-20.0, 0.0))
    def test_open_and_closed(self, bias, expected):
        layer = RegionGate()
        layer.build(*SHAPES)
        layer.set_weights([np.zeros((7, 1)), np.array([bias])])
        scores, representation = inputs()
        gated, gate = layer(scores, representation)
        self.assertAllClose(gate, np.full((2, 5, 1), expected))
        self.assertAllClose(gated, expected * scores)

    @parameterized.parameters(
        ((2, 3), (2, 5, 7), "Received: scores_shape=.2, 3."),
        ((2, 5, None), (2, 5, 7), "Received: scores_shape=.2, 5, None."),
        ((2, 5, 3), (2, 7), "Received: representation_shape=.2, 7."),
    )
    def test_names_bad_shapes(self, scores, representation, message):
        with self.assertRaisesRegex(ValueError, message):
            RegionGate().build(scores, representation)
