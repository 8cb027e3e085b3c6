import functools
import inspect
import math
import os
import pathlib
import re
from unittest import mock

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image

from zoo import backbones
from zoo.backbones import (
    IMAGENET_PRESETS,
    NORMALIZATIONS,
    RESNET101,
    efficientnet_b3,
    mobilenet_v2,
    resnet101,
    resnet152,
    tiny,
    vgg16,
    vgg16_fully_connected,
    vit_b16,
    vit_l16,
)

# Test name, function, channels, trainable and all parameters. torchvision's
# networks less their heads: ResNet-101 44,549,160 - 2,049,000, ResNet-152
# 60,192,808 - 2,049,000, EfficientNet-B3 12,233,232 - 1,537,000, MobileNetV2
# 3,504,872 - 1,281,000.
BACKBONES = (
    ("tiny", tiny, {"P3": 48, "P4": 96, "P5": 160}, 559_152, 561_216),
    (
        "resnet101",
        resnet101,
        {"P3": 512, "P4": 1024, "P5": 2048},
        42_500_160,
        42_605_504,
    ),
    ("vgg16", vgg16, {"P3": 512, "P4": 512}, 14_714_688, 14_714_688),
    ("vit_b16", vit_b16, {"P4": 768}, 85_798_656, 85_798_656),
    (
        "efficientnet_b3",
        efficientnet_b3,
        {"P3": 48, "P4": 136, "P5": 1536},
        10_696_232,
        10_783_528,
    ),
    (
        "mobilenet_v2",
        mobilenet_v2,
        {"P3": 32, "P4": 96, "P5": 1280},
        2_223_872,
        2_257_984,
    ),
)
HEAVY_BACKBONES = (
    (
        "resnet152",
        resnet152,
        {"P3": 512, "P4": 1024, "P5": 2048},
        58_143_808,
        58_295_232,
    ),
    ("vit_l16", vit_l16, {"P4": 1024}, 303_301_632, 303_301_632),
)
FUNCTIONS = [case[1] for case in BACKBONES + HEAVY_BACKBONES]
VITS = (vit_b16, vit_l16)
KINDS = [case[1] for case in BACKBONES]  # the others differ in depth only
PYRAMIDS = [case for case in BACKBONES if case[1] not in VITS]
HUB_CLASSES = {  # function -> class of keras-hub
    resnet101: keras_hub.models.ResNetBackbone,
    resnet152: keras_hub.models.ResNetBackbone,
    vgg16: keras_hub.models.VGGBackbone,
    vit_b16: keras_hub.models.ViTBackbone,
    vit_l16: keras_hub.models.ViTBackbone,
    efficientnet_b3: keras_hub.models.EfficientNetBackbone,
}

# A pixel at the top, the bottom and the middle of the range, normalized by
# hand: (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.5 - 0.406) / 0.225.
PIXEL = np.array([255, 0, 127.5], "float32")
NORMALIZED = {
    "imagenet": [2.2489083, -2.0357143, 0.4177778],
    "unit": [1, 0, 0.5],
    "symmetric": [1, -1, 0],
}

# The same networks with less of everything, to put in the place of the whole.
SMALL_RESNET = {
    **RESNET101,
    "stackwise_num_filters": [64, 8, 8, 8],
    "stackwise_num_blocks": [1, 1, 1, 1],
}
SMALL_VIT = {
    **backbones.VIT_B16,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 16,
}
SMALL = {
    "RESNET101": SMALL_RESNET,
    "RESNET152": {**SMALL_RESNET, "stackwise_num_blocks": [1, 1, 2, 1]},
    "VGG16": {**backbones.VGG16, "stackwise_num_filters": [4, 4, 8, 8, 8]},
    "VIT_B16": SMALL_VIT,
    "VIT_L16": {**SMALL_VIT, "num_layers": 3},
    "EFFICIENTNET_B3": {
        **backbones.EFFICIENTNET_B3,
        "stackwise_num_repeats": [1] * 7,
        "stackwise_depth_coefficients": [1.0] * 7,
        "stackwise_width_coefficients": [0.25] * 7,
    },
}

# Each is built once, since that takes up to seconds.
built = functools.cache(
    lambda function: function(image_size=224 if function in VITS else None)
)
built_small = functools.cache(lambda function: function(image_size=64))


def images(num_images=2, size=64):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (num_images, size, size, 3)).astype("float32")


def count(weights):
    return sum(int(np.prod(weight.shape)) for weight in weights)


def normalized_pixel(model):
    pixel = model.get_layer("normalization")(PIXEL[None, None, None])
    return keras.ops.convert_to_numpy(pixel)[0, 0, 0]


