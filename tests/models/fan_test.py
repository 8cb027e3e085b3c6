import functools
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from tests.backbones_test import SMALL
from tests.models.backbones_and_heads_test import batch, small
from zoo import backbones
from zoo.backbones import resnet101, tiny, vgg16, vit_b16
from zoo.losses import BinaryCrossentropy
from zoo.models import baseline, fan
from zoo.models.fan import explain

NUM_CLASSES, DIM = 3, 16
SWITCHES = (
    {},
    {"pooling": "avg"},
    {"refinement": False},
    {"correlation": False},
    {"residual": True},
    {"refinement": False, "correlation": False, "pooling": "avg"},
)


@functools.cache
def pyramid(size=64):
    """A backbone without weights: every 8th, 16th and 32nd pixel."""
    image = keras.Input((size, size, 3))
    levels = {
        f"P{level}": keras.layers.MaxPooling2D(1, strides=2**level)(image)
        for level in (3, 4, 5)
    }
    return keras.Model(image, levels)


@functools.cache
def build(backbone, **switches):
    return fan(backbone, NUM_CLASSES, dim=DIM, **switches)


def pixels(size=64):
    images = np.random.default_rng(0).normal(size=(3, size, size, 3))
    return images.astype("float32")


def head_weights(**switches):
    """The number of weights of the head, counted from Table 5's parts."""
    inputs = (3, 3, 3)  # channels of `pyramid`

    def dense(a, b):
        return (a + 1) * b

    if switches.get("refinement", True):
        block = 2 * 9 * DIM**2 + DIM + 4 * DIM  # convolutions, bias, norm
        count = sum(dense(a, DIM) + block for a in (*inputs, DIM))
        count += 2 * (dense(2 * DIM, DIM) + dense(DIM, DIM))
    else:
        count = sum(dense(a, DIM) for a in inputs)
    if switches.get("correlation", True):
        return count + 3 * DIM**2 + dense(DIM, NUM_CLASSES)
    return count + 3 * dense(DIM, NUM_CLASSES)


