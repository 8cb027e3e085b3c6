"""Backbones: pixels in, feature maps out.

Every function builds a functional `keras.Model` that carries the function's
name and takes

    images    float32 (batch, height, width, 3), RGB, 0 to 255

to a dict of feature maps of shape `(batch, height, width, channels)`. A key
is log2 of the map's stride: "P5" is 32 times smaller than the image. A size
that is no multiple of the stride is rounded up, by `vgg16` down. Only
`mobilenet_v2(None)` takes no other sizes than multiples of 32: it pads as for
even maps, so of another size it loses the border without a word. The first
layer, "normalization", brings pixels to the range that the weights were
trained on, so nobody outside has to know it.

    function         channels of the levels           trainable     parameters
    tiny             P3 48, P4 96, P5 160               559,152        561,216
    resnet101        P3 512, P4 1024, P5 2048        42,500,160     42,605,504
    resnet152        P3 512, P4 1024, P5 2048        58,143,808     58,295,232
    vgg16            P3 512, P4 512                  14,714,688     14,714,688
    vit_b16          P4 768                          85,798,656     85,798,656
    vit_l16          P4 1024                        303,301,632    303,301,632
    efficientnet_b3  P3 48, P4 136, P5 1536          10,696,232     10,783,528
    mobilenet_v2     P3 32, P4 96, P5 1280            2,223,872      2,257,984

Every trainable weight has a share in the levels. The vision transformers are
counted at 224 pixels: they have a position embedding for each patch.
"""

import importlib.resources
import os

import keras
import keras_hub
from keras import layers, ops

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

# What `pretrained="imagenet"` stands for: the weights closest to the papers'.
IMAGENET_PRESETS = {
    "resnet101": "hf://timm/resnet101.tv_in1k",
    "resnet152": "hf://timm/resnet152.tv_in1k",
    "vgg16": "hf://timm/vgg16.tv_in1k",
    "vit_b16": "vit_base_patch16_224_imagenet",
    "vit_l16": "vit_large_patch16_224_imagenet",
    "efficientnet_b3": "hf://timm/efficientnet_b3.ra2_in1k",
}

# What defines each network, in the arguments of keras-hub's class. A preset
# must agree with it.

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
RESNET152 = {**RESNET101, "stackwise_num_blocks": [3, 8, 36, 3]}
VGG16 = {
    "stackwise_num_repeats": [2, 2, 3, 3, 3],
    "stackwise_num_filters": [64, 128, 256, 512, 512],
}
VIT_B16 = {
    "patch_size": [16, 16],
    "num_layers": 12,
    "num_heads": 12,
    "hidden_dim": 768,
    "mlp_dim": 3072,
    "use_class_token": True,
}
VIT_L16 = {
    **VIT_B16,
    "num_layers": 24,
    "num_heads": 16,
    "hidden_dim": 1024,
    "mlp_dim": 4096,
}
# B0 of the paper, 1.2 times wider and 1.4 times deeper. It pads as PyTorch
# does, not as TensorFlow's "same", so weights of `tf_efficientnet` do not fit.
EFFICIENTNET_B3 = {
    "stackwise_width_coefficients": [1.2] * 7,
    "stackwise_depth_coefficients": [1.4] * 7,
    "stackwise_kernel_sizes": [3, 3, 5, 3, 5, 5, 3],
    "stackwise_num_repeats": [1, 2, 2, 3, 3, 4, 1],
    "stackwise_input_filters": [32, 16, 24, 40, 80, 112, 192],
    "stackwise_output_filters": [16, 24, 40, 80, 112, 192, 320],
    "stackwise_expansion_ratios": [1, 6, 6, 6, 6, 6, 6],
    "stackwise_strides": [1, 2, 2, 2, 1, 2, 1],
    "stackwise_squeeze_and_excite_ratios": [0.25] * 7,
    "stackwise_block_types": ["v1"] * 7,
    "use_depth_divisor_as_min_depth": True,
    "cap_round_filter_decrease": True,
}

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
    return _resnet(
        "resnet101", RESNET101, image_size, pretrained, normalization
    )


