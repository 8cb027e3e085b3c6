import keras
import numpy as np
import tensorflow as tf

from tests.contract import check_layer
from zoo.layers import FeatureTransform


def convolve(x, kernel, bias=0.0):
    """A convolution with zeros around `x`, one position at a time."""
    size = len(kernel)
    padded = np.pad(x, ((size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    y = np.zeros((*x.shape[:2], kernel.shape[-1]))
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            window = padded[i : i + size, j : j + size]
            y[i, j] = np.tensordot(window, kernel, 3) + bias
    return y


def reference(x, weights, epsilon):
    """Yan et al. (2019), Fig. 3 (b), one image at a time."""
    k0, b0, k1, gamma, beta, mean, variance, k2, b2 = weights
    result = []
    for image in x:
        u = convolve(image, k0, b0)
        y = (convolve(u, k1) - mean) / np.sqrt(variance + epsilon)
        y = np.maximum(gamma * y + beta, 0)
        result.append(np.maximum(u + convolve(y, k2, b2), 0))
    return np.stack(result)


def features():
    return np.random.default_rng(0).normal(size=(2, 3, 4, 6)).astype("float32")


class FeatureTransformTest(tf.test.TestCase):
    def test_contract(self):
        check_layer(FeatureTransform(5), (2, 3, 4, 6), self.get_temp_dir())

    def test_matches_paper(self):
        layer = FeatureTransform(5)
        layer.build((None, None, None, 6))
        rng = np.random.default_rng(1)
        parts = (layer.project, layer.conv_1, layer.norm, layer.conv_2)
        for part in parts:
            # Above 0, since one of them is a variance.
            part.set_weights(
                [
                    w + rng.uniform(0.1, 1, w.shape)
                    if w.ndim == 1
                    else rng.normal(size=w.shape)
                    for w in part.get_weights()
                ]
            )
        weights = [w for part in parts for w in part.get_weights()]
        self.assertLen(weights, 9)
        expected = reference(features(), weights, layer.norm.epsilon)
        self.assertAllClose(layer(features()), expected, rtol=1e-4, atol=1e-4)
        self.assertEqual(expected.min(), 0)

    def test_training_uses_and_moves_the_statistics(self):
        layer = FeatureTransform(5)
        inference = layer(features())
        before = keras.ops.copy(layer.norm.moving_variance.value)
        training = layer(features(), training=True)
        self.assertNotAllClose(training, inference)
        self.assertNotAllClose(layer.norm.moving_variance, before)

    def test_names_a_bad_dim(self):
        with self.assertRaisesRegex(ValueError, "Received: dim=0"):
            FeatureTransform(0)