class FanTest(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        keras.utils.set_random_seed(0)

    @parameterized.parameters(
        *[(function, {}) for function in (resnet101, vgg16, tiny)],
        *[(None, switches) for switches in SWITCHES],
    )
    def test_every_weight_gets_a_gradient(self, function, switches):
        model = build(small(function) if function else pyramid(), **switches)
        images, targets = batch(3)
        if function is None:
            images = pixels()
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = BinaryCrossentropy()(targets, logits)
        self.assertEqual(logits.shape, (3, NUM_CLASSES))
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        for weight, gradient in zip(weights, gradients, strict=True):
            self.assertIsNotNone(gradient, weight.path)
            self.assertTrue(np.isfinite(gradient).all(), weight.path)
            self.assertTrue(np.any(gradient), weight.path)

    @parameterized.parameters(*SWITCHES)
    def test_every_switch_has_its_weights(self, **switches):
        model = build(pyramid(), **switches)
        self.assertEqual(model.count_params(), head_weights(**switches))
        paths = {weight.path for weight in model.weights}
        self.assertLen(paths, len(model.weights))

    # Those that keep the layers, and so the weights; tests of the structure
    # below tell the others.
    @parameterized.parameters({"pooling": "avg"}, {"residual": True})
    def test_a_switch_changes_the_logits(self, **switches):
        plain, other = build(pyramid()), build(pyramid(), **switches)
        shared = {layer.name for layer in plain.layers}
        for layer in other.layers:
            if layer.name in shared:
                layer.set_weights(plain.get_layer(layer.name).get_weights())
        self.assertNotAllClose(plain(pixels()), other(pixels()), rtol=1e-3)

    @parameterized.parameters(("max", ops.max), ("avg", ops.mean))
    def test_refines_from_the_top_down(self, pooling, pool):
        model = build(pyramid(), pooling=pooling)
        for name in ("refine_p4", "refine_p3"):
            self.assertEqual(model.get_layer(name).pooling, pooling)
        names = ("transform_p5", "shrink_p4", "shrink_p3_2")
        levels = [model.get_layer(name).output for name in names]
        p5, p4, p3 = keras.Model(model.input, levels)(pixels())
        p4 = model.get_layer("refine_p4")(p5, p4)
        p3 = model.get_layer("refine_p3")(p4, p3)
        correlated = model.get_layer("correlation")(p4, p3, p5)
        pooled = pool(correlated, axis=(1, 2))
        expected = model.get_layer("classifier_correlation")(pooled)
        self.assertAllClose(model(pixels()), expected, rtol=1e-5)

    def test_transforms_before_each_pooling(self):
        model = build(pyramid())
        p3 = pyramid()(pixels())["P3"]
        for i in (1, 2):
            p3 = model.get_layer(f"transform_p3_{i}")(p3)
            p3 = tf.nn.avg_pool2d(p3, 2, 2, "VALID")
        output = model.get_layer("shrink_p3_2").output
        level = keras.Model(model.input, output)(pixels())
        self.assertAllClose(level, p3, rtol=1e-5)

    def test_without_refinement_levels_are_pooled_and_projected(self):
        model = build(pyramid(), refinement=False)
        features = pyramid()(pixels())
        for level, factor in (("p3", 4), ("p4", 2), ("p5", 1)):
            project = model.get_layer(f"project_{level}")
            kernel, bias = project.get_weights()
            x = features[level.upper()].numpy() @ kernel[0, 0] + bias
            x = x.reshape(3, 2, factor, 2, factor, DIM).mean(axis=(2, 4))
            y = keras.Model(model.input, project.output)(pixels())
            self.assertAllClose(y, x, rtol=1e-4, atol=1e-5)

    def test_vgg_has_its_own_fifth_pooling(self):
        backbone = small(vgg16)
        model = build(backbone, refinement=False)
        images, _ = batch(2)
        p5 = keras.Model(model.input, model.get_layer("pool5").output)(images)
        p4 = ops.convert_to_numpy(backbone(images)["P4"])  # (2, 4, 4, 8)
        expected = p4.reshape(2, 2, 2, 2, 2, -1).max(axis=(2, 4))
        self.assertAllClose(p5, expected)

    @parameterized.parameters(*SWITCHES)
    def test_explain_scores_every_position(self, **switches):
        model, images = build(pyramid(), **switches), pixels()
        pools = [x for x in model.layers if x.name.startswith("pool_")]
        expected, logits = [], []
        for pool in pools:
            name = pool.name.replace("pool_", "classifier_")
            kernel, bias = model.get_layer(name).get_weights()
            bias += 1  # a bias of 0 is not seen to be missing
            model.get_layer(name).set_weights([kernel, bias])
            features = keras.Model(model.input, pool.input)(images).numpy()
            expected.append(features @ kernel + bias)
            reduce = np.mean if switches.get("pooling") else np.max
            logits.append(reduce(features, axis=(1, 2)) @ kernel + bias)
        maps = explain(model)(images)
        self.assertEqual(maps.shape, (3, 2, 2, NUM_CLASSES))
        self.assertAllClose(maps, np.mean(expected, 0), rtol=1e-4, atol=1e-5)
        self.assertAllClose(
            model(images), np.mean(logits, 0), rtol=1e-4, atol=1e-5
        )

    @parameterized.parameters({}, {"refinement": False, "correlation": False})
    def test_saves_and_loads(self, **switches):
        model = build(small(tiny), **switches)
        images, _ = batch(2)
        maps = explain(model)(images)  # and does not disturb what is saved
        path = f"{self.get_temp_dir()}/model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        self.assertAllEqual(loaded(images), model(images))
        self.assertAllEqual(explain(loaded)(images), maps)

    @parameterized.parameters({}, {"refinement": False, "correlation": False})
    def test_any_image_size(self, **switches):
        model = build(pyramid(None), **switches)
        # No multiple of 32 either: levels that round up meet again.
        for size, side in ((64, 2), (72, 3)):
            self.assertEqual(model(pixels(size)).shape, (3, NUM_CLASSES))
            maps = explain(model)(pixels(size))
            self.assertEqual(maps.shape, (3, side, side, NUM_CLASSES))

    @parameterized.parameters({}, {"refinement": False, "correlation": False})
    def test_logits_are_float32_under_mixed_precision(self, **switches):
        keras.config.set_dtype_policy("mixed_bfloat16")
        self.addCleanup(keras.config.set_dtype_policy, "float32")
        model = build.__wrapped__(pyramid(), **switches)
        for output in (model, explain(model)):
            result = output(pixels())
            self.assertEqual(result.dtype, "float32")
            self.assertAllInRange(result, -1e3, 1e3)
        if switches.get("refinement", True):
            convolution = model.get_layer("transform_p5").conv_1
            self.assertEqual(convolution.compute_dtype, "bfloat16")

    def test_names_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "Received: pooling='mean'"):
            build(pyramid(), pooling="mean", refinement=False)
        with self.assertRaisesRegex(ValueError, "Received: residual=True"):
            build(pyramid(), residual=True, correlation=False)
        with self.assertRaisesRegex(ValueError, "Received: model='baseline'"):
            explain(baseline(pyramid(), NUM_CLASSES))

    def test_names_a_backbone_that_does_not_fit(self):
        with self.assertRaisesRegex(ValueError, "'vit_b16' with .'P4'."):
            build(small(vit_b16))
        with mock.patch.multiple(backbones, **SMALL):
            backbone = vgg16(image_size=72)  # it rounds down
        with self.assertRaisesRegex(ValueError, r"of 32. Received.*\(72, 72\)"):
            build(backbone)