def resnet152(image_size=448, pretrained=None, normalization=None):
    """Builds ResNet-152 v1.5, torchvision's `resnet152` without its head.

    Formula, from He et al. (2016), https://arxiv.org/abs/1512.03385, table 1.

    Args:
        image_size: int or `None`. As of `resnet101`.
        pretrained: As of `resnet101`. `"imagenet"` is torchvision's own
            weights: the preset `hf://timm/resnet152.tv_in1k`.
        normalization: As of `resnet101`.

    Returns:
        A functional `keras.Model` named "resnet152", from images to `{"P3",
        "P4", "P5"}` with 512, 1024 and 2048 channels.

    Raises:
        ValueError: As `resnet101`.

    Example:

    >>> resnet152(image_size=None).output["P5"].shape  # doctest: +SKIP
    (None, None, None, 2048)
    """
    return _resnet(
        "resnet152", RESNET152, image_size, pretrained, normalization
    )


def vgg16(image_size=448, pretrained=None, normalization=None):
    """Builds the 13 convolutions of VGG-16, torchvision's `vgg16.features`.

    The last pooling is left out: P4 is conv5_3, which RARL and RGNN crop
    their regions from, and P3 is conv4_3, each after its ReLU.

    Formula, from Simonyan and Zisserman (2015),
    https://arxiv.org/abs/1409.1556, table 1, column D.

    Args:
        image_size: int or `None`. As of `resnet101`.
        pretrained: As of `resnet101`, for keras-hub's `VGGBackbone`.
            `"imagenet"` is torchvision's own weights: the preset
            `hf://timm/vgg16.tv_in1k`.
        normalization: As of `resnet101`.

    Returns:
        A functional `keras.Model` named "vgg16", from images to `{"P3",
        "P4"}` with 512 channels each. A size is rounded down.

    Raises:
        ValueError: As `resnet101`.

    Example:

    >>> vgg16(image_size=64).output["P4"].shape
    (None, 4, 4, 512)
    """
    backbone, pixels = _from_keras_hub(
        "vgg16",
        keras_hub.models.VGGBackbone,
        VGG16,
        pretrained,
        normalization,
        image_shape=_image_shape(image_size),
    )
    features = {
        "P3": backbone.get_layer("block4_conv3").output,
        "P4": backbone.get_layer("block5_conv3").output,
    }
    return _feature_pyramid("vgg16", backbone.input, features, pixels)


def vgg16_fully_connected(pretrained):
    """Loads FC6 and FC7, the layers between VGG-16's maps and its classifier.

    RGNN reads each region of P4 with them, as a map of 7x7 positions.

    Args:
        pretrained: As of `vgg16`. Of the folders, those have the layers that
            the whole classifier was saved to, from where `vgg16` loads too:
            `keras_hub.models.VGGImageClassifier.save_to_preset(folder)`.

    Returns:
        `None` where `pretrained` has no such layers: it is `None`, or a folder
        with a backbone alone. Else a pair `(kernel, bias)` of arrays for each
        of the two, as `keras.layers.Dense` takes them: of VGG-16 `(25088,
        4096)`, `(4096,)` and `(4096, 4096)`, `(4096,)`. The rows of the first
        kernel stand as `keras.layers.Flatten` lays out a map of shape
        `(7, 7, 512)`. A classifier of one's own may have other sizes.

    Raises:
        ValueError: If `pretrained` cannot be loaded. The message says what to
            do.

    Example:

    >>> vgg16_fully_connected(pretrained=None) is None
    True
    """
    _check_choices(pretrained, normalization=None)
    if pretrained is None:
        return None
    if pretrained == "imagenet":
        pretrained = IMAGENET_PRESETS["vgg16"]
    preset = os.fspath(pretrained)
    # keras-hub writes metadata with all that it saves, a task with classifiers
    # only. A folder in the format of timm has neither, but has the layers.
    saved, task = (
        os.path.isfile(os.path.join(preset, name))
        for name in ("metadata.json", "task.json")
    )
    if saved and not task:
        return None
    classifier, _ = _from_preset(
        keras_hub.models.VGGImageClassifier, preset, options={}
    )
    fully_connected = []
    for name in ("fc1", "fc2"):
        kernel, bias = classifier.head.get_layer(name).get_weights()
        # Most presets have convolutions here, of 7x7 and of 1x1 positions.
        fully_connected.append((kernel.reshape(-1, len(bias)), bias))
    return tuple(fully_connected)


