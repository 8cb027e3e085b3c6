"""RGNN: regional gating neural network (Zhao et al., BMVC 2016)."""

import keras
from keras import layers, ops

from zoo.layers import (
    CrossRegionPooling,
    FeatureGate,
    RegionGate,
    RoiPooling,
)
from zoo.models.levels import up_to
from zoo.models.rgnn_learner import RgnnLearner

GATES = {"region": RegionGate, "feature": FeatureGate}
# Of the image's area, section 3.2.
EDGES = (1 / 32, 1 / 16, 1 / 8, 1 / 4)


def rgnn(
    backbone,
    num_classes,
    gate="region",
    level="P4",
    size=7,
    dim=4096,
    dropout=0.5,
    hidden=512,
    edges=EDGES,
    name="rgnn",
):
    """Builds RGNN: image, regions -> scores of regions -> gated -> logits.

    Every region is classified by itself, as VGG-16 would an image; a gate
    tells how much the region has to say; the largest answers of small, of
    larger and of the largest regions, by class, give the image's logits.

    Formula, from Zhao et al. (2016), https://doi.org/10.5244/C.30.72, Fig. 1
    and eqs. (1) to (4), see `zoo.layers.RoiPooling`, `RegionGate`,
    `FeatureGate` and `CrossRegionPooling`. The paper ends in a softmax, but
    its loss (eq. 6) asks of each class whether it is there; this model ends in
    logits, for a sigmoid.

    Trained as a whole from the start the gates all close. The paper trains in
    four stages (section 4.2), each with a model over the layers of this one:
    `global_model`; `open_model`; `learner(model, classification=False)`;
    `learner` with a falling `gate_weight`.

    Args:
        backbone: `keras.Model` from images to a dict of feature maps, see
            `zoo.backbones`. What it has above `level` is left out.
        num_classes: int. Number of classes.
        gate: str. `"region"`, one gate for each region; `"feature"`, one for
            each class of each region; or `"open"`, none (Table 1).
        level: str. The feature map to pool regions of, a key of the
            backbone's. P4 of VGG-16 is what the paper takes.
        size: int. Height and width of a pooled region.
        dim: int. Size of each of the layers "fc6" and "fc7". With 4096, and
            `size` 7 on VGG-16, the kernels of VGG's own layers of these names
            fit, once `(7, 7, 512, 4096)` has become `(25088, 4096)`.
        dropout: float in `[0, 1)`. Share that is dropped after either.
        hidden: int. Size of the first of the last two layers, which the paper
            does not tell. It reads `(len(edges) + 1) * num_classes` numbers,
            100 for VOC and 400 for COCO.
        edges: tuple of float. The shares of the image's area at which regions
            are divided by size; `()` for one bin of all sizes (Table 1).
        name: str. Name of the model.

    Returns:
        A functional `keras.Model` from a dict of `image`, as the backbone
        takes them, and `regions`, float32 `(batch, num_regions, 4)`: ymin,
        xmin, ymax, xmax, 0 to 1 of the image, zeros for padding, which has no
        influence; to float32 logits of shape `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of range, or the backbone has no
            such level.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = rgnn(tiny(image_size=64), num_classes=80, dim=32)
    >>> model.output_shape
    (None, 80)
    """
    if gate not in (*GATES, "open"):
        raise ValueError(
            f"`gate` must be one of {[*GATES, 'open']}. Received: gate={gate!r}"
        )

    # === Functional Model ===
    image = keras.Input(backbone.input_shape[1:], name="image")
    regions = keras.Input((None, 4), name="regions")
    features = up_to(backbone, level)(image)
    x = RoiPooling(size, name="roi_pooling")(features, regions)
    x = layers.Reshape((-1, size * size * x.shape[-1]), name="flatten")(x)
    for fc, drop in (("fc6", "drop6"), ("fc7", "drop7")):
        x = layers.Dense(dim, "relu", name=fc)(x)  # (B, R, dim)
        x = layers.Dropout(dropout, name=drop)(x)
    # float32 also under mixed precision: what follows is small, and half
    # precision would round the areas of the regions.
    scores = layers.Dense(num_classes, dtype="float32", name="fc8")(x)
    scores = layers.Softmax(dtype="float32", name="softmax")(scores)
    if gate != "open":
        scores, _ = GATES[gate](dtype="float32", name="gate")(scores, x)
    x = CrossRegionPooling(edges, dtype="float32", name="cross_region_pooling")(
        scores, regions
    )  # (B, bins * num_classes)
    x = layers.Dense(hidden, "relu", dtype="float32", name="hidden")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model({"image": image, "regions": regions}, logits, name=name)