def convolve(x, kernel, stride, padding):
    """Torch's Conv2d: (height, width, channels), the same padding all round."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(
        x, kernel.shape[:2], axis=(0, 1)
    )[::stride, ::stride]
    return np.einsum("hwcij,ijco->hwo", windows, kernel, optimize=True)


def torchvision_resnet101(image, weight):
    """What torchvision's `resnet101` computes for one normalized image.

    `weight(layer)` gives the arrays of a layer of keras-hub, by its name.
    """

    def unit(x, name, stride, padding, activation=True):
        (kernel,) = weight(f"{name}_conv")
        gamma, beta, mean, variance = weight(f"{name}_bn")
        x = convolve(x, kernel, stride, padding)
        x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        return np.maximum(x, 0) if activation else x

    x = unit(image, "conv1", stride=2, padding=3)
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(0, 1))
    x = x[::2, ::2].max(axis=(-2, -1))
    features = {}
    for stack, num_blocks in enumerate((3, 4, 23, 3)):
        for block in range(num_blocks):
            name = f"stack{stack}_block{block}"
            stride = 2 if stack > 0 and block == 0 else 1
            y = unit(x, f"{name}_1", 1, padding=0)
            y = unit(y, f"{name}_2", stride, padding=1)
            y = unit(y, f"{name}_3", 1, padding=0, activation=False)
            if block == 0:
                x = unit(x, f"{name}_0", stride, padding=0, activation=False)
            x = np.maximum(x + y, 0)
        features[f"P{stack + 2}"] = x
    return features


def torchvision_vgg16(image, weight):
    """What torchvision's `vgg16` computes for one normalized image."""
    x, features = image, {}
    for block, num_layers in enumerate((2, 2, 3, 3, 3), start=1):
        for i in range(1, num_layers + 1):
            kernel, bias = weight(f"block{block}_conv{i}")
            x = np.maximum(convolve(x, kernel, 1, padding=1) + bias, 0)
        features[f"P{block - 1}"] = x
        height, width = x.shape[0] // 2, x.shape[1] // 2
        x = x[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1)
        x = x.max(axis=(1, 3))
    return features


def torchvision_efficientnet_b3(image, weight):
    """What torchvision's `efficientnet_b3` computes, one normalized image."""

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def normalize(x, name, activation=True):
        gamma, beta, mean, variance = weight(name)
        x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
        return x * sigmoid(x) if activation else x

    def depthwise(x, kernel, stride):
        size = len(kernel)
        x = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
        x = np.lib.stride_tricks.sliding_window_view(x, (size, size), (0, 1))
        return np.einsum("hwcij,ijc->hwc", x[::stride, ::stride], kernel)

    (kernel,) = weight("stem_conv")
    x = normalize(convolve(image, kernel, 2, padding=1), "stem_bn")
    features = {}
    stages = (  # kernel size, stride, channels, blocks
        *((3, 1, 24, 2), (3, 2, 32, 3), (5, 2, 48, 3), (3, 2, 96, 5)),
        *((5, 1, 136, 5), (5, 2, 232, 6), (3, 1, 384, 2)),
    )
    for stage, (size, stride, channels, num_blocks) in enumerate(stages, 1):
        for block in range(num_blocks):
            name, y = f"block{stage}{chr(97 + block)}_", x
            if stage > 1:
                y = y @ weight(f"{name}expand_conv")[0][0, 0]
                y = normalize(y, f"{name}expand_bn")
            (kernel,) = weight(f"{name}dwconv")
            assert kernel.shape[:2] == (size, size)
            stride = stride if block == 0 else 1
            y = normalize(
                depthwise(y, kernel[..., 0], stride), f"{name}dwconv_bn"
            )
            kernel, bias = weight(f"{name}se_reduce")
            squeezed = y.mean(axis=(0, 1)) @ kernel[0, 0] + bias
            kernel, bias = weight(f"{name}se_expand")
            squeezed = (squeezed * sigmoid(squeezed)) @ kernel[0, 0] + bias
            y = y * sigmoid(squeezed)
            y = y @ weight(f"{name}project")[0][0, 0]
            y = normalize(y, f"{name}project_bn", activation=False)
            assert y.shape[-1] == channels
            x = x + y if x.shape == y.shape else y
        features[stage] = x
    x = normalize(x @ weight("top_conv")[0][0, 0], "top_bn")
    return {"P3": features[3], "P4": features[5], "P5": x}


