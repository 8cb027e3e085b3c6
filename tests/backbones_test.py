import functools
import os
import pathlib
from unittest import mock

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from zoo import backbones
from zoo.backbones import NORMALIZATIONS, RESNET101, resnet101, tiny

BACKBONES = (  # test name, function, channels, trainable and all parameters
    ("tiny", tiny, {"P3": 48, "P4": 96, "P5": 160}, 559_152, 561_216),
    (
        "resnet101",
        resnet101,
        {"P3": 512, "P4": 1024, "P5": 2048},
        42_500_160,  # 44,549,160 of torchvision less 2,049,000 of its head
        42_605_504,
    ),
)

# A pixel at the top, the bottom and the middle of the range, normalized by
# hand: (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.5 - 0.406) / 0.225.
PIXEL = np.array([255, 0, 127.5], "float32")
NORMALIZED = {
    "imagenet": [2.2489083, -2.0357143, 0.4177778],
    "unit": [1, 0, 0.5],
    "symmetric": [1, -1, 0],
}

SMALL = {
    **RESNET101,
    "stackwise_num_filters": [64, 8, 8, 8],
    "stackwise_num_blocks": [1, 1, 1, 1],
}

# Builds each once: ResNet-101 takes seconds.
built = functools.cache(lambda function: function(image_size=None))


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


def save(test, backbone, **converter):
    """Writes a preset, with an image converter where one is given."""
    folder = test.get_temp_dir()
    backbone.save_to_preset(folder)
    if converter:
        keras_hub.layers.ImageConverter(**converter).save_to_preset(folder)
    return folder


class ContractTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.named_parameters(*BACKBONES)
    def test_names_and_counts(self, function, channels, trainable, total):
        model = built(function)
        self.assertEqual(model.name, function.__name__)
        self.assertEqual(model.input.dtype, "float32")
        self.assertEqual(model.input.shape, (None, None, None, 3))
        self.assertEqual(model.layers[1].name, "normalization")
        self.assertEqual(list(model.output), list(channels))
        for level, features in model.output.items():
            self.assertEqual(features.shape, (None,) * 3 + (channels[level],))
        self.assertEqual(count(model.trainable_weights), trainable)
        self.assertEqual(model.count_params(), total)

    @parameterized.product(
        case=BACKBONES, size=[(32, 32), (48, 64), (100, 129), (448, 448)]
    )
    def test_key_is_log2_of_the_stride(self, case, size):
        _, function, channels, *_ = case
        shapes = built(function).compute_output_shape((2, *size, 3))
        for level, shape in shapes.items():
            stride = 2 ** int(level[1:])
            height, width = (-(-length // stride) for length in size)
            self.assertEqual(shape, (2, height, width, channels[level]))

    def test_fixed_size(self):
        model = tiny(image_size=96)
        self.assertEqual(model.input.shape, (None, 96, 96, 3))
        self.assertEqual(model.output["P5"].shape, (None, 3, 3, 160))

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
        names = [layer.name for layer in built(resnet101).layers]
        self.assertEqual(names, ["image", "normalization", "pyramid"])

    @parameterized.named_parameters(*BACKBONES)
    def test_every_weight_gets_a_gradient(self, function, *_):
        model = built(function)
        with tf.GradientTape() as tape:
            features = model(images(), training=True)
            loss = sum(tf.reduce_mean(x**2) for x in features.values())
        weights = model.trainable_weights
        gradients = tape.gradient(loss, [weight.value for weight in weights])
        for weight, gradient in zip(weights, gradients, strict=True):
            self.assertIsNotNone(gradient, weight.path)
            self.assertTrue(np.any(gradient), weight.path)

    @parameterized.named_parameters(*BACKBONES)
    @mock.patch.object(backbones, "RESNET101", SMALL)
    def test_half_precision(self, function, *_):
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        self.addCleanup(keras.config.set_dtype_policy, policy)
        model = function(image_size=32)
        for features in model(images(size=32)).values():
            self.assertEqual(features.dtype, "bfloat16")
            self.assertTrue(np.isfinite(tf.cast(features, "float32")).all())
        self.assertEqual({w.dtype for w in model.weights}, {"float32"})
        self.assertAllClose(
            normalized_pixel(model),
            NORMALIZED["symmetric" if function is tiny else "imagenet"],
            rtol=1e-6,
        )

    def check_saved(self, function):
        model = function(image_size=64)
        path = os.path.join(self.get_temp_dir(), "model.keras")
        model.save(path)
        loaded = keras.saving.load_model(path)
        expected = model.predict(images(), verbose=0)
        received = loaded.predict(images(), verbose=0)
        for level in expected:
            self.assertAllEqual(received[level], expected[level])

    def test_saved_tiny_is_the_same(self):
        self.check_saved(tiny)

    @pytest.mark.heavy
    def test_saved_resnet101_is_the_same(self):
        self.check_saved(resnet101)

    @parameterized.product(
        function=[tiny, resnet101], image_size=[31, 64.0, (64, 64)]
    )
    def test_names_a_bad_image_size(self, function, image_size):
        with self.assertRaisesRegex(ValueError, "Received: image_size="):
            function(image_size=image_size)


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
    def test_preset_gives_what_torchvision_computes(self):
        scale, offset = [0.01, 0.02, 0.005], [-1.0, -2.0, 0.5]
        source = keras_hub.models.ResNetBackbone(**RESNET101)
        randomize(source)
        folder = save(self, source, scale=scale, offset=offset)
        model = resnet101(image_size=64, pretrained=folder)

        image = images(1)
        expected = torchvision_resnet101(
            image[0] * scale + offset,
            lambda name: source.get_layer(name).get_weights(),
        )
        for level, received in model(image).items():
            largest = np.abs(expected[level]).max()
            self.assertAllClose(
                received[0] / largest, expected[level] / largest, atol=1e-5
            )


class PresetTest(parameterized.TestCase, tf.test.TestCase):
    """What `resnet101` does with presets, on a network of one block a stack."""

    def setUp(self):
        super().setUp()
        patch = mock.patch.object(backbones, "RESNET101", SMALL)
        patch.start()
        self.addCleanup(patch.stop)
        self.source = keras_hub.models.ResNetBackbone(**SMALL)

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
            **{**SMALL, "stackwise_num_blocks": [1, 1, 2, 1]}
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
        ("imagenet", "hf://timm/resnet101.tv_in1k"),
        ("resnet_101_imagenet", "resnet_101_imagenet"),
    )
    def test_says_what_to_do_without_a_network(self, pretrained, preset):
        with (
            mock.patch.object(
                keras_hub.models.ResNetBackbone,
                "from_preset",
                side_effect=ConnectionError("no route to host"),
            ) as from_preset,
            self.assertRaises(ValueError) as caught,
        ):
            resnet101(64, pretrained)
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

    def test_names_an_unknown_normalization(self):
        with self.assertRaisesRegex(
            ValueError, "'unit', 'symmetric'.*Received: normalization='caffe'"
        ):
            resnet101(normalization="caffe")
