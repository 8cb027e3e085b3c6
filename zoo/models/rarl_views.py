"""The ten-view protocol of RARL: ten views for two passes of the backbone."""

import math

import keras
from keras import ops

from zoo.layers import RecurrentAttention


def ten_views(model, image_size, margin=64):
    """Averages a RARL model's scores over ten views of an image.

    The views are five windows of the image, at its corners and its centre,
    and the same five of its mirror image. They are cut from the feature map,
    not from the pixels: image and mirror image go through the backbone once
    each, in place of ten views (Chen et al., 2018, implementation details).
    A window sees the pixels beside it, where a view of its own sees a border.

    The layers are the model's. Its backbone's are laid out once more for the
    larger images, with the same weights, so it may have no layer that is made
    for one size, as position embeddings are.

    Args:
        model: `keras.Model` made by `rarl`, or loaded from its file.
        image_size: int. Height and width of the whole image in pixels, the
            paper's N: 512 or 640. A multiple of the stride of the model's
            feature map, on whose grid the windows lie.
        margin: int above 0. How much smaller the windows are than the image,
            in pixels. Half of it is a multiple of the stride, too.

    Returns:
        A functional `keras.Model` over the same layers, from images of shape
        `(batch, image_size, image_size, 3)` to float32 logits of shape
        `(batch, num_classes)`, the mean over the views. Use it in inference.

    Raises:
        ValueError: If the model is not of `rarl` or looks at given regions,
            its backbone takes images of one size only, or a window is not on
            the grid of the feature map.

    Example:

    >>> from zoo.backbones import tiny
    >>> from zoo.models import rarl
    >>> model = rarl(tiny(image_size=128), num_classes=80, units=8)
    >>> ten_views(model, image_size=160, margin=32).output_shape
    (None, 80)
    """
    attention = _attention(model)
    if not 0 < margin < image_size:
        raise ValueError(
            "`margin` must be above 0 and below `image_size`. "
            f"Received: margin={margin}, image_size={image_size}"
        )
    features = keras.Model(model.input, attention.input)
    resized = _resized(features, image_size)
    stride = _stride(resized)
    if model.input_shape[1] and stride != _stride(features):
        raise ValueError(
            "`ten_views` needs a backbone that takes images of any size. "
            f"Received: model={model.name!r}, made for {model.input_shape}"
        )
    if image_size % stride or margin % (2 * stride):
        raise ValueError(
            f"The feature map has a stride of {stride} pixels, so `image_size` "
            f"must be a multiple of {stride} and `margin` of {2 * stride}. "
            f"Received: image_size={image_size}, margin={margin}"
        )

    # === Functional Model ===
    image = keras.Input((image_size, image_size, 3), name="image")
    both = ops.concatenate([image, ops.flip(image, axis=2)], axis=0)
    features = resized(both)
    shift = margin // stride
    side = features.shape[1] - shift
    corners = [(y, x) for y in (0, shift) for x in (0, shift)]
    windows = [
        features[:, y : y + side, x : x + side]
        for y, x in (*corners, (shift // 2, shift // 2))
    ]
    views = ops.concatenate(windows, axis=0)  # (10 * batch, side, side, C)
    scores = attention(views)["scores"]  # (10 * batch, 1, K)
    by_view = ops.reshape(scores, (10, -1, attention.num_classes))
    logits = ops.mean(by_view, axis=0)
    return keras.Model(image, logits, name=f"{model.name}_ten_views")


def _attention(model):
    for layer in model.layers:
        if isinstance(layer, RecurrentAttention):
            break
    else:
        raise ValueError(
            "`ten_views` needs a model made by `rarl`. "
            f"Received: model={model.name!r}"
        )
    if layer.locations == "given":
        raise ValueError(
            "`ten_views` needs a model that finds its places itself, since "
            "given regions are those of one view. "
            f"Received: locations={layer.locations!r}"
        )
    return layer


def _resized(model, image_size):
    """Lays the same layers out for another size, also those of models in it."""

    def resize(layer):
        inner = isinstance(layer, keras.Model)
        return _resized(layer, image_size) if inner else layer

    image = keras.Input((image_size, image_size, 3), name=model.input.name)
    return keras.models.clone_model(
        model, input_tensors=image, clone_function=resize
    )


def _stride(features):
    """Gives the stride of a model's map; a map's size may be rounded."""
    return 2 ** round(
        math.log2(features.input_shape[1] / features.output_shape[1])
    )