def timm_vit(image, backbone):
    """What timm's `VisionTransformer` computes for one normalized image."""

    def normalize(x, layer):
        gamma, beta = layer.get_weights()
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * gamma + beta

    def project(equation, x, layer):
        kernel, bias = layer.get_weights()
        return np.einsum(equation, x, kernel) + bias

    embed = backbone.get_layer("vit_patching_and_embedding")
    kernel, bias = embed.patch_embedding.get_weights()
    side = len(image) // 16
    patches = image.reshape(side, 16, side, 16, 3)
    patches = np.einsum("hiwjc,ijcd->hwd", patches, kernel) + bias
    x = np.concatenate(
        [embed.class_token.numpy()[0], patches.reshape(side**2, -1)]
    )
    x = x + embed.position_embedding.get_weights()[0]
    encoder = backbone.get_layer("vit_encoder")
    for block in encoder.encoder_layers:
        y, mha = normalize(x, block.layer_norm_1), block.mha
        query, key, value = (
            project("nc,chd->nhd", y, layer)
            for layer in (mha.query_dense, mha.key_dense, mha.value_dense)
        )
        scores = np.einsum("nhd,mhd->hnm", query, key)
        scores = np.exp(scores / math.sqrt(query.shape[-1]))
        attention = scores / scores.sum(-1, keepdims=True)
        y = np.einsum("hnm,mhd->nhd", attention, value)
        x = x + project("nhd,hdc->nc", y, mha.output_dense)
        y = normalize(x, block.layer_norm_2)
        y = project("nc,cd->nd", y, block.mlp.dense_1)
        y = y * (1 + np.vectorize(math.erf)(y / math.sqrt(2))) / 2
        x = x + project("nc,cd->nd", y, block.mlp.dense_2)
    return normalize(x, encoder.layer_norm)[1:].reshape(side, side, -1)


def randomize(backbone):
    """Gives batch normalization the values of a trained network."""
    rng = np.random.default_rng(0)
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.set_weights(
                [
                    rng.uniform(0.3, 0.7, size),  # gamma
                    rng.normal(0, 0.1, size),  # beta
                    rng.normal(0, 0.1, size),  # mean
                    rng.uniform(0.5, 1.5, size),  # variance
                ]
            )


def check_gradients(test, model, inputs):
    """Checks that each weight has a share in the levels."""
    with tf.GradientTape() as tape:
        features = model(inputs, training=True)
        loss = sum(tf.reduce_mean(x**2) for x in features.values())
    weights = model.trainable_weights
    gradients = tape.gradient(loss, [weight.value for weight in weights])
    for weight, gradient in zip(weights, gradients, strict=True):
        test.assertIsNotNone(gradient, weight.path)
        gradient = tf.convert_to_tensor(gradient)  # embeddings' are sparse
        test.assertTrue(np.any(gradient), weight.path)


def check_saved(test, model):
    path = os.path.join(test.get_temp_dir(), "model.keras")
    model.save(path)
    loaded = keras.saving.load_model(path)
    for num_images in (1, 3):
        expected = model(images(num_images))
        received = loaded(images(num_images))
        for level in expected:
            test.assertLen(expected[level], num_images)
            test.assertAllEqual(received[level], expected[level])


def save(test, backbone, **converter):
    """Writes a preset, with an image converter where one is given."""
    folder = test.get_temp_dir()
    backbone.save_to_preset(folder)
    if converter:
        keras_hub.layers.ImageConverter(**converter).save_to_preset(folder)
    return folder


