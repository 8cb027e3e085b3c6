"""Backbones: pixels in, feature maps out.

Every function builds a functional `keras.Model` that carries the function's
name and takes

    images    float32 (batch, height, width, 3), RGB, 0 to 255

to a dict of feature maps of shape `(batch, height, width, channels)`. A key
is log2 of the map's stride: "P5" is 32 times smaller than the image, rounded
up. The first layer, "normalization", brings pixels to the range that the
weights were trained on, so nobody outside has to know it.
"""

import importlib.resources
import os

import keras
import keras_hub
from keras import layers

# Each is (scale, offset), by channel or for all: pixels * scale + offset.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of pixels / 255, as in torchvision
_IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALIZATIONS = {
    "imagenet": (
        [1 / (255 * std) for std in _IMAGENET_STD],
        [
            -mean / std
            for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)
        ],
    ),
    "unit": (1 / 255, 0.0),
    "symmetric": (1 / 127.5, -1.0),
}

# ResNet v1.5: the second convolution of a stack's first block, not the first,
# has the stride. keras-hub pads as torchvision does.
RESNET101 = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 128, 256, 512],
    "stackwise_num_blocks": [3, 4, 23, 3],
    "stackwise_num_strides": [1, 2, 2, 2],
    "block_type": "bottleneck_block",
    "use_pre_activation": False,
}
# torchvision's own weights, IMAGENET1K_V1.
RESNET101_IMAGENET = "hf://timm/resnet101.tv_in1k"

TINY_WIDTHS = (16, 24, 48, 96, 160)  # channels of P1 to P5


def tiny(image_size=128, pretrained=None):
    """Builds a network of 0.56M parameters that trains on a CPU in minutes.

    A basic residual block of stride 2 makes each of the levels P1 to P5.

    Args:
        image_size: int or `None`. Height and width of the images, at least
            32 pixels; `None` takes any.
        pretrained: `None` for random weights, or `"stamps"` for the weights
            shipped with the package, which `recipes/pretrain_tiny.py` made.
            They have seen the classes of the built-in data set `scenes`.

    Returns:
        A functional `keras.Model` named "tiny", from images to `{"P3", "P4",
        "P5"}` with 48, 96 and 160 channels.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> tiny(image_size=64).output["P5"].shape
    (None, 2, 2, 160)
    """
    if pretrained not in (None, "stamps"):
        raise ValueError(
            "`pretrained` of `tiny` must be None or 'stamps'. "
            f"Received: pretrained={pretrained!r}"
        )
    # === Functional Model ===
    image = keras.Input(_image_shape(image_size), name="image")
    x = _normalize(image, *NORMALIZATIONS["symmetric"])
    features = {}
    for level, width in enumerate(TINY_WIDTHS, start=1):
        x = _residual_block(x, width, name=f"stage{level}")
        features[f"P{level}"] = x
    model = keras.Model(image, _levels(features), name="tiny")

    if pretrained == "stamps":
        weights = importlib.resources.files("zoo").joinpath(
            "weights", "tiny_stamps.weights.h5"
        )
        with importlib.resources.as_file(weights) as path:
            model.load_weights(path)
    return model


def resnet101(image_size=448, pretrained=None, normalization=None):
    """Builds ResNet-101 v1.5, torchvision's `resnet101` without its head.

    Formula, from He et al. (2016), https://arxiv.org/abs/1512.03385, table 1.

    Args:
        image_size: int or `None`. Height and width of the images, at least
            32 pixels; `None` takes any.
        pretrained: One of

            - `None`: random weights.
            - `"imagenet"`: torchvision's own ImageNet weights, which the
              papers fine-tuned: the preset `hf://timm/resnet101.tv_in1k`.
            - str: another preset of keras-hub's `ResNetBackbone`, by name
              (`"resnet_101_imagenet"`) or handle (`"hf://..."`).
            - str or path: a folder with a preset, such as
              `backbone.save_to_preset(folder)` writes.
        normalization: `None`, or a key of `NORMALIZATIONS`. `"imagenet"`
            subtracts torchvision's mean and divides by its standard
            deviation, `"unit"` brings pixels to 0 to 1 (CSRA's recipe for
            ResNet), `"symmetric"` to -1 to 1. `None` follows the weights: the
            preset's own image converter, and `"imagenet"` for random weights
            and for a folder without a converter.

    Returns:
        A functional `keras.Model` named "resnet101", from images to `{"P3",
        "P4", "P5"}` with 512, 1024 and 2048 channels.

    Raises:
        ValueError: If an argument is out of range, or if `pretrained` cannot
            be loaded or is no ResNet-101. The message says what to do.

    Example:

    >>> resnet101(image_size=None).output["P5"].shape
    (None, None, None, 2048)
    """
    if pretrained == "imagenet":
        pretrained = RESNET101_IMAGENET
    return _feature_pyramid(
        "resnet101",
        keras_hub.models.ResNetBackbone,
        RESNET101,
        image_size,
        pretrained,
        normalization,
    )


