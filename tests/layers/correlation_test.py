import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from tests.contract import check_layer
from zoo.layers import Correlation

SHAPES = [(2, 3, 4, 6), (2, 3, 4, 7), (2, 3, 4, 5)]  # query, key, value


def reference(query, key, value, theta, phi, g):
    """Yan et al. (2019), eqs. (4) and (5), one position at a time."""
    batch, height, width, _ = query.shape
    y = np.zeros((batch, height * width, g.shape[-1]))
    for b in range(batch):
        x_query, x_key, x_value = (
            x[b].reshape(height * width, -1) for x in (query, key, value)
        )
        for i in range(height * width):
            weights = np.array(
                [np.exp((x_query[i] @ theta) @ (x @ phi)) for x in x_key]
            )
            for weight, x in zip(weights / weights.sum(), x_value, strict=True):
                y[b, i] += weight * (x @ g)
    return y.reshape(batch, height, width, -1)


def maps():
    rng = np.random.default_rng(0)
    return [rng.normal(size=s).astype("float32") for s in SHAPES]


class CorrelationTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters((8, False), (5, True))
    def test_contract(self, dim, residual):
        layer = Correlation(dim, residual)
        check_layer(layer, SHAPES, self.get_temp_dir())

    def test_matches_paper(self):
        layer = Correlation(8)
        result = layer(*maps())
        expected = reference(*maps(), *layer.get_weights())
        self.assertAllClose(result, expected, rtol=1e-4, atol=1e-5)

    def test_residual_adds_the_value(self):
        plain, residual = Correlation(5), Correlation(5, residual=True)
        expected = plain(*maps()) + maps()[2]
        residual.build(*SHAPES)
        residual.set_weights(plain.get_weights())
        self.assertAllClose(residual(*maps()), expected, rtol=1e-5)

    def test_any_order_of_keys_and_values(self):
        query, key, value = maps()
        layer = Correlation(8)
        turned = layer(query, key[:, ::-1, ::-1], value[:, ::-1, ::-1])
        self.assertAllClose(turned, layer(query, key, value), rtol=1e-4)

    def test_one_position(self):
        query, key, value = (x[:1, :1, :1] for x in maps())
        layer = Correlation(8)
        expected = layer(query, key, value)
        self.assertAllClose(layer(-query, key, value), expected)
        self.assertAllClose(expected, layer.value(value), rtol=1e-5)

    @parameterized.parameters("mixed_bfloat16", "mixed_float16")
    def test_half_precision_has_the_softmax_of_float32(self, dtype):
        layer = Correlation(2, dtype=dtype)
        layer.build(*[(1, 1, 2, 2)] * 3)
        layer.set_weights([np.eye(2)] * 3)
        query = np.array([[64.0, 1.0], [64.0, 1.0]]).reshape(1, 1, 2, 2)
        # Scores of 4096 and 4097, which half precision cannot tell apart.
        key = np.array([[64.0, 0.0], [64.0, 1.0]]).reshape(1, 1, 2, 2)
        value = np.array([[0.0, 0.0], [1.0, 1.0]]).reshape(1, 1, 2, 2)
        result = ops.cast(layer(query, key, value), "float32")
        expected = np.full((1, 1, 2, 2), 1 / (1 + np.exp(-1)))
        self.assertAllClose(result, expected, atol=4e-3)

    def test_names_bad_maps(self):
        for shapes in (
            ((3, 4, 6), (3, 5, 6), (3, 4, 6)),
            ((3, 4, 6), (3, 4, None), (3, 4, 6)),
            ((6,), (6,), (6,)),
        ):
            with self.assertRaisesRegex(ValueError, "Received: query_shape="):
                Correlation(8)(*[keras.Input(shape) for shape in shapes])
        with self.assertRaisesRegex(ValueError, "Received: dim=0"):
            Correlation(0)
        with self.assertRaisesRegex(ValueError, "Received: value_shape="):
            Correlation(8, residual=True)(*maps())