class ContractTest(parameterized.TestCase, tf.test.TestCase):
    """What every backbone promises, at its full size."""

    def check_names_and_counts(self, function, channels, trainable, total):
        model = built(function)
        size = 224 if function in VITS else None
        self.assertEqual(model.name, function.__name__)
        self.assertEqual(model.input.dtype, "float32")
        self.assertEqual(model.input.shape, (None, size, size, 3))
        self.assertEqual(model.layers[1].name, "normalization")
        self.assertEqual(list(model.output), list(channels))
        for level, features in model.output.items():
            side = size and size // 2 ** int(level[1:])
            self.assertEqual(
                features.shape, (None, side, side, channels[level])
            )
        self.assertEqual(count(model.trainable_weights), trainable)
        self.assertEqual(model.count_params(), total)
        levels = ", ".join(f"{key} {width}" for key, width in channels.items())
        row = f"{model.name:<16} {levels:<28} {trainable:>13,} {total:>14,}"
        self.assertIn(f"    {row}\n", backbones.__doc__)

    @parameterized.named_parameters(*BACKBONES)
    def test_names_and_counts(self, *case):
        self.check_names_and_counts(*case)

    @parameterized.named_parameters(*HEAVY_BACKBONES)
    @pytest.mark.heavy
    def test_names_and_counts_of_heavy(self, *case):
        self.check_names_and_counts(*case)

    def test_table_is_complete(self):
        public = {
            function
            for name, function in inspect.getmembers(
                backbones, inspect.isfunction
            )
            if not name.startswith("_")
        }
        self.assertEqual(public, {*FUNCTIONS, vgg16_fully_connected})
        rows = re.findall(r"^    (\w+) +P", backbones.__doc__, re.MULTILINE)
        self.assertEqual(len(rows), len(FUNCTIONS))

    @parameterized.parameters(
        (*case[1:3], size)
        for case in PYRAMIDS
        for size in [(32, 32), (48, 64), (100, 129), (448, 448)]
        if case[1] is not mobilenet_v2 or size[0] % 32 == 0
    )
    def test_key_is_log2_of_the_stride(self, function, channels, size):
        shapes = built(function).compute_output_shape((2, *size, 3))
        divide = math.floor if function is vgg16 else math.ceil
        for level, shape in shapes.items():
            height, width = (divide(x / 2 ** int(level[1:])) for x in size)
            self.assertEqual(shape, (2, height, width, channels[level]))

    @parameterized.parameters(
        (tiny, 96, "P5", (3, 3, 160)),
        (mobilenet_v2, 100, "P5", (4, 4, 1280)),
        (vgg16, 100, "P4", (6, 6, 512)),
    )
    def test_fixed_size(self, function, size, level, shape):
        model = function(image_size=size)
        self.assertEqual(model.input.shape, (None, size, size, 3))
        self.assertEqual(model.output[level].shape[1:], shape)

    def test_layer_names_are_stable(self):
        self.assertEqual(
            [layer.name for layer in tiny().layers if layer.weights][:6],
            [
                "stage1_1_conv",
                "stage1_1_norm",
                "stage1_2_conv",
                "stage1_shortcut_conv",
                "stage1_2_norm",
                "stage1_shortcut_norm",
            ],
        )
        for _, function, *_ in PYRAMIDS[1:]:
            names = [layer.name for layer in built(function).layers]
            self.assertEqual(names, ["image", "normalization", "pyramid"])
        self.assertEqual(
            [layer.name for layer in built(vit_b16).layers],
            ["image", "normalization", "vit", "patches", "map"],
        )

    @parameterized.parameters(resnet101, vgg16, vit_b16, efficientnet_b3)
    @pytest.mark.heavy
    def test_every_weight_gets_a_gradient(self, function):
        size = 224 if function in VITS else 64
        check_gradients(self, built(function), images(1, size))

    @pytest.mark.heavy
    def test_saved_resnet101_is_the_same(self):
        check_saved(self, resnet101(image_size=64))

    @parameterized.product(function=FUNCTIONS, image_size=[31, 64.0, (64, 64)])
    def test_names_a_bad_image_size(self, function, image_size):
        with self.assertRaisesRegex(ValueError, "Received: image_size="):
            function(image_size=image_size)

    @parameterized.parameters(FUNCTIONS[1:])
    def test_names_an_unknown_normalization(self, function):
        with self.assertRaisesRegex(
            ValueError, "'unit', 'symmetric'.*Received: normalization='caffe'"
        ):
            function(normalization="caffe")

    @parameterized.parameters(FUNCTIONS)
    def test_names_an_argument_of_a_wrong_type(self, function):
        for pretrained in (7, ["imagenet"], b"imagenet"):
            with self.assertRaisesRegex(
                ValueError, r"Received: pretrained=(7|b|\[)"
            ):
                function(pretrained=pretrained)
        if function is not tiny:
            with self.assertRaisesRegex(
                ValueError, r"Received: normalization=\['unit'\]$"
            ):
                function(normalization=["unit"])


class SmallContractTest(parameterized.TestCase, tf.test.TestCase):
    """What every backbone promises, on networks with less of everything."""

    def setUp(self):
        super().setUp()
        patch = mock.patch.multiple(backbones, **SMALL)
        patch.start()
        self.addCleanup(patch.stop)

    # `tests/models/backbones_and_heads_test.py` does so below each head.
    @parameterized.parameters(resnet152, vit_l16)
    def test_every_weight_gets_a_gradient(self, function):
        check_gradients(self, function(64), images())

    @parameterized.product(
        function=KINDS, compute_dtype=["bfloat16", "float16"]
    )
    def test_half_precision(self, function, compute_dtype):
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(f"mixed_{compute_dtype}")
        self.addCleanup(keras.config.set_dtype_policy, policy)
        model = function(image_size=32)
        for features in model(images(size=32)).values():
            self.assertEqual(features.dtype, compute_dtype)
            self.assertTrue(np.isfinite(tf.cast(features, "float32")).all())
        self.assertEqual({w.dtype for w in model.weights}, {"float32"})
        symmetric = function in (tiny, mobilenet_v2, *VITS)
        self.assertAllClose(
            normalized_pixel(model),
            NORMALIZED["symmetric" if symmetric else "imagenet"],
            rtol=1e-6,
            atol=1e-6,
        )

    @parameterized.parameters(*KINDS)
    def test_saved_is_the_same_for_any_batch(self, function):
        check_saved(self, built_small(function))