def vit_b16(image_size=224, pretrained=None, normalization=None):
    """Builds the vision transformer ViT-B/16 without its head.

    The map holds the patch tokens after the last layer normalization. The
    class token takes part in the attention of every block, then is dropped.

    Formula, from Dosovitskiy et al. (2021), https://arxiv.org/abs/2010.11929,
    eqs. (1) to (3), table 1.

    Args:
        image_size: int. Height and width of the images, a multiple of the
            16 pixels of a patch. By default the 224 pixels of pretraining,
            which takes the position embeddings as they were learnt. For
            another size those of the preset, whatever its own size, are
            resized: bicubic with antialiasing, as in timm.
        pretrained: As of `resnet101`, for keras-hub's `ViTBackbone`.
            `"imagenet"` is the preset `"vit_base_patch16_224_imagenet"`: the
            authors' own weights, trained on ImageNet-21k and fine-tuned on
            ImageNet-1k, which CSRA started from.
        normalization: As of `resnet101`, but pixels go to -1 to 1 where
            `resnet101` falls back on `"imagenet"`: what the authors did.

    Returns:
        A functional `keras.Model` named "vit_b16", from images to `{"P4"}`
        with 768 channels.

    Raises:
        ValueError: As `resnet101`.

    Example:

    >>> vit_b16(image_size=64).output["P4"].shape
    (None, 4, 4, 768)
    """
    return _vit("vit_b16", VIT_B16, image_size, pretrained, normalization)


def vit_l16(image_size=224, pretrained=None, normalization=None):
    """Builds the vision transformer ViT-L/16 without its head.

    Formula, from Dosovitskiy et al. (2021), https://arxiv.org/abs/2010.11929,
    eqs. (1) to (3), table 1.

    Args:
        image_size: int. As of `vit_b16`.
        pretrained: As of `vit_b16`. `"imagenet"` is the preset
            `"vit_large_patch16_224_imagenet"`.
        normalization: As of `vit_b16`.

    Returns:
        A functional `keras.Model` named "vit_l16", from images to `{"P4"}`
        with 1024 channels.

    Raises:
        ValueError: As `resnet101`.

    Example:

    >>> vit_l16().output["P4"].shape  # doctest: +SKIP
    (None, 14, 14, 1024)
    """
    return _vit("vit_l16", VIT_L16, image_size, pretrained, normalization)


def efficientnet_b3(image_size=448, pretrained=None, normalization=None):
    """Builds EfficientNet-B3, torchvision's `efficientnet_b3`, without head.

    P5 is what the classifier would pool: the 1x1 convolution to 1536 channels
    after the last block is part of it. Blocks are never dropped in training.

    Formula, from Tan and Le (2019), https://arxiv.org/abs/1905.11946, table 1.

    Args:
        image_size: int or `None`. As of `resnet101`.
        pretrained: As of `resnet101`, for keras-hub's `EfficientNetBackbone`.
            `"imagenet"` is timm's weights, trained with RandAugment: the
            preset `hf://timm/efficientnet_b3.ra2_in1k`.
        normalization: As of `resnet101`.

    Returns:
        A functional `keras.Model` named "efficientnet_b3", from images to
        `{"P3", "P4", "P5"}` with 48, 136 and 1536 channels.

    Raises:
        ValueError: As `resnet101`.

    Example:

    >>> efficientnet_b3(image_size=64).output["P5"].shape
    (None, 2, 2, 1536)
    """
    backbone, pixels = _from_keras_hub(
        "efficientnet_b3",
        keras_hub.models.EfficientNetBackbone,
        EFFICIENTNET_B3,
        pretrained,
        normalization,
        input_shape=_image_shape(image_size),
        # As in the presets made from timm: keras-hub's rate grows beyond the
        # paper's, since it counts the blocks of B0.
        dropout=0.0,
    )
    features = _levels(backbone.pyramid_outputs)
    return _feature_pyramid("efficientnet_b3", backbone.input, features, pixels)