def global_model(model):
    """Gives the model of the first stage: the whole image as one region.

    Args:
        model: `keras.Model` made by `rgnn`, or loaded from its file.

    Returns:
        A functional `keras.Model` over the same layers, from images to the
        logits of "fc8", of shape `(batch, num_classes)`.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = rgnn(tiny(image_size=64), num_classes=80, dim=32)
    >>> global_model(model).output_shape
    (None, 80)
    """
    features, _ = _layer(model, "roi_pooling").input
    image = model.input["image"]
    corner = ops.zeros_like(image[:, 0, :1, :2])  # (B, 1, 2)
    whole = ops.concatenate([corner, corner + 1], axis=-1)
    x = model.get_layer("roi_pooling")(features, whole)
    for name in ("flatten", "fc6", "drop6", "fc7", "drop7", "fc8"):
        x = model.get_layer(name)(x)
    return keras.Model(image, x[:, 0], name=f"{model.name}_global")


def open_model(model):
    """Gives the model of the second stage: every gate is open.

    Args:
        model: as `global_model`.

    Returns:
        A functional `keras.Model` over the same layers, with the inputs and
        the output of `rgnn`, without the gates.
    """
    scores, regions = _layer(model, "softmax").output, model.input["regions"]
    x = model.get_layer("cross_region_pooling")(scores, regions)
    for name in ("hidden", "logits"):
        x = model.get_layer(name)(x)
    return keras.Model(model.input, x, name=f"{model.name}_open")


def learner(model, gate_weight=1.0, classification=True):
    """Gives the model of the third and of the fourth stage: gates learn.

    Call it in the scope of the strategy that the model was made in.

    Args:
        model: as `global_model`.
        gate_weight: float or schedule, see `RgnnLearner`. The paper's fourth
            stage has `PolynomialDecay(1.0, steps, 0.0)` of
            `keras.optimizers.schedules`, with the steps of the stage.
        classification: bool. `False` trains the gates, and what they read,
            without the labels: the paper's third stage.

    Returns:
        `RgnnLearner` over the same layers, with the inputs of `rgnn`, to a
        dict of `logits`, with `classification`, and `gates`, of shape `(batch,
        num_regions, 1)`, or of `num_classes` for feature gates.

    Raises:
        ValueError: If the model has no gates.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = rgnn(tiny(image_size=64), num_classes=80, dim=32)
    >>> learner(model).output["gates"].shape
    (None, None, 1)
    """
    gate = _layer(model, "gate")
    outputs = {"logits": model.output, "gates": gate.output[1]}
    if not classification:
        # Gates do not depend on the scores, so "fc8" can be left out: its
        # weights would have no gradient.
        scores, representation = gate.input
        nothing = ops.zeros_like(representation[..., :1])
        nothing = ops.repeat(nothing, scores.shape[-1], axis=-1)
        outputs = {"gates": gate(nothing, representation)[1]}
    return RgnnLearner(
        model.input, outputs, gate_weight, name=f"{model.name}_learner"
    )


def explain(model):
    """Shows which regions RGNN lets through (the paper's Fig. 3).

    Args:
        model: as `global_model`.

    Returns:
        A functional `keras.Model` over the same layers, with the inputs of
        `rgnn`, to a dict: `regions`, those of the input; `gates`, float32
        `(batch, num_regions)`, 0 to 1, where feature gates are their mean over
        the classes, and open ones are 1. That of padding means nothing.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = rgnn(tiny(image_size=64), num_classes=80, dim=32)
    >>> explain(model).output["gates"].shape
    (None, None)
    """
    scores, regions = _layer(model, "cross_region_pooling").input
    gates = ops.ones_like(scores)
    if "gate" in [layer.name for layer in model.layers]:
        gates = model.get_layer("gate").output[1]
    outputs = {"regions": regions, "gates": ops.mean(gates, axis=-1)}
    return keras.Model(model.input, outputs, name=f"{model.name}_explain")


def _layer(model, name):
    try:
        return model.get_layer(name)
    except ValueError as error:
        raise ValueError(
            f"Expected a model made by `rgnn`, with a layer {name!r}. "
            f"Received: model={model.name!r}"
        ) from error