class TinyTest(tf.test.TestCase):
    def test_normalization(self):
        self.assertAllClose(
            normalized_pixel(built(tiny)), NORMALIZED["symmetric"], atol=1e-6
        )

    def test_stamps_are_loaded_at_any_size(self):
        small = tiny(image_size=32, pretrained="stamps")
        large = tiny(image_size=None, pretrained="stamps")
        random = tiny(image_size=None)
        for a, b, c in zip(
            small.weights, large.weights, random.weights, strict=True
        ):
            self.assertAllEqual(a, b)
            self.assertNotAllClose(a, c)

    def test_names_unknown_weights(self):
        with self.assertRaisesRegex(
            ValueError, "None or 'stamps'. Received: pretrained='imagenet'"
        ):
            tiny(pretrained="imagenet")


class Resnet101Test(tf.test.TestCase):
    def test_gives_what_torchvision_computes(self):
        pyramid = built(resnet101).get_layer("pyramid")
        randomize(pyramid)
        image = np.random.default_rng(0).normal(size=(1, 64, 64, 3))
        expected = torchvision_resnet101(
            image[0], lambda name: pyramid.get_layer(name).get_weights()
        )
        assert_same_levels(self, pyramid(image), expected)


def assert_same_levels(test, features, expected):
    """Compares the maps of one image, each by its own largest value."""
    for level, received in features.items():
        largest = np.abs(expected[level]).max()
        test.assertAllClose(
            received[0] / largest, expected[level] / largest, atol=1e-5
        )


class Vgg16Test(tf.test.TestCase):
    @mock.patch.multiple(backbones, **SMALL)
    def test_preset_gives_what_torchvision_computes(self):
        source = keras_hub.models.VGGBackbone(**SMALL["VGG16"])
        rng = np.random.default_rng(0)
        for weight in source.weights:  # the biases too
            weight.assign(rng.normal(0, 0.3, weight.shape))
        folder = save(self, source, scale=0.02, offset=-2.0)
        image = images(1, size=75)  # 37, 18, 9, 4 after each pooling
        expected = torchvision_vgg16(
            image[0] * 0.02 - 2.0,
            lambda name: source.get_layer(name).get_weights(),
        )
        model = vgg16(image_size=None, pretrained=folder)
        assert_same_levels(self, model(image), expected)


class Vgg16FullyConnectedTest(parameterized.TestCase, tf.test.TestCase):
    """On classifiers of few filters, as keras-hub saves them."""

    def classifier(self, pooling="avg", size=None):
        backbone = keras_hub.models.VGGBackbone(
            **SMALL["VGG16"], image_shape=(size, size, 3)
        )
        classifier = keras_hub.models.VGGImageClassifier(
            backbone, num_classes=3, pooling=pooling, pooling_hidden_dim=6
        )
        rng = np.random.default_rng(0)
        for weight in classifier.weights:  # the biases too
            weight.assign(rng.normal(0, 0.3, weight.shape))
        return classifier

    def check_computes_the_same(self, fully_connected, classifier):
        x = np.random.default_rng(1).normal(size=(2, 7, 7, 8))
        expected = x.astype("float32")
        for layer in classifier.head.layers:
            expected = layer(expected)
            if layer.name == "fc2":
                break
        model = keras.Sequential(
            [keras.Input((7, 7, 8)), keras.layers.Flatten()]
        )
        for weights in fully_connected:
            dense = keras.layers.Dense(6, activation="relu")
            model.add(dense)
            dense.set_weights(weights)
        self.assertAllClose(
            model(x), tf.reshape(expected, (2, 6)), rtol=1e-5, atol=1e-5
        )
        self.assertTrue(np.any(expected))

    # Average and maximum stand above convolutions of 7x7 and 1x1 positions.
    @parameterized.parameters(("avg", None), ("max", None), ("flatten", 224))
    def test_folder_of_a_classifier(self, pooling, size):
        source = self.classifier(pooling, size)
        folder = save(self, source)
        fully_connected = vgg16_fully_connected(pathlib.Path(folder))
        shapes = [[x.shape for x in pair] for pair in fully_connected]
        self.assertEqual(shapes, [[(392, 6), (6,)], [(6, 6), (6,)]])
        self.check_computes_the_same(fully_connected, source)
        with mock.patch.multiple(backbones, **SMALL):
            model = vgg16(64, folder)
        for old, new in zip(
            source.backbone.weights, model.weights, strict=True
        ):
            self.assertAllEqual(old, new)

    def test_folder_of_a_backbone_has_none(self):
        folder = save(self, self.classifier().backbone, scale=0.5)
        self.assertIsNone(vgg16_fully_connected(folder))
        self.assertIsNone(vgg16_fully_connected(None))

    @parameterized.parameters("hf://timm/vgg16.tv_in1k", "timm's format")
    def test_weights_of_timm(self, preset):
        """What `from_preset` makes of them, keras-hub tests."""
        source, argument = self.classifier(), "imagenet"
        if "://" not in preset:
            argument = preset = self.get_temp_dir()
            config = pathlib.Path(preset, "config.json")
            config.write_text('{"architecture": "vgg16"}')
        with (
            mock.patch.object(
                keras_hub.models.VGGImageClassifier,
                "from_preset",
                return_value=source,
            ) as from_preset,
            mock.patch.object(
                keras_hub.layers.ImageConverter,
                "from_preset",
                return_value=None,
            ),
        ):
            fully_connected = vgg16_fully_connected(argument)
        self.assertEqual(from_preset.call_args.args, (preset,))
        self.check_computes_the_same(fully_connected, source)

    def test_says_what_is_wrong_with_a_preset(self):
        with self.assertRaisesRegex(
            ValueError, "'vgg_16_imagenet', .*Received: pretrained='/no/such'"
        ):
            vgg16_fully_connected("/no/such")
        with self.assertRaisesRegex(ValueError, "Received: pretrained=7"):
            vgg16_fully_connected(7)
        with (
            mock.patch.object(
                keras_hub.models.VGGImageClassifier,
                "from_preset",
                side_effect=ConnectionError("no route to host"),
            ),
            self.assertRaisesRegex(
                ValueError,
                r"(?s)no route to host.*models.VGGImageClassifier, .*"
                r"from_preset\('hf://timm/vgg16.tv_in1k'\).save_to_preset",
            ),
        ):
            vgg16_fully_connected("imagenet")