def _feature_pyramid(
    name, backbone_class, architecture, image_size, preset, normalization
):
    """Wraps a `FeaturePyramidBackbone` of keras-hub as this module promises."""
    if normalization is not None and normalization not in NORMALIZATIONS:
        raise ValueError(
            f"`normalization` must be None or one of {list(NORMALIZATIONS)}. "
            f"Received: normalization={normalization!r}"
        )
    image_shape = _image_shape(image_size)
    if preset is None:
        backbone = backbone_class(**architecture, image_shape=image_shape)
        scale, offset = NORMALIZATIONS[normalization or "imagenet"]
    else:
        backbone, scale, offset = _load_preset(
            backbone_class, architecture, image_shape, os.fspath(preset)
        )
        if normalization is not None:
            scale, offset = NORMALIZATIONS[normalization]

    # === Functional Model ===
    image = keras.Input(image_shape, name="image")
    pyramid = keras.Model(
        backbone.input, _levels(backbone.pyramid_outputs), name="pyramid"
    )
    features = pyramid(_normalize(image, scale, offset))
    return keras.Model(image, features, name=name)


def _load_preset(backbone_class, architecture, image_shape, preset):
    """Loads a keras-hub preset: the backbone, its scale and its offset."""
    class_name = backbone_class.__name__
    if preset not in backbone_class.presets and "://" not in preset:
        _check_folder(class_name, sorted(backbone_class.presets), preset)
    try:
        backbone = backbone_class.from_preset(preset, image_shape=image_shape)
        scale, offset = _preset_normalization(preset)
    # Each hub, and each file format, has its own exceptions.
    except Exception as error:
        raise ValueError(
            f"`pretrained` could not be loaded as a `{class_name}` of "
            f"keras-hub: {type(error).__name__}: {error}\n"
            f"{'' if os.path.isdir(preset) else _advice(class_name, preset)}"
            "`pretrained=None` gives random weights. "
            f"Received: pretrained={preset!r}"
        ) from error
    config = backbone.get_config()
    received = {key: config.get(key) for key in architecture}
    if received != architecture:
        raise ValueError(
            f"`pretrained` must hold a `{class_name}` with {architecture}. "
            f"Received: pretrained={preset!r} with {received}"
        )
    return backbone, scale, offset


def _advice(class_name, preset):
    """Says how weights come to a machine without a network."""
    return (
        "Without a network, run this on a machine that has one, and pass the "
        "folder as `pretrained`:\n"
        "    from keras_hub import layers, models\n"
        f"    for part in models.{class_name}, layers.ImageConverter:\n"
        f"        part.from_preset({preset!r}).save_to_preset(folder)\n"
    )


def _check_folder(class_name, presets, folder):
    """Checks that a folder has what keras-hub calls a preset."""
    if not os.path.isdir(folder):
        problem = "no folder has this name"
    elif not os.path.isfile(os.path.join(folder, "config.json")):
        problem = "the folder has no keras-hub configuration, `config.json`"
    else:
        return
    raise ValueError(
        f"`pretrained` must be a preset name of keras-hub ({presets}), a "
        "handle such as 'hf://...', or a folder written by "
        f"`{class_name}.save_to_preset(folder)`; {problem}. "
        f"Received: pretrained={folder!r}"
    )


def _preset_normalization(preset):
    """Finds the scale and offset that a preset's weights were trained with."""
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except FileNotFoundError:
        # `backbone.save_to_preset` writes none. Elsewhere than in a folder it
        # means that a download failed.
        if not os.path.isdir(preset):
            raise
        converter = None
    if converter is None:
        return NORMALIZATIONS["imagenet"]
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return scale, offset


def _image_shape(image_size):
    """Gives the shape of one image, after checking its size."""
    if image_size is None:
        return (None, None, 3)
    if not isinstance(image_size, int) or image_size < 32:
        raise ValueError(
            "`image_size` must be an int of at least 32 pixels, the stride of "
            f"P5, or None for any. Received: image_size={image_size!r}"
        )
    return (image_size, image_size, 3)


def _levels(features):
    """Picks the levels that every backbone gives."""
    return {level: features[level] for level in ("P3", "P4", "P5")}


def _normalize(image, scale, offset):
    # float32 also under mixed precision: bfloat16 would round the pixels.
    return layers.Rescaling(
        scale, offset, dtype="float32", name="normalization"
    )(image)


def _residual_block(x, width, name):
    """Halves height and width: two convolutions, and a pooled shortcut."""
    # A 1x1 convolution of stride 2 would skip three pixels of four; and on 3
    # channels its gradient crashes the CPU kernel of TensorFlow 2.21.
    shortcut = layers.AveragePooling2D(
        2, padding="same", name=f"{name}_shortcut_pool"
    )(x)
    shortcut = _convolution(shortcut, width, 1, 1, name=f"{name}_shortcut")
    x = _convolution(x, width, 3, 2, name=f"{name}_1")
    x = layers.ReLU(name=f"{name}_1_relu")(x)
    x = _convolution(x, width, 3, 1, name=f"{name}_2")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu")(x)


def _convolution(x, width, kernel_size, strides, name):
    x = layers.Conv2D(
        width,
        kernel_size,
        strides,
        padding="same",
        use_bias=False,  # batch normalization has one
        name=f"{name}_conv",
    )(x)
    # Runs are short: the usual momentum of 0.99 would lag behind the weights.
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
