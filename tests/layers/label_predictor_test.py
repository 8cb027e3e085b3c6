import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.layers import LabelPredictor


def reference(x, w_1, b_1, w_2, b_2):
    """Two dense layers, one row and one unit at a time."""
    logits = np.zeros((len(x), len(b_2)))
    for row, inputs in enumerate(x):
        hidden = [
            max(0, inputs @ w_1[:, unit] + b_1[unit])
            for unit in range(len(b_1))
        ]
        for k in range(len(b_2)):
            logits[row, k] = hidden @ w_2[:, k] + b_2[k]
    return logits


def inputs():
    return np.random.default_rng(0).normal(size=(4, 6)).astype("float32")


class LabelPredictorTest(parameterized.TestCase, tf.test.TestCase):
    def test_contract(self):
        layer = LabelPredictor(64, 5, dropout=0.3)
        check_layer(layer, (4, 3, 6), self.get_temp_dir())

    def test_matches_paper(self):
        layer = LabelPredictor(8, 5)
        layer.build((None, 6))
        rng = np.random.default_rng(1)
        layer.set_weights([rng.normal(size=w.shape) for w in layer.weights])
        expected = reference(inputs(), *layer.get_weights())
        self.assertAllClose(layer(inputs()), expected, rtol=1e-5, atol=1e-5)

    def test_drops_its_share_in_training_only(self):
        layer = LabelPredictor(1, 1, dropout=0.8)
        layer.build((None, 6))
        layer.set_weights([np.ones(w.shape) for w in layer.weights])
        x = np.zeros((4000, 6))
        self.assertAllEqual(layer(x), np.full((4000, 1), 2))
        logits = layer(x, training=True).numpy()
        dropped = logits == 1  # the second bias alone
        self.assertAllClose(dropped.mean(), 0.8, atol=0.05)
        self.assertAllClose(logits[~dropped], np.full((~dropped).sum(), 6))

    @parameterized.parameters("mixed_bfloat16", "mixed_float16")
    def test_logits_are_float32(self, dtype):
        logits = LabelPredictor(8, 5, dtype=dtype)(inputs())
        self.assertEqual(logits.dtype, tf.float32)

    def test_names_a_bad_argument(self):
        for name, value in (
            ("units", 0),
            ("num_classes", 0),
            ("dropout", 1),
            ("dropout", -0.1),
        ):
            arguments = {"units": 8, "num_classes": 5, name: value}
            with self.assertRaisesRegex(
                ValueError, f"Received: {name}={value}"
            ):
                LabelPredictor(**arguments)