class EfficientNetB3Test(tf.test.TestCase):
    def test_gives_what_torchvision_computes(self):
        pyramid = built(efficientnet_b3).get_layer("pyramid")
        randomize(pyramid)
        image = np.random.default_rng(0).normal(size=(1, 75, 75, 3))
        expected = torchvision_efficientnet_b3(
            image[0], lambda name: pyramid.get_layer(name).get_weights()
        )
        assert_same_levels(self, pyramid(image), expected)


@mock.patch.multiple(backbones, **SMALL)
class VitTest(parameterized.TestCase, tf.test.TestCase):
    """On presets of two small blocks."""

    def preset(self, height, width, **converter):
        """Gives a `ViTBackbone` with no weight at 0 or 1, and its folder."""
        source = keras_hub.models.ViTBackbone(
            (height, width, 3), **SMALL["VIT_B16"]
        )
        rng = np.random.default_rng(0)
        for weight in source.weights:
            weight.assign(rng.normal(0, 0.3, weight.shape))
        return source, save(self, source, **converter)

    def test_preset_gives_what_timm_computes(self):
        source, folder = self.preset(64, 64, scale=0.02, offset=-2.0)
        image = images(1, size=64)
        expected = timm_vit(image[0] * 0.02 - 2.0, source)
        model = vit_b16(image_size=64, pretrained=folder)
        assert_same_levels(self, model(image), {"P4": expected})

    @parameterized.parameters((64, 64, 96), (160, 128, 48), (16, 64, 32))
    def test_positions_are_resized_as_pillow_does(self, height, width, size):
        source, folder = self.preset(height, width)
        vit = vit_b16(size, folder).get_layer("vit")
        self.assertEqual(vit.image_shape, (size, size, 3))
        for old, new in zip(source.weights, vit.weights, strict=True):
            old, side = old.numpy(), size // 16
            if "position_embedding" in new.path:
                grid = old[1:].reshape(height // 16, width // 16, -1)
                channels = [
                    Image.fromarray(channel).resize(
                        (side, side), Image.Resampling.BICUBIC
                    )
                    for channel in np.moveaxis(grid, -1, 0)
                ]
                grid = np.stack(channels, axis=-1).reshape(side**2, -1)
                old = np.concatenate([old[:1], grid])
            self.assertAllClose(new, old, rtol=1e-5, atol=1e-5)

    def test_half_precision_of_a_preset_at_another_size(self):
        _, folder = self.preset(64, 64)
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        self.addCleanup(keras.config.set_dtype_policy, policy)
        model = vit_b16(96, folder)
        features = model(images(size=96))["P4"]
        self.assertEqual(features.dtype, "bfloat16")
        self.assertEqual({w.dtype for w in model.weights}, {"float32"})

    def test_a_preset_may_say_its_patch_size_as_a_tuple(self):
        source, folder = self.preset(64, 64)
        source.patch_size = (16, 16)  # as keras-hub's converters make it
        with mock.patch.object(
            keras_hub.models.ViTBackbone, "from_preset", return_value=source
        ):
            model = vit_b16(64, folder)
        self.assertEqual(model.output["P4"].shape, (None, 4, 4, 8))

    def test_folder_without_a_converter_takes_symmetric(self):
        model = vit_b16(64, self.preset(64, 64)[1])
        self.assertAllClose(normalized_pixel(model), NORMALIZED["symmetric"])

    @parameterized.parameters(None, 0, -16, 40)
    def test_names_a_size_that_is_no_multiple(self, image_size):
        with self.assertRaisesRegex(
            ValueError, f"multiple of 16 .* Received: image_size={image_size}"
        ):
            vit_b16(image_size)

    def test_names_another_architecture(self):
        _, folder = self.preset(64, 64)
        with self.assertRaisesRegex(
            ValueError,
            "(?s)must hold a `ViTBackbone` with .*'num_layers': 3.*"
            "Received: pretrained=.*'num_layers': 2",
        ):
            vit_l16(64, folder)


class MobileNetV2Test(tf.test.TestCase):
    def test_levels_are_the_last_maps_of_their_stride(self):
        pyramid = built(mobilenet_v2).get_layer("pyramid")
        # Blocks 6 and 13 have stride 2.
        layers = {"P3": "block_5_add", "P4": "block_12_add", "P5": "out_relu"}
        for level, name in layers.items():
            self.assertIs(pyramid.output[level], pyramid.get_layer(name).output)

    def test_loads_weights_at_another_size(self):
        path = pathlib.Path(self.get_temp_dir(), "model.weights.h5")
        built(mobilenet_v2).save_weights(path)
        self.check_loads(path)

    @pytest.mark.by_hand
    def test_loads_a_model_at_another_size(self):
        path = pathlib.Path(self.get_temp_dir(), "model.keras")
        built(mobilenet_v2).save(path)
        self.check_loads(path)

    def check_loads(self, path):
        model = mobilenet_v2(64, path, normalization="unit")
        self.assertAllClose(normalized_pixel(model), NORMALIZED["unit"])
        source = built(mobilenet_v2)
        for old, new in zip(source.weights, model.weights, strict=True):
            self.assertAllEqual(old, new)

    def test_imagenet_is_what_keras_downloads(self):
        network, source = keras.applications.MobileNetV2, []

        def download(**kwargs):
            """Stands for Keras, which has no file to load here."""
            if kwargs.get("weights", "imagenet") is None:
                return network(**kwargs)
            self.assertEqual(kwargs["input_shape"], (224, 224, 3))
            source.append(network(**kwargs, weights=None))
            return source[0]

        with mock.patch.object(keras.applications, "MobileNetV2", download):
            model = mobilenet_v2(64, "imagenet")
        self.assertAllClose(normalized_pixel(model), NORMALIZED["symmetric"])
        for old, new in zip(source[0].weights, model.weights, strict=True):
            self.assertAllEqual(old, new)

    def test_says_what_to_do_about_a_missing_file(self):
        with self.assertRaisesRegex(
            ValueError,
            r"(?s)could not be loaded: .*save_weights\('mobilenet_v2"
            r".*Received: pretrained='/no/such.keras'",
        ):
            mobilenet_v2(64, "/no/such.keras")

    def test_names_a_file_of_another_network(self):
        path = os.path.join(self.get_temp_dir(), "model.weights.h5")
        tiny(64).save_weights(path)
        with self.assertRaisesRegex(
            ValueError, f"Received: .*'{path}'"
        ) as caught:
            mobilenet_v2(64, path)
        self.assertNotIn("Without a network", str(caught.exception))


class PresetTest(parameterized.TestCase, tf.test.TestCase):
    """What the networks of keras-hub do with presets, shown on `resnet101`."""

    def setUp(self):
        super().setUp()
        patch = mock.patch.multiple(backbones, **SMALL)
        patch.start()
        self.addCleanup(patch.stop)
        self.source = keras_hub.models.ResNetBackbone(**SMALL_RESNET)

    # The other networks load folders in other tests.
    @parameterized.parameters(resnet152, vit_l16, efficientnet_b3)
    def test_every_network_loads_a_folder(self, function):
        backbone_class = HUB_CLASSES[function]
        source = backbone_class(
            **SMALL[function.__name__.upper()],
            **({"image_shape": (64, 64, 3)} if function in VITS else {}),
        )
        model = function(64, save(self, source, scale=0.5, offset=-3.0))
        self.assertAllClose(normalized_pixel(model), [124.5, -3, 60.75])
        for old, new in zip(source.weights, model.weights, strict=True):
            self.assertAllEqual(old, new)

    @parameterized.parameters(*NORMALIZATIONS)
    def test_normalization_without_weights(self, normalization):
        model = resnet101(64, normalization=normalization)
        self.assertAllClose(
            normalized_pixel(model), NORMALIZED[normalization], atol=1e-6
        )

    @parameterized.parameters(
        ({"scale": 0.5, "offset": -3.0}, [124.5, -3, 60.75]),
        ({"scale": 0.5}, [127.5, 0, 63.75]),
        ({"offset": [1.0, 2.0, 3.0]}, [256, 2, 130.5]),
        ({"scale": [0.5, 1.0, 2.0], "offset": 1.0}, [128.5, 1, 256]),
    )
    def test_normalization_follows_the_weights(self, converter, expected):
        folder = save(self, self.source, **converter)
        self.assertAllClose(
            normalized_pixel(resnet101(64, folder)), expected, rtol=1e-6
        )
        model = resnet101(64, folder, normalization="unit")
        self.assertAllClose(normalized_pixel(model), NORMALIZED["unit"])

    def test_folder_without_a_converter_takes_imagenet(self):
        model = resnet101(64, pathlib.Path(save(self, self.source)))
        self.assertAllClose(normalized_pixel(model), NORMALIZED["imagenet"])

    def test_names_a_missing_folder(self):
        with self.assertRaisesRegex(
            ValueError, "no folder has this name. Received: pretrained='/no/"
        ):
            resnet101(pretrained="/no/such")

    def test_lists_presets_for_an_unknown_name(self):
        with self.assertRaisesRegex(
            ValueError, "'resnet_101_imagenet', .*'resnet1O1'"
        ):
            resnet101(pretrained="resnet1O1")

    def test_names_a_folder_without_a_configuration(self):
        folder = self.get_temp_dir()
        with self.assertRaisesRegex(
            ValueError, f"no keras-hub configuration, .*'{folder}'"
        ):
            resnet101(pretrained=folder)

    def test_names_another_class(self):
        vgg = keras_hub.models.VGGBackbone([1], [4], image_shape=(8, 8, 3))
        with self.assertRaisesRegex(
            ValueError, "as a `ResNetBackbone`.*has type `VGGBackbone`"
        ):
            resnet101(pretrained=save(self, vgg))

    def test_names_another_architecture(self):
        source = keras_hub.models.ResNetBackbone(
            **{**SMALL_RESNET, "stackwise_num_blocks": [1, 1, 2, 1]}
        )
        with self.assertRaisesRegex(
            ValueError,
            r"'stackwise_num_blocks': \[1, 1, 1, 1\].*"
            r"Received: pretrained=.*'stackwise_num_blocks': \[1, 1, 2, 1\]",
        ):
            resnet101(pretrained=save(self, source))

    def test_says_what_to_do_about_broken_weights(self):
        folder = save(self, self.source)
        weights = pathlib.Path(folder, "model.weights.h5")
        weights.write_bytes(weights.read_bytes()[:1000])
        with self.assertRaisesRegex(
            ValueError, f"(?s)OSError: .*Received: pretrained='{folder}'"
        ) as caught:
            resnet101(pretrained=folder)
        self.assertNotIn("network", str(caught.exception))

    @parameterized.parameters(
        (resnet101, "resnet_101_imagenet", "resnet_101_imagenet"),
        (resnet101, "imagenet", "hf://timm/resnet101.tv_in1k"),
        (resnet152, "imagenet", "hf://timm/resnet152.tv_in1k"),
        (vgg16, "imagenet", "hf://timm/vgg16.tv_in1k"),
        (vit_b16, "imagenet", "vit_base_patch16_224_imagenet"),
        (vit_l16, "imagenet", "vit_large_patch16_224_imagenet"),
        (efficientnet_b3, "imagenet", "hf://timm/efficientnet_b3.ra2_in1k"),
    )
    def test_says_what_to_do_without_a_network(
        self, function, pretrained, preset
    ):
        self.assertIn(preset, (*IMAGENET_PRESETS.values(), pretrained))
        self.assertIn(preset, function.__doc__ + resnet101.__doc__)
        with (
            mock.patch.object(
                HUB_CLASSES[function],
                "from_preset",
                side_effect=ConnectionError("no route to host"),
            ) as from_preset,
            self.assertRaises(ValueError) as caught,
        ):
            function(64, pretrained)
        self.assertEqual(from_preset.call_args.args, (preset,))
        self.assertIsInstance(caught.exception.__cause__, ConnectionError)
        for part in (
            "ConnectionError: no route to host",
            f"part.from_preset('{preset}').save_to_preset(folder)",
            "`pretrained=None` gives random weights",
            f"Received: pretrained='{preset}'",
        ):
            self.assertIn(part, str(caught.exception))

    def test_a_lost_converter_is_no_missing_converter(self):
        with (
            mock.patch.object(
                keras_hub.models.ResNetBackbone,
                "from_preset",
                return_value=self.source,
            ),
            mock.patch.object(
                keras_hub.layers.ImageConverter,
                "from_preset",
                side_effect=FileNotFoundError("image_converter.json"),
            ),
            self.assertRaisesRegex(ValueError, "image_converter.json"),
        ):
            resnet101(64, "imagenet")
