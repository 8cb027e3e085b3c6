"""The twins of every method: global pooling of per-position class scores."""

import keras

from zoo.models.levels import deepest

POOLINGS = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
}


def baseline(backbone, num_classes, pooling="avg", name="baseline"):
    """Builds image -> backbone -> scores of each position -> pooled logits.

    The classifier is a 1x1 convolution, applied before the pooling. For
    `"avg"` that is the same number as pooling first, and it keeps what
    `add_max_pooling` needs: a score of each class at each position.

    Args:
        backbone: `keras.Model` from images to a dict of feature maps, see
            `zoo.backbones`; the deepest level is used.
        num_classes: int. Number of classes.
        pooling: str. `"avg"` or `"max"`, over all positions.
        name: str. Name of the model.

    Returns:
        A functional `keras.Model` from images, as the backbone takes them, to
        float32 logits of shape `(batch, num_classes)`.

    Raises:
        ValueError: If `pooling` is neither `"avg"` nor `"max"`.

    Example:

    >>> from zoo.backbones import tiny
    >>> baseline(tiny(image_size=64), num_classes=80).output_shape
    (None, 80)
    """
    if pooling not in POOLINGS:
        raise ValueError(
            f"`pooling` must be one of {sorted(POOLINGS)}. "
            f"Received: pooling={pooling!r}"
        )
    image = keras.Input(backbone.input_shape[1:], name="image")
    features = deepest(backbone(image))
    # float32 also under mixed precision: the loss exponentiates the logits.
    scores = keras.layers.Conv2D(
        num_classes, 1, dtype="float32", name="classifier"
    )(features)
    logits = POOLINGS[pooling](name="logits", dtype="float32")(scores)
    return keras.Model(image, logits, name=name)


def add_max_pooling(model, residual_weight):
    """Adds the maximum to a trained "avg" baseline: no training needed.

    Formula, from Zhu and Wu (2021), https://arxiv.org/abs/2108.02456, Fig. 1,
    with `s[i, k]` the score of class `k` at position `i`:

        logit[k] = mean_i s[i, k] + lambda * max_i s[i, k]

    Args:
        model: `keras.Model` made by `baseline` with `pooling="avg"`, or loaded
            from its file.
        residual_weight: float. `lambda` above; 0 gives the model back.

    Returns:
        A functional `keras.Model` over the same layers, images to logits.

    Raises:
        ValueError: If the model is not an "avg" baseline.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = baseline(tiny(image_size=64), num_classes=80)
    >>> add_max_pooling(model, residual_weight=0.2).output_shape
    (None, 80)
    """
    average = model.layers[-1]
    if not isinstance(average, keras.layers.GlobalAveragePooling2D):
        raise ValueError(
            '`add_max_pooling` needs a `baseline` with `pooling="avg"`. '
            f"Received: model={model.name!r}, which ends in {average.name!r}"
        )
    scores = average.input
    largest = keras.layers.GlobalMaxPooling2D(name="max")(scores)
    residual = keras.layers.Rescaling(residual_weight, name="residual")(largest)
    logits = keras.layers.Add(name="sum")([model.output, residual])
    return keras.Model(model.input, logits, name=f"{model.name}_with_max")


def explain(model):
    """Shows the score of each class at each position.

    Args:
        model: `keras.Model` made by `baseline` or `add_max_pooling`.

    Returns:
        A functional `keras.Model` over the same layers, from images to
        float32 maps of shape `(batch, height, width, num_classes)`, in the
        units of the logits.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = baseline(tiny(image_size=64), num_classes=80)
    >>> explain(model).output_shape
    (None, 2, 2, 80)
    """
    scores = model.get_layer("classifier").output
    return keras.Model(model.input, scores, name=f"{model.name}_explain")
