"""Every head on every backbone, each with less of everything inside."""

import functools
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tests.backbones_test import KINDS, SMALL
from zoo import backbones
from zoo.backbones import efficientnet_b3, vgg16, vit_b16
from zoo.losses import BinaryCrossentropy
from zoo.models import baseline, csra

HEADS = {
    "csra": functools.partial(csra, num_heads=2),
    "gap": functools.partial(baseline, pooling="avg"),
    "gmp": functools.partial(baseline, pooling="max"),
}
NUM_CLASSES = 3


@functools.cache
def small(function):
    with mock.patch.multiple(backbones, **SMALL):
        return function(image_size=64)


def batch(num_images):
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (num_images, 64, 64, 3)).astype("float32")
    targets = rng.integers(0, 2, (num_images, NUM_CLASSES)).astype("float32")
    return images, targets


class BackbonesAndHeadsTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.product(function=KINDS, head=list(HEADS))
    def test_every_weight_that_the_head_reads_learns(self, function, head):
        model = HEADS[head](small(function), NUM_CLASSES)
        images, targets = batch(3)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = BinaryCrossentropy()(targets, logits)
        self.assertEqual(logits.shape, (3, NUM_CLASSES))
        self.assertEqual(logits.dtype, "float32")
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        for weight, gradient in zip(weights, gradients, strict=True):
            self.assertIsNotNone(gradient, weight.path)
            gradient = tf.convert_to_tensor(gradient)  # embeddings' are sparse
            self.assertTrue(np.isfinite(gradient).all(), weight.path)
            self.assertTrue(np.any(gradient), weight.path)
        self.assertEqual(model(images[:1]).shape, (1, NUM_CLASSES))

    @parameterized.parameters(*KINDS)
    def test_a_frozen_backbone_is_in_inference_mode(self, function):
        backbone = keras.models.clone_model(small(function))
        backbone.trainable = False
        images, _ = batch(2)
        training = backbone(images, training=True)
        keras.tree.map_structure(
            lambda x, y: self.assertAllClose(x, y, atol=1e-5),
            training,
            backbone(images, training=False),
        )

    @parameterized.parameters(vgg16, vit_b16, efficientnet_b3)
    @pytest.mark.by_hand
    def test_trained_model_is_saved(self, function):
        model = csra(small(function), NUM_CLASSES)
        before = [keras.ops.copy(w.value) for w in model.trainable_weights]
        model.compile(keras.optimizers.Adam(1e-3), BinaryCrossentropy())
        model.fit(*batch(4), batch_size=2, verbose=0)
        for old, weight in zip(before, model.trainable_weights, strict=True):
            self.assertNotAllEqual(old, weight, weight.path)
        path = f"{self.get_temp_dir()}/model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        images, _ = batch(3)
        self.assertAllEqual(loaded(images), model(images))