def mobilenet_v2(image_size=448, pretrained=None, normalization=None):
    """Builds MobileNetV2 of `keras.applications` without its head.

    P5 is what the classifier would pool: the 1x1 convolution to 1280 channels
    after the last block is part of it. The network is TensorFlow's: its
    padding (at the right and bottom of even sizes) and the epsilon of its
    batch normalization (0.001) are not torchvision's.

    Formula, from Sandler et al. (2018), https://arxiv.org/abs/1801.04381,
    table 2.

    Args:
        image_size: int or `None`. Height and width of the images, at least
            32 pixels; `None` takes any multiples of 32.
        pretrained: `None` for random weights, `"imagenet"` for those that
            Keras downloads, or a file that `save` (`.keras`) or
            `save_weights` (`.weights.h5`) of this model wrote.
        normalization: `None`, or a key of `NORMALIZATIONS`. `None` is
            `"symmetric"`, pixels of -1 to 1, as the weights of Keras need.

    Returns:
        A functional `keras.Model` named "mobilenet_v2", from images to
        `{"P3", "P4", "P5"}` with 32, 96 and 1280 channels.

    Raises:
        ValueError: If an argument is out of range, or if `pretrained` cannot
            be loaded. The message says what to do.

    Example:

    >>> mobilenet_v2(image_size=64).output["P5"].shape
    (None, 2, 2, 1280)
    """
    _check_choices(pretrained, normalization)
    network = keras.applications.MobileNetV2(
        input_shape=_image_shape(image_size), include_top=False, weights=None
    )
    features = {
        "P3": network.get_layer("block_5_add").output,
        "P4": network.get_layer("block_12_add").output,
        "P5": network.get_layer("out_relu").output,
    }
    pixels = NORMALIZATIONS[normalization or "symmetric"]
    model = _feature_pyramid("mobilenet_v2", network.input, features, pixels)
    try:
        if pretrained == "imagenet":
            # At a size that Keras has weights for: at others it warns.
            source = keras.applications.MobileNetV2(
                input_shape=(224, 224, 3), include_top=False
            )
            network.set_weights(source.get_weights())
        elif pretrained is not None:
            model.load_weights(pretrained)
    # Downloads, and each file format, have their own exceptions.
    except Exception as error:
        advice = (
            "Without a network, run this on a machine that has one, and pass "
            "the file:\n"
            "    from zoo.backbones import mobilenet_v2\n"
            "    model = mobilenet_v2(pretrained='imagenet')\n"
            "    model.save_weights('mobilenet_v2.weights.h5')\n"
        )
        if pretrained != "imagenet" and os.path.exists(pretrained):
            advice = ""  # it is there, and no MobileNetV2
        raise ValueError(
            "`pretrained` of `mobilenet_v2` could not be loaded: "
            f"{type(error).__name__}: {error}\n"
            "It must be None, 'imagenet', or a file that `save` or "
            f"`save_weights` of this model wrote. {advice}"
            f"Received: pretrained={os.fspath(pretrained)!r}"
        ) from error
    return model


def _resnet(name, architecture, image_size, pretrained, normalization):
    backbone, pixels = _from_keras_hub(
        name,
        keras_hub.models.ResNetBackbone,
        architecture,
        pretrained,
        normalization,
        image_shape=_image_shape(image_size),
    )
    features = _levels(backbone.pyramid_outputs)
    return _feature_pyramid(name, backbone.input, features, pixels)


def _vit(name, architecture, image_size, pretrained, normalization):
    patch_size = architecture["patch_size"][0]
    if (
        not isinstance(image_size, int)
        or image_size < patch_size
        or image_size % patch_size
    ):
        raise ValueError(
            f"`image_size` of `{name}` must be a multiple of {patch_size} "
            "pixels, the size of a patch; its position embeddings are made "
            f"for one size. Received: image_size={image_size!r}"
        )
    image_shape = (image_size, image_size, 3)
    # A preset is loaded at its own size.
    options = {"image_shape": image_shape} if pretrained is None else {}
    backbone, pixels = _from_keras_hub(
        name,
        keras_hub.models.ViTBackbone,
        architecture,
        pretrained,
        normalization,
        default_normalization="symmetric",
        name="vit",
        **options,
    )
    if tuple(backbone.image_shape) != image_shape:
        backbone = _resize_vit(backbone, image_shape)

    # === Functional Model ===
    image = keras.Input(image_shape, name="image")
    tokens = backbone(_normalize(image, *pixels))  # (B, 1 + H*W, C)
    patches = layers.Cropping1D((1, 0), name="patches")(tokens)
    side = image_size // patch_size
    features = layers.Reshape((side, side, tokens.shape[-1]), name="map")(
        patches
    )
    return keras.Model(image, {"P4": features}, name=name)


