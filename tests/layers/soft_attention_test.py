import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.layers import SoftAttention


def reference(v, h, w_v, w_h, w):
    """Chen et al. (2018), eqs. (4) and (5), one image, query and position."""
    contexts = np.zeros((len(v), h.shape[1], v.shape[2]))
    attention = np.zeros((len(v), h.shape[1], v.shape[1]))
    for b, image in enumerate(v):
        for q, query in enumerate(h[b]):
            e = [
                w @ np.tanh(w_v.T @ position + w_h.T @ query)
                for position in image
            ]
            attention[b, q] = np.exp(e) / np.exp(e).sum()
            for a, position in zip(attention[b, q], image, strict=True):
                contexts[b, q] += a * position
    return contexts, attention


def normal(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype("float32")


class SoftAttentionTest(parameterized.TestCase, tf.test.TestCase):
    def test_contract(self):
        shapes = [(3, 6, 7), (3, 2, 4)]
        check_layer(SoftAttention(5), shapes, self.get_temp_dir())

    def test_matches_paper(self):
        v, h = normal(2, 6, 7), normal(2, 3, 4, seed=1)
        layer = SoftAttention(5)
        context, attention = layer(v, h)
        w_v, w_h, w = layer.get_weights()
        expected = reference(v, h, w_v, w_h, w[:, 0])
        self.assertAllClose(context, expected[0], rtol=1e-5, atol=1e-6)
        self.assertAllClose(attention, expected[1], rtol=1e-5, atol=1e-6)

    def test_one_query_is_as_one_of_several(self):
        v, h = normal(2, 6, 7), normal(2, 3, 4, seed=1)
        layer = SoftAttention(5)
        contexts, attentions = layer(v, h)
        for q in range(3):
            context, attention = layer(v, h[:, q])
            self.assertAllClose(context, contexts[:, q])
            self.assertAllClose(attention, attentions[:, q])

    def test_keys_stand_for_the_projection(self):
        v, h = normal(2, 6, 7), normal(2, 4, seed=1)
        layer = SoftAttention(5)
        keys = layer.project(v)  # also before the first call
        expected = layer(v, h)
        self.assertLen(layer.weights, 3)
        self.assertAllClose(layer(v, h, keys), expected)
        self.assertAllClose(layer(v, h, keys=2 * keys), layer(v, h, 2 * keys))
        self.assertNotAllClose(layer(v, h, 2 * keys)[1], expected[1])

    @parameterized.parameters("mixed_bfloat16", "mixed_float16")
    def test_softmax_is_float32(self, dtype):
        # A weight of 1 / 5000 has three digits in half precision, so that
        # the sum over the positions would be off by percents.
        _, attention = SoftAttention(5, dtype=dtype)(
            normal(1, 5000, 7), normal(1, 4)
        )
        self.assertEqual(attention.dtype, tf.float32)
        self.assertAllClose(tf.reduce_sum(attention), 1.0, rtol=1e-5)

    def test_names_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "Received: units=0"):
            SoftAttention(0)
        good = (6, 7), (4,)
        for name, shapes in {
            "features_shape": ((6,), good[1]),
            "query_shape": (good[0], (2, 3, 4)),
        }.items():
            inputs = [keras.Input(shape) for shape in shapes]
            with self.assertRaisesRegex(ValueError, f"Received: {name}="):
                SoftAttention(5)(*inputs)
