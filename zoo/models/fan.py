"""FAN: feature attention network (Yan et al., IEEE Access 2019)."""

import keras
from keras import layers

from zoo.layers import Correlation, FeatureRefinement, FeatureTransform
from zoo.models.baseline import POOLINGS


def fan(
    backbone,
    num_classes,
    dim=512,
    pooling="max",
    refinement=True,
    correlation=True,
    residual=False,
    name="fan",
):
    """Builds FAN: image -> three levels -> refined -> correlated -> logits.

    Every level comes to the size of P5 and to `dim` channels; the coarser
    refines the finer, from the top down; the three together give one map,
    whose pooled channels are classified. The paper counts the levels by
    ResNet's stages: its x2, x3, x4 and P2, P3, P4 are P3, P4, P5 here.

    Formula, from Yan et al. (2019),
    https://doi.org/10.1109/ACCESS.2019.2929512, Fig. 2 and eqs. (1) to (9),
    see `zoo.layers.FeatureTransform`, `FeatureRefinement`, `Correlation`.

    Args:
        backbone: `keras.Model` from images to a dict of feature maps, see
            `zoo.backbones`; P3, P4 and P5 are used. Where P5 is missing it is
            P4 after a 2x2 max pooling, as at the end of VGG-16.
        num_classes: int. Number of classes.
        dim: int. Number of channels of the head's maps, at least 1.
        pooling: str. `"max"` or `"avg"`, every global pooling of the head
            (Table 6).
        refinement: bool. `False` leaves the refinement network out: levels
            are only pooled and brought to `dim` channels (Table 5).
        correlation: bool. `False` leaves the correlation network out: logits
            are the mean of a classifier on each level (Table 5).
        residual: bool. Whether `Correlation` adds P5, which the paper's
            eq. (4) does not; needs `correlation`.
        name: str. Name of the model.

    Returns:
        A functional `keras.Model` from images, as the backbone takes them, to
        float32 logits of shape `(batch, num_classes)`.

    Raises:
        ValueError: If `pooling` is neither `"max"` nor `"avg"`, `residual`
            comes without `correlation`, the backbone has no P3 or P4, or the
            levels do not come to one size. Of an unknown image size that is
            for the caller to see to: multiples of 32 always do.

    Example:

    >>> from zoo.backbones import tiny
    >>> fan(tiny(image_size=64), num_classes=80, dim=32).output_shape
    (None, 80)
    """
    if pooling not in POOLINGS:
        raise ValueError(
            f"`pooling` must be one of {sorted(POOLINGS)}. "
            f"Received: pooling={pooling!r}"
        )
    if residual and not correlation:
        raise ValueError(
            "`residual` needs `correlation`, which it is a part of. "
            f"Received: residual={residual}, correlation={correlation}"
        )
    if not {"P3", "P4"} <= set(backbone.output):
        raise ValueError(
            "`fan` needs a backbone with the levels P3 and P4. Received: "
            f"backbone={backbone.name!r} with {sorted(backbone.output)}"
        )

    # === Functional Model ===
    image = keras.Input(backbone.input_shape[1:], name="image")
    features = backbone(image)
    if "P5" not in features:
        p5 = layers.MaxPooling2D(2, name="pool5")(features["P4"])
        features = {**features, "P5": p5}
    bring_to_one_size = _transform if refinement else _project
    p3, p4, p5 = bring_to_one_size(features, dim)
    sizes = [level.shape[1:3] for level in (p3, p4, p5)]
    if len(set(sizes)) > 1:
        raise ValueError(
            "The levels must come to one size: the image size of the "
            "backbone must be a multiple of 32. Received: image size "
            f"{backbone.input_shape[1:3]}, which gives {sizes}"
        )
    if refinement:
        p4 = FeatureRefinement(pooling, name="refine_p4")(p5, p4)
        p3 = FeatureRefinement(pooling, name="refine_p3")(p4, p3)
    if correlation:
        correlated = Correlation(dim, residual, name="correlation")(p4, p3, p5)
        maps = {"correlation": correlated}
    else:
        maps = {"p3": p3, "p4": p4, "p5": p5}
    # float32 also under mixed precision: the loss exponentiates the logits.
    logits = []
    for source in maps:
        pool = POOLINGS[pooling](dtype="float32", name=f"pool_{source}")
        classifier = layers.Dense(
            num_classes, dtype="float32", name=f"classifier_{source}"
        )
        logits.append(classifier(pool(maps[source])))
    return keras.Model(image, _mean(logits, "logits"), name=name)


def explain(model):
    """Shows where a FAN model sees each class (the paper's Fig. 4).

    Class activation maps: the classifier that reads the pooled channels reads
    each position of the map before the pooling. Without `correlation` they
    are the mean over the three levels, as the logits are.

    Args:
        model: `keras.Model` made by `fan`, or loaded from its file.

    Returns:
        A functional `keras.Model` over the same layers, from images to
        float32 maps of shape `(batch, height, width, num_classes)`, in the
        units of the logits. With `pooling="avg"` their mean over positions is
        the logits; with `"max"` each channel's maximum may lie elsewhere.

    Raises:
        ValueError: If `fan` did not make the model.

    Example:

    >>> from zoo.backbones import tiny
    >>> explain(fan(tiny(image_size=64), num_classes=80, dim=32)).output_shape
    (None, 2, 2, 80)
    """
    scores = [
        model.get_layer(pool.name.replace("pool", "classifier"))(pool.input)
        for pool in model.layers
        if pool.name.startswith("pool_")
    ]
    if not scores:
        raise ValueError(
            "`explain` needs a model made by `fan`. "
            f"Received: model={model.name!r}"
        )
    maps = _mean(scores, "maps")
    return keras.Model(model.input, maps, name=f"{model.name}_explain")


def _transform(features, dim):
    """Brings P3, P4, P5 to one size: a transform before each pooling."""
    p3 = FeatureTransform(dim, name="transform_p3_1")(features["P3"])
    p3 = _shrink(p3, 2, name="shrink_p3_1")
    p3 = FeatureTransform(dim, name="transform_p3_2")(p3)
    p3 = _shrink(p3, 2, name="shrink_p3_2")
    p4 = FeatureTransform(dim, name="transform_p4")(features["P4"])
    p4 = _shrink(p4, 2, name="shrink_p4")
    p5 = FeatureTransform(dim, name="transform_p5")(features["P5"])
    return p3, p4, p5


def _project(features, dim):
    """Brings P3, P4, P5 to one size, by a pooling and a 1x1 convolution.

    In this order, since it gives the same numbers with fewer products.
    """
    p3 = _shrink(features["P3"], 4, name="shrink_p3")
    p3 = layers.Conv2D(dim, 1, name="project_p3")(p3)
    p4 = _shrink(features["P4"], 2, name="shrink_p4")
    p4 = layers.Conv2D(dim, 1, name="project_p4")(p4)
    p5 = layers.Conv2D(dim, 1, name="project_p5")(features["P5"])
    return p3, p4, p5


def _shrink(features, factor, name):
    return layers.AveragePooling2D(factor, padding="same", name=name)(features)


def _mean(tensors, name):
    """Averages tensors in float32; one is itself."""
    if len(tensors) == 1:
        return tensors[0]
    return layers.Average(dtype="float32", name=name)(tensors)