def _resize_vit(backbone, image_shape):
    """Copies a `ViTBackbone`, its position embeddings for another size."""
    resized = type(backbone).from_config(
        {**backbone.get_config(), "image_shape": image_shape}
    )
    old_grid, new_grid = (
        [side // backbone.patch_size[0] for side in shape[:2]]
        for shape in (backbone.image_shape, image_shape)
    )
    embedding = resized.get_layer("vit_patching_and_embedding")
    for old, new in zip(backbone.weights, resized.weights, strict=True):
        if new is embedding.position_embedding.embeddings:  # (1 + H*W, C)
            grid = ops.reshape(old[1:], (1, *old_grid, -1))
            grid = ops.image.resize(
                grid, new_grid, interpolation="bicubic", antialias=True
            )
            grid = ops.reshape(grid, (-1, old.shape[-1]))
            # The class token has no place in the image.
            old = ops.concatenate([old[:1], grid])
        new.assign(old)
    return resized


def _feature_pyramid(name, inputs, features, pixels):
    """Makes the backbone of a network's maps, behind its normalization."""
    # === Functional Model ===
    pyramid = keras.Model(inputs, features, name="pyramid")
    image = keras.Input(inputs.shape[1:], name="image")
    features = pyramid(_normalize(image, *pixels))
    return keras.Model(image, features, name=name)


def _from_keras_hub(
    name,
    /,
    backbone_class,
    architecture,
    pretrained,
    normalization,
    default_normalization="imagenet",
    **options,
):
    """Builds or loads a network of keras-hub; gives its normalization too."""
    _check_choices(pretrained, normalization)
    if pretrained is None:
        backbone, found = backbone_class(**architecture, **options), None
    else:
        if pretrained == "imagenet":
            pretrained = IMAGENET_PRESETS[name]
        backbone, found = _load_preset(
            backbone_class, architecture, os.fspath(pretrained), options
        )
    if normalization is not None or found is None:
        found = NORMALIZATIONS[normalization or default_normalization]
    return backbone, found


def _check_choices(pretrained, normalization):
    if not isinstance(pretrained, str | os.PathLike | None):
        raise ValueError(
            "`pretrained` must be None, a str or a path. "
            f"Received: pretrained={pretrained!r}"
        )
    # In a list, since what was received need not be hashable.
    if normalization not in [None, *NORMALIZATIONS]:
        raise ValueError(
            f"`normalization` must be None or one of {list(NORMALIZATIONS)}. "
            f"Received: normalization={normalization!r}"
        )


def _load_preset(backbone_class, architecture, preset, options):
    """Loads a network, which must be `architecture`, and its normalization."""
    backbone, normalization = _from_preset(backbone_class, preset, options)
    config = backbone.get_config()
    received = {
        # A preset's file has lists where its code may have tuples.
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.items()
        if key in architecture
    }
    if received != architecture:
        raise ValueError(
            f"`pretrained` must hold a `{backbone_class.__name__}` with "
            f"{architecture}. Received: pretrained={preset!r} with {received}"
        )
    return backbone, normalization


def _from_preset(hub_class, preset, options):
    """Loads a preset of keras-hub: model and, if known, normalization."""
    class_name = hub_class.__name__
    if preset not in hub_class.presets and "://" not in preset:
        _check_folder(class_name, sorted(hub_class.presets), preset)
    try:
        model = hub_class.from_preset(preset, **options)
        return model, _preset_normalization(preset)
    # Each hub, and each file format, has its own exceptions.
    except Exception as error:
        raise ValueError(
            f"`pretrained` could not be loaded as a `{class_name}` of "
            f"keras-hub: {type(error).__name__}: {error}\n"
            f"{'' if os.path.isdir(preset) else _advice(class_name, preset)}"
            "`pretrained=None` gives random weights. "
            f"Received: pretrained={preset!r}"
        ) from error


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
    """Finds the scale and offset of a preset, `None` if it names neither."""
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except FileNotFoundError:
        # `backbone.save_to_preset` writes none. Elsewhere than in a folder it
        # means that a download failed.
        if not os.path.isdir(preset):
            raise
        converter = None
    if converter is None:
        return None
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return scale, offset


def _image_shape(image_size):
    """Gives the shape of one image, after checking its size."""
    if image_size is None:
        return (None, None, 3)
    if not isinstance(image_size, int) or image_size < 32:
        raise ValueError(
            "`image_size` must be an int of at least 32 pixels, or None for "
            f"any. Received: image_size={image_size!r}"
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
