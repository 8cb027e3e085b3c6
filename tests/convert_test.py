import contextlib
import io
import json
import pathlib
import shlex
import sys
import types
from unittest import mock

import keras
import keras_hub
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
from absl.testing import parameterized

from zoo import backbones, convert, runs

# Small networks with the names of large ones.
SMALL = {
    "RESNET101": {
        **backbones.RESNET101,
        "stackwise_num_filters": [64, 4, 6, 8],
        "stackwise_num_blocks": [1, 1, 2, 1],
    },
    "VGG16": {**backbones.VGG16, "stackwise_num_filters": [3, 4, 5, 6, 7]},
    "VIT_B16": {
        **backbones.VIT_B16,
        "num_layers": 2,
        "num_heads": 3,
        "hidden_dim": 12,
        "mlp_dim": 20,
    },
}
RESNET_CHANNELS = 32  # of P5
CLASSES = ("cat", "dog", "cow")


def random_state(shapes):
    """Draws tensors by name; variances and scales are above 0."""
    rng = np.random.default_rng(0)
    return {
        name: rng.uniform(0.5, 1.5, shape).astype("float32")
        if len(shape) == 1 and not name.endswith(("bias", "mean"))
        else rng.normal(0, 0.2, shape).astype("float32")
        for name, shape in shapes.items()
    }


def resnet_state(num_blocks=(1, 1, 2, 1)):
    """The tensors of torchvision's small ResNet, with its ImageNet head."""
    shapes = {}

    def unit(conv, norm, *shape):
        shapes[f"{conv}.weight"] = shape
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{name}"] = shape[:1]
        shapes[f"{norm}.num_batches_tracked"] = ()

    unit("conv1", "bn1", 64, 3, 7, 7)
    channels = 64
    for i, width in enumerate((64, 4, 6, 8)):
        for block in range(num_blocks[i]):
            name = f"layer{i + 1}.{block}"
            unit(f"{name}.conv1", f"{name}.bn1", width, channels, 1, 1)
            unit(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3)
            unit(f"{name}.conv3", f"{name}.bn3", 4 * width, width, 1, 1)
            if block == 0:
                downsample = f"{name}.downsample"
                unit(
                    *(f"{downsample}.0", f"{downsample}.1"),
                    *(4 * width, channels, 1, 1),
                )
            channels = 4 * width
    shapes |= {"fc.weight": (1000, channels), "fc.bias": (1000,)}
    return random_state(shapes)


def convolve(x, weight, stride=1, padding=0, bias=0.0):
    """PyTorch's Conv2d of `(C, H, W)`, by NumPy."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(
        x, weight.shape[2:], axis=(1, 2)
    )[:, ::stride, ::stride]
    x = np.einsum("ihwyx,oiyx->ohw", windows, weight)
    return x + np.reshape(bias, (-1, 1, 1))


def max_pool(x, size, stride, padding=0):
    x = np.pad(
        x,
        ((0, 0), (padding, padding), (padding, padding)),
        constant_values=-np.inf,
    )
    windows = np.lib.stride_tricks.sliding_window_view(
        x, (size, size), axis=(1, 2)
    )
    return windows[:, ::stride, ::stride].max(axis=(-2, -1))


def resnet_reference(x, state, num_blocks=(1, 1, 2, 1)):
    """torchvision's ResNet v1.5 for one image; gives layer2 to layer4."""

    def unit(x, conv, norm, stride=1, padding=0):
        x = convolve(x, state[f"{conv}.weight"], stride, padding)
        weight, bias, mean, variance = (
            state[f"{norm}.{name}"][:, None, None]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias

    x = np.maximum(unit(x, "conv1", "bn1", 2, 3), 0)
    x = max_pool(x, 3, 2, padding=1)
    features = {}
    for i in range(4):
        for block in range(num_blocks[i]):
            name = f"layer{i + 1}.{block}"
            stride = 2 if i > 0 and block == 0 else 1
            y = np.maximum(unit(x, f"{name}.conv1", f"{name}.bn1"), 0)
            y = unit(y, f"{name}.conv2", f"{name}.bn2", stride, 1)
            y = unit(np.maximum(y, 0), f"{name}.conv3", f"{name}.bn3")
            if block == 0:
                name = f"{name}.downsample"
                x = unit(x, f"{name}.0", f"{name}.1", stride)
            x = np.maximum(x + y, 0)
        features[f"P{i + 2}"] = x
    return {level: features[level] for level in ("P3", "P4", "P5")}


VGG_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
VGG_POOLINGS = (4, 9, 16, 23)


def vgg_state():
    shapes, channels = {}, 3
    widths = np.repeat((3, 4, 5, 6, 7), (2, 2, 3, 3, 3)).tolist()
    for i, width in zip(VGG_CONVOLUTIONS, widths, strict=True):
        shapes[f"features.{i}.weight"] = (width, channels, 3, 3)
        shapes[f"features.{i}.bias"] = (width,)
        channels = width
    return random_state({**shapes, "classifier.0.weight": (4096, 343)})


def vgg_reference(x, state):
    for i in range(30):
        if i in VGG_CONVOLUTIONS:
            weight, bias = (
                state[f"features.{i}.{name}"] for name in ("weight", "bias")
            )
            x = np.maximum(convolve(x, weight, 1, 1, bias), 0)
        elif i in VGG_POOLINGS:
            x = max_pool(x, 2, 2)
    return {"P4": x}


def vit_state(grid=2):
    shapes = {
        "cls_token": (1, 1, 12),
        "pos_embed": (1, 1 + grid**2, 12),
        "patch_embed.proj.weight": (12, 3, 16, 16),
        "patch_embed.proj.bias": (12,),
    }
    for i in range(2):
        for name, shape in {
            "norm1": (12,),
            "attn.qkv": (36, 12),
            "attn.proj": (12, 12),
            "norm2": (12,),
            "mlp.fc1": (20, 12),
            "mlp.fc2": (12, 20),
        }.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
    shapes |= {"norm.weight": (12,), "norm.bias": (12,)}
    return random_state({**shapes, "head.weight": (9, 12), "head.bias": (9,)})


def vit_reference(x, state):
    """timm's vision transformer for one image; gives the patch tokens."""

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def normalize(x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def gelu(x):
        return x * (1 + tf.math.erf(x / np.sqrt(2)).numpy()) / 2

    weight = state["patch_embed.proj.weight"]
    x = convolve(x, weight, 16, 0, state["patch_embed.proj.bias"])
    _, height, width = x.shape
    x = np.concatenate([state["cls_token"][0], x.reshape(12, -1).T])
    x = x + state["pos_embed"][0]
    for i in range(2):
        name = f"blocks.{i}"
        qkv = linear(normalize(x, f"{name}.norm1"), f"{name}.attn.qkv")
        heads = []
        for head in range(3):
            q, k, v = (
                qkv[:, 12 * part + 4 * head :][:, :4] for part in range(3)
            )
            attention = np.exp(q @ k.T / 2)  # the square root of 4 channels
            heads.append(attention / attention.sum(1, keepdims=True) @ v)
        x = x + linear(np.concatenate(heads, axis=1), f"{name}.attn.proj")
        y = gelu(linear(normalize(x, f"{name}.norm2"), f"{name}.mlp.fc1"))
        x = x + linear(y, f"{name}.mlp.fc2")
    x = normalize(x, "norm")[1:]
    return {"P4": x.T.reshape(12, height, width)}


def as_torchvision(state, first="0", second="3"):
    """Gives timm's tensors the names that torchvision has for them."""
    block = "encoder.layers.encoder_layer_"
    names = {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj.weight": "conv_proj.weight",
        "patch_embed.proj.bias": "conv_proj.bias",
        "norm.weight": "encoder.ln.weight",
        "norm.bias": "encoder.ln.bias",
        "head.weight": "heads.head.weight",
        "head.bias": "heads.head.bias",
    }
    for i in range(2):
        for kind in ("weight", "bias"):
            for timm, torchvision in {
                "norm1.": "ln_1.",
                "attn.qkv.": "self_attention.in_proj_",
                "attn.proj.": "self_attention.out_proj.",
                "norm2.": "ln_2.",
                "mlp.fc1.": f"mlp.{first}.",
                "mlp.fc2.": f"mlp.{second}.",
            }.items():
                names[f"blocks.{i}.{timm}{kind}"] = (
                    f"{block}{i}.{torchvision}{kind}"
                )
    return {names[name]: array for name, array in state.items()}


def images(size=64):
    rng = np.random.default_rng(1)
    return rng.uniform(0, 255, (1, size, size, 3)).astype("float32")


def normalized(image, kind="imagenet"):
    """One image as PyTorch takes it: `(channels, height, width)`."""
    x = image / 255
    if kind == "imagenet":
        x = (x - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    elif kind == "symmetric":
        x = (x - 0.5) / 0.5
    return x.transpose(2, 0, 1)


class ConvertTestCase(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        for name, architecture in SMALL.items():
            patch = mock.patch.object(backbones, name, architecture)
            patch.start()
            self.addCleanup(patch.stop)
        self.folder = pathlib.Path(self.get_temp_dir())

    def check_features(self, features, expected):
        for level, array in expected.items():
            largest = np.abs(array).max()
            self.assertAllClose(
                features[level][0] / largest,
                array.transpose(1, 2, 0) / largest,
                atol=1e-5,
            )

    def save(self, state, name="checkpoint.safetensors"):
        safetensors.numpy.save_file(state, self.folder / name)
        return self.folder / name

    def run_main(self, **flags):
        """Runs the program; gives what it printed."""
        argv = [f"--{key}={value}" for key, value in flags.items()]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            convert.main(["--backbone=resnet101", *argv])
        return printed.getvalue()

    def classes(self, *names):
        path = self.folder / "classes.txt"
        path.write_text("".join(f"{name}\n" for name in names))
        return path


class ReadStateDictTest(ConvertTestCase):
    def test_half_precision_becomes_single(self):
        bfloat16 = tf.constant([1.0, -2.5], "bfloat16").numpy()
        half = np.array([0.5], "float16")
        path = self.save({"a": bfloat16, "b": half})
        state = convert.read_state_dict(path)
        self.assertDTypeEqual(state["a"], "float32")
        self.assertAllEqual(state["a"], [1, -2.5])
        self.assertDTypeEqual(state["b"], "float32")

    def test_names_a_missing_file(self):
        with self.assertRaisesRegex(
            FileNotFoundError, "Received: checkpoint='/no/such.pth'"
        ):
            convert.read_state_dict("/no/such.pth")

    def test_names_a_folder(self):
        with self.assertRaisesRegex(
            IsADirectoryError, f"is a folder. Received: .*'{self.folder}'"
        ):
            convert.read_state_dict(self.folder)

    def test_names_a_broken_file(self):
        path = self.folder / "broken.safetensors"
        path.write_bytes(b"broken" * 9)
        with self.assertRaisesRegex(
            ValueError, "(?s)SafetensorError: .*Received: checkpoint='.*broken"
        ):
            convert.read_state_dict(path)

    def read(self, content, entry=None):
        """Reads what a stand-in for `torch.load` gives."""
        path = self.folder / "checkpoint.pth"
        path.touch()
        load = mock.Mock(return_value=content)
        torch = types.SimpleNamespace(load=load)
        with mock.patch.dict(sys.modules, {"torch": torch}):
            state = convert.read_state_dict(path, entry)
        load.assert_called_once_with(
            path, map_location="cpu", weights_only=True
        )
        return state

    def test_finds_the_state_dict_in_a_pytorch_file(self):
        tensor = mock.Mock()  # on its way from a parameter in bfloat16
        single = tensor.detach.return_value.float.return_value
        single.numpy.return_value = np.ones(2, "float32")
        flat = {"conv1.weight": tensor, "version": 3}
        optimizer = {"state": {0: {"momentum": tensor}}, "param_groups": []}
        nested = {"state_dict": flat, "best": tensor, "optimizer": optimizer}
        for content in (flat, nested):
            state = self.read(content)
            self.assertEqual(list(state), ["conv1.weight"])
            self.assertAllEqual(state["conv1.weight"], [1, 1])

        several = {**nested, "ema": {"conv2.weight": tensor}}
        self.assertEqual(list(self.read(several, "ema")), ["conv2.weight"])
        for content, entry, known in (
            (several, None, r"\['state_dict', 'ema'\]"),
            (several, "model", r"\['state_dict', 'ema'\]"),
            (nested, "model", r"\['state_dict'\]"),
            (tensor, None, r"\[\]"),
        ):
            with self.assertRaisesRegex(
                ValueError,
                "a dotted path.*a prefix.*"
                f"It has: {known}. Received: entry={entry!r}",
            ):
                self.read(content, entry)

    def test_entry_is_a_key_a_dotted_path_or_a_prefix(self):
        a, b, c = (np.full(1, i, "float32") for i in range(3))
        content = {
            "model": {"net": {"w": a}, "ema": {"w": b}},
            "optimizer": {"state": {0: {"w": c}}},
            "epoch": 3,
        }
        for entry, value in {"model.net": a, "model.ema": b}.items():
            self.assertAllEqual(self.read(content, entry)["w"], value)
        with self.assertRaisesRegex(
            ValueError,
            r"It has: \['model.net', 'model.ema'\]. Received: .*None",
        ):
            self.read(content)

        flat = {"net.w": a, "ema.w": b, "emanated.w": c}
        for content in (flat, {"state_dict": flat, "epoch": 3}):
            for entry in ("ema", "ema."):
                self.assertEqual(self.read(content, entry), {"ema.w": b})
        content = {"state_dict": flat, "other": {"ema.w": c}}
        self.assertEqual(self.read(content, "state_dict.ema"), {"ema.w": b})

    def test_names_a_tensor_that_is_no_plain_array(self):
        sparse = mock.Mock()
        single = sparse.detach.return_value.float.return_value
        single.numpy.side_effect = TypeError("Sparse layout")
        content = {"state_dict": {"conv1.weight": sparse}}
        with self.assertRaisesRegex(
            ValueError,
            "conv1.weight must be a plain tensor.*Sparse layout. "
            "Received: entry=None, checkpoint='.*checkpoint.pth'$",
        ):
            self.read(content)
        # Elsewhere in the file it does no harm.
        content["ema"] = {"conv1.weight": np.ones(1, "float32")}
        self.assertLen(self.read(content, "ema"), 1)

    def test_says_how_to_read_without_pytorch(self):
        path = self.folder / "checkpoint.pth"
        path.touch()
        with (
            mock.patch.dict(sys.modules, {"torch": None}),
            self.assertRaisesRegex(ImportError, "pip install torch.*safetens"),
        ):
            convert.read_state_dict(path)


class BackboneTest(ConvertTestCase):
    def convert(self, name, state, size, normalization):
        folder = self.folder / "preset"
        used = convert.convert_backbone(name, state, folder, normalization)
        backbone = getattr(backbones, name)(size, pretrained=folder)
        return used, backbone(images(size))

    @parameterized.parameters(
        ("", "imagenet"), ("module.", "unit"), ("model.backbone.", "symmetric")
    )
    def test_resnet_gives_what_torchvision_computes(self, prefix, kind):
        state = resnet_state()
        prefixed = {f"{prefix}{name}": a for name, a in state.items()}
        used, features = self.convert("resnet101", prefixed, 64, kind)
        image = normalized(images()[0], kind)
        self.check_features(features, resnet_reference(image, state))
        self.assertEqual(
            convert.left_over(prefixed, used),
            [
                f"{prefix}fc.weight (1000, 32)",
                f"{prefix}fc.bias (1000,)",
                "20 num_batches_tracked",
            ],
        )
        self.assertLen(used, len(prefixed) - 22)

    def test_vgg_gives_what_torchvision_computes(self):
        state = vgg_state()
        used, features = self.convert("vgg16", state, 64, "imagenet")
        image = normalized(images()[0])
        self.check_features(features, vgg_reference(image, state))
        self.assertEqual(
            convert.left_over(state, used), ["classifier.0.weight (4096, 343)"]
        )

    @parameterized.parameters("timm", "torchvision", "older torchvision")
    def test_vit_gives_what_timm_computes(self, dialect):
        state = vit_state()
        renamed = {
            "timm": state,
            "torchvision": as_torchvision(state),
            "older torchvision": as_torchvision(state, "linear_1", "linear_2"),
        }[dialect]
        used, features = self.convert("vit_b16", renamed, 32, "symmetric")
        image = normalized(images(32)[0], "symmetric")
        self.check_features(features, vit_reference(image, state))
        self.assertLen(convert.left_over(renamed, used), 2)  # the head's

    def test_vit_of_another_size(self):
        folder = self.folder / "preset"
        convert.convert_backbone("vit_b16", vit_state(grid=4), folder)
        config = json.loads((folder / "config.json").read_text())["config"]
        self.assertEqual(config["image_shape"], [64, 64, 3])

    @pytest.mark.heavy
    def test_efficientnet_takes_the_names_of_timm(self):
        """The names and shapes of timm 1.0's `efficientnet_b3`."""
        shapes = {}

        def unit(conv, norm, *shape):
            shapes[f"{conv}.weight"] = shape
            for name in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{norm}.{name}"] = shape[:1]

        unit("conv_stem", "bn1", 40, 3, 3, 3)
        channels = 40
        for i, (width, depth, kernel) in enumerate(
            [
                *[(24, 2, 3), (32, 3, 3), (48, 3, 5), (96, 5, 3)],
                *[(136, 5, 5), (232, 6, 5), (384, 2, 3)],
            ]
        ):
            for block in range(depth):
                name = f"blocks.{i}.{block}"
                inner = channels if i == 0 else 6 * channels
                first = 1
                if i > 0:
                    conv, norm = f"{name}.conv_pw", f"{name}.bn1"
                    unit(conv, norm, inner, channels, 1, 1)
                    first = 2
                conv, norm = f"{name}.conv_dw", f"{name}.bn{first}"
                unit(conv, norm, inner, 1, kernel, kernel)
                last = f"{name}.conv_pw" if i == 0 else f"{name}.conv_pwl"
                unit(last, f"{name}.bn{first + 1}", width, inner, 1, 1)
                squeezed = channels // 4
                for conv, *shape in (
                    ("reduce", squeezed, inner),
                    ("expand", inner, squeezed),
                ):
                    conv = f"{name}.se.conv_{conv}"
                    shapes[f"{conv}.weight"] = (*shape, 1, 1)
                    shapes[f"{conv}.bias"] = shape[:1]
                channels = width
        unit("conv_head", "bn2", 1536, 384, 1, 1)
        state = random_state(shapes)
        used = convert.convert_backbone(
            "efficientnet_b3", state, self.folder / "preset"
        )
        self.assertCountEqual(used, state)
        self.assertEqual(sum(a.size for a in state.values()), 10_783_528)

    def check_refused(self, state, message):
        backbone = keras_hub.models.ResNetBackbone(**SMALL["RESNET101"])
        before = backbone.get_weights()
        with self.assertRaisesRegex(ValueError, message):
            convert.load_backbone(backbone, state)
        self.assertAllEqual(before[0], backbone.get_weights()[0])

    def test_names_what_is_missing(self):
        state = resnet_state()
        del state["layer3.1.bn2.running_var"]
        self.check_refused(
            state,
            "layer3.1.bn2.running_var is not in the file, for "
            "stack2_block1_2_bn/moving_variance$",
        )

    def test_names_another_shape(self):
        state = resnet_state()
        state["layer1.0.conv2.weight"] = np.zeros((64, 64, 5, 5), "float32")
        self.check_refused(
            state,
            r"layer1.0.conv2.weight has the shape \(64, 64, 5, 5\), and .* "
            r"the shape \(3, 3, 64, 64\)$",
        )
        state["layer1.0.conv2.weight"] = np.zeros(4, "float32")
        self.check_refused(state, r"has the shape \(4,\)")

    def test_names_a_tensor_that_is_not_finite(self):
        state = resnet_state()
        for value in (np.nan, np.inf):
            state["layer1.0.conv2.weight"][1, 2] = value
            self.check_refused(
                state,
                "ResNetBackbone`:\n  layer1.0.conv2.weight has values that "
                "are not finite$",
            )

    def test_names_a_deeper_network(self):
        self.check_refused(
            resnet_state((1, 2, 2, 1)),
            r"layer2.1.conv1.weight has no place in the backbone",
        )

    def test_names_a_weight_that_keras_hub_forgot(self):
        state = resnet_state()
        complete = convert.convert_resnet.convert_weights

        def forgetful(backbone, requests, config):
            complete(backbone, requests, config)
            del requests[0]

        with mock.patch.object(
            convert.convert_resnet, "convert_weights", forgetful
        ):
            self.check_refused(state, "conv1_conv/kernel is unknown")

    def test_shortens_a_long_list(self):
        self.check_refused({"a": np.zeros(3)}, "conv1.weight .*(?s:.*)and 80 m")

    def test_names_two_networks(self):
        state = resnet_state()
        both = {f"{p}.{k}": a for p in ("b", "a") for k, a in state.items()}
        self.check_refused(
            both, r"`--entry PREFIX`.*networks below \['a\.', 'b\.'\]"
        )
        one = convert.read_state_dict(self.save(both), "b.")
        used = convert.load_backbone(
            keras_hub.models.ResNetBackbone(**SMALL["RESNET101"]), one
        )
        self.assertIn("b.conv1.weight", used)

    @parameterized.parameters((), (5,), (5, 12), (1, 1, 12))
    def test_names_position_embeddings_of_no_grid(self, *shape):
        state = {**vit_state(), "pos_embed": np.zeros(shape, "float32")}
        with self.assertRaisesRegex(
            ValueError, r"Received: pos_embed of shape \("
        ):
            convert.convert_backbone("vit_b16", state, self.folder / "preset")

    def test_names_an_unsupported_backbone(self):
        with self.assertRaisesRegex(
            ValueError, "'resnet152', .*Received: backbone='mobilenet_v2'"
        ):
            convert.convert_backbone("mobilenet_v2", {}, self.folder)


def csra_reference(features, kernels, residual_weight, temperatures):
    """Zhu and Wu (2021), eqs. (8) and (13), of PyTorch's kernels."""
    x = features.reshape(len(features), -1)  # (channels, positions)
    logits = 0
    for kernel, temperature in zip(kernels, temperatures, strict=True):
        kernel = kernel[:, :, 0, 0]
        scores = kernel @ x / np.linalg.norm(kernel, axis=1, keepdims=True)
        if temperature is None:
            attended = scores.max(axis=1)
        else:
            attention = np.exp(temperature * scores)
            attention /= attention.sum(axis=1, keepdims=True)
            attended = (attention * scores).sum(axis=1)
        logits += scores.mean(axis=1) + residual_weight * attended
    return logits


@pytest.mark.heavy
class ClassifierTest(ConvertTestCase):
    def heads(self, *numbers):
        """CSRA's classifiers, by number, in an order of no meaning."""
        rng = np.random.default_rng(2)
        shape = (len(CLASSES), RESNET_CHANNELS, 1, 1)
        return {
            f"classifier.multi_head.{n}.head.weight": rng.normal(
                size=shape
            ).astype("float32")
            for n in numbers
        }

    def check_run(self, run, expected):
        """A finished run holds what `recipes` and `export` ask for."""
        card = runs.finished(run)
        self.assertEqual(card["classes"], list(CLASSES))
        self.assertEqual(card["image_size"], 64)
        self.assertIn("dataset", card)
        model = keras.saving.load_model(run / runs.MODEL)
        self.assertAllClose(model(images())[0], expected, rtol=1e-4)
        return card

    def test_csra_with_several_heads(self):
        state = {**resnet_state(), **self.heads(10, 9, 2, 1)}
        checkpoint = self.save(state)
        output = self.folder / "runs" / "converted"
        printed = self.run_main(
            checkpoint=checkpoint,
            classes=self.classes(*CLASSES),
            residual_weight=0.4,
            image_size=64,
            normalization="unit",
            output=output,
        )
        names = [f"classifier.multi_head.{n}.head.weight" for n in (1, 2, 9)]
        names.append("classifier.multi_head.10.head.weight")
        features = resnet_reference(normalized(images()[0], "unit"), state)
        logits = csra_reference(
            features["P5"], [state[n] for n in names], 0.4, (1, 2, 4, None)
        )
        card = self.check_run(output, logits)
        self.assertEqual(card["method"], "csra")
        self.assertEqual(card["num_heads"], 4)
        self.assertEqual(card["residual_weight"], 0.4)
        self.assertEqual(card["normalization"], "unit")
        source = card["converted_from"]
        # What `recipes/evaluate.py` writes in its report.
        self.assertEqual(card["pretrained"], "checkpoint.safetensors")
        for name in ("dataset", "data_dir", "num_training_images", "seed"):
            self.assertIsNone(card[name])
        self.assertEqual(source["file"], "checkpoint.safetensors")
        self.assertEqual(source["heads"], names)
        self.assertLen(source["sha256"], 64)
        total = len(state)
        self.assertIn(f"{total - 22} of {total} tensors used", printed)
        self.assertIn("fc.weight (1000, 32)\n", printed)
        self.assertIn("20 num_batches_tracked\n", printed)
        self.assertIn("pixels: unit, images of 64 x 64\n", printed)
        self.assertIn(f"csra, 3 classes, from {names}", printed)
        self.assertEqual(list(output.parent.iterdir()), [output])

    def test_one_head_of_two_axes(self):
        ((name, kernel),) = self.heads(0).items()
        state = {**resnet_state(), "head.weight": kernel[:, :, 0, 0]}
        model, used, heads = convert.convert_classifier(
            "resnet101", state, 3, 64, 0.1
        )
        features = resnet_reference(normalized(images()[0]), state)
        expected = csra_reference(features["P5"], [kernel], 0.1, [1])
        self.assertAllClose(model(images())[0], expected, rtol=1e-4)
        self.assertEqual(heads, ["head.weight"])
        self.assertIn("head.weight", used)

    def test_classifier_after_average_pooling(self):
        rng = np.random.default_rng(3)
        weight = rng.normal(size=(3, RESNET_CHANNELS)).astype("float32")
        bias = np.array([1, 2, 3], "float32")
        state = {**resnet_state(), "fc.weight": weight, "fc.bias": bias}
        output = self.folder / "converted"
        printed = self.run_main(
            checkpoint=self.save(state),
            classes=self.classes(*CLASSES),
            image_size=64,
            output=output,
        )
        features = resnet_reference(normalized(images()[0]), state)["P5"]
        expected = weight @ features.mean(axis=(1, 2)) + bias
        card = self.check_run(output, expected)
        self.assertEqual(card["method"], "gap")
        self.assertNotIn("fc.", printed.partition("pixels")[0])

    def test_model_alone(self):
        output = self.folder / "model.keras"
        with mock.patch.object(convert, "_card") as card:
            printed = self.run_main(
                checkpoint=self.save({**resnet_state(), **self.heads(0)}),
                classes=self.classes(*CLASSES),
                residual_weight=0.1,
                output=output,
            )
        card.assert_not_called()  # it reads the whole file again
        self.assertIn("pixels: imagenet, images of 448 x 448\n", printed)
        model = keras.saving.load_model(output)
        self.assertEqual(model.input_shape, (None, 448, 448, 3))
        self.assertEqual(model.output_shape, (None, 3))

    def test_vit_takes_the_size_of_its_position_embeddings(self):
        state = vit_state(grid=3)
        model, *_ = convert.convert_classifier("vit_b16", state, 9)
        self.assertEqual(model.input_shape, (None, 48, 48, 3))
        model, *_ = convert.convert_classifier("vit_b16", state, 9, 32)
        self.assertEqual(model.input_shape, (None, 32, 32, 3))

    @parameterized.parameters(
        (3, None, "lambda, is for .*Received: residual_weight=None"),
        (4, 0.1, r"for 4 classes and 32 channels.*'fc.weight': \(1000, 32\)"),
        (1000, 0.1, "a classifier with a bias has none.*'fc.weight'"),
        (3, -0.1, "at least 0. Received: residual_weight=-0.1"),
        (3, np.nan, "at least 0. Received: residual_weight=nan"),
    )
    def test_names_what_does_not_fit(self, num_classes, weight, message):
        state = {**resnet_state(), **self.heads(0)}
        with self.assertRaisesRegex(ValueError, message):
            convert.convert_classifier(
                "resnet101", state, num_classes, 64, weight
            )

    @parameterized.parameters((3, "classifier.*weight"), (1000, "fc.bias"))
    def test_names_a_classifier_that_is_not_finite(self, num_classes, name):
        state = {**resnet_state(), **self.heads(0)}
        weight = 0.1 if num_classes == 3 else None
        for key in ("classifier.multi_head.0.head.weight", "fc.bias"):
            state[key][0] = np.nan
        with self.assertRaisesRegex(
            ValueError, f"Received: {name} has values that are not finite$"
        ):
            convert.convert_classifier(
                "resnet101", state, num_classes, 64, weight
            )

    @parameterized.parameters(
        (["a.weight", "b.weight"], []),
        (["a.1.weight", "b.2.weight"], ["a.1.bias", "b.2.bias"]),
    )
    def test_refuses_classifiers_in_no_order(self, names, biases):
        kernel = np.ones((3, RESNET_CHANNELS), "float32")
        state = {
            **resnet_state(),
            **{name: kernel for name in names},
            **{name: np.ones(3, "float32") for name in biases},
        }
        with self.assertRaisesRegex(ValueError, "must hold one classifier"):
            convert.convert_classifier("resnet101", state, 3, 64, 0.1)


class MainTest(ConvertTestCase):
    def test_backbone_becomes_a_preset(self):
        output = self.folder / "preset"
        printed = self.run_main(
            checkpoint=self.save(resnet_state()),
            normalization="unit",
            output=output,
        )
        self.assertIn(f"--pretrained {shlex.quote(str(output))}", printed)
        self.assertIn("fc.bias (1000,)\n", printed)
        backbone = backbones.resnet101(64, pretrained=output)
        pixel = backbone.get_layer("normalization")(np.full((1, 1, 1, 3), 51.0))
        self.assertAllClose(pixel, np.full((1, 1, 1, 3), 0.2))

    def check_error(self, message, **flags):
        before = sorted(self.folder.iterdir())
        flags = {"output": self.folder / "new", **flags}
        with self.assertRaises(SystemExit) as caught:
            self.run_main(**flags)
        self.assertRegex(caught.exception.code, f"(?s)error: .*{message}")
        self.assertEqual(sorted(self.folder.iterdir()), before)

    def test_errors_leave_nothing(self):
        checkpoint = self.save(resnet_state())
        broken = resnet_state()
        del broken["conv1.weight"]
        broken = self.save(broken, "broken.safetensors")
        self.check_error(
            "never overwritten.*output", checkpoint=broken, output=checkpoint
        )
        self.check_error(
            "conv1.weight is not in the file, for .*\nReceived: "
            f"checkpoint='{broken}', backbone='resnet101'$",
            checkpoint=broken,
        )
        self.check_error(
            f"Received: backbone='resnet18', checkpoint='{checkpoint}'$",
            checkpoint=checkpoint,
            backbone="resnet18",
        )
        self.check_error(
            "needs `--classes`.*new.keras",
            checkpoint=checkpoint,
            output=self.folder / "new.keras",
        )
        for name, value in {"residual_weight": 0.1, "image_size": 64}.items():
            self.check_error(
                f"`--{name}`.*needs `--classes`. Received: {name}={value}$",
                checkpoint=checkpoint,
                **{name: value},
            )

    @parameterized.parameters(
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (b"cat\ndog\ncat\n", "line 3 repeats 'cat'"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"cat\n\xffdog\n", "in UTF-8; invalid start byte at byte 4"),
    )
    def test_names_what_is_wrong_with_the_classes(self, text, problem):
        path = self.folder / "classes.txt"
        path.write_bytes(text)
        checkpoint = self.save(resnet_state())
        self.check_error(
            f"{problem}. Received: classes='{path}'$",
            checkpoint=checkpoint,
            classes=path,
        )

    def test_reads_classes_as_editors_save_them(self):
        path = self.folder / "classes.txt"
        path.write_bytes("\ufeffcat\r\nd\xf4g\r\n\r\n".encode())
        self.assertEqual(convert._read_classes(path), ["cat", "d\xf4g"])
