"""RARL: recurrent attentional reinforcement learning (Chen et al., 2018)."""

import keras

from zoo.layers import RecurrentAttention
from zoo.models.levels import up_to
from zoo.models.reinforce import Reinforce


def rarl(
    backbone,
    num_classes,
    num_steps=5,
    scales=(80 / 448, 160 / 448, 320 / 448),
    ratios=(2.0, 1.0, 0.5),
    units=512,
    size=7,
    level="P4",
    lstm="both",
    locations="learned",
    deviation=0.11,
    episodes=1,
    seed=None,
    name="rarl",
):
    """Builds RARL: image -> backbone -> regions, place after place -> scores.

    The network looks at the whole image once, then at some regions around one
    place after another. Which places these are is its own choice, learnt by
    reinforcement: the reward is how many of an image's labels it ranks first.
    Each class has the score of the region that shows it best.

    Training takes `learner(model)`, over the same layers.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1712.07465, eqs.
    (1) to (4), see `zoo.layers.RecurrentAttention`.

    Args:
        backbone: `keras.Model` from images to a dict of feature maps, see
            `zoo.backbones`. What it has above `level` is left out.
        num_classes: int. Number of classes.
        num_steps: int. Places to look at, the paper's T (Table 6).
        scales: sequence of float. Sides of the regions, as shares of the
            image's: the paper's 80, 160 and 320 pixels of a view of 448.
        ratios: sequence of float. Their heights over widths.
        units: int. Size of the hidden state and of what it reads, which the
            paper does not give.
        size: int. Rows and columns that a region is brought to.
        level: str. The feature map to cut regions from, a key of the
            backbone's; P4 is VGG-16's conv5_3.
        lstm: str. `"both"`, `"location"` or `"none"` (Table 4: C, B, A).
        locations: str. `"learned"`, `"random"`, or `"given"`: the model has
            a second input, one region a step (Table 3).
        deviation: float. Of the places that are drawn in training.
        episodes: int. Draws of an image's places in a training step.
        seed: int or `None`. Of these draws, and of random places.
        name: str. Name of the model.

    Returns:
        A functional `keras.Model` from images, as the backbone takes them, to
        float32 logits of shape `(batch, num_classes)`; with
        `locations="given"` from a dict of `image` and `regions`, float32
        `(batch, num_regions, 4)`: ymin xmin ymax xmax, 0 to 1 of the image.
        The training compares their softmax with the labels, so 0 is no
        border between present and absent: rank them, take their softmax, or
        find one (`zoo.metrics.score_threshold`), as the recipe does.

    Raises:
        ValueError: If an argument is out of range, or the backbone has no
            such level.

    Example:

    >>> from zoo.backbones import tiny
    >>> rarl(tiny(image_size=64), num_classes=80, units=8).output_shape
    (None, 80)
    """
    # === Functional Model ===
    image = inputs = keras.Input(backbone.input_shape[1:], name="image")
    arguments = [up_to(backbone, level)(image)]
    if locations == "given":
        regions = keras.Input((None, 4), name="regions")
        inputs = {"image": image, "regions": regions}
        arguments.append(regions)
    outputs = RecurrentAttention(
        num_classes,
        num_steps=num_steps,
        scales=scales,
        ratios=ratios,
        units=units,
        size=size,
        lstm=lstm,
        locations=locations,
        deviation=deviation,
        episodes=episodes,
        seed=seed,
        name="attention",
    )(*arguments)
    # Outside of training there is one episode.
    return keras.Model(inputs, outputs["scores"][:, 0], name=name)


def learner(model, policy_weight=1.0):
    """Gives the model that learns classes and places together.

    Call it in the scope of the strategy that the model was made in.

    Args:
        model: `keras.Model` made by `rarl`, or loaded from its file.
        policy_weight: as `Reinforce`.

    Returns:
        `Reinforce` over the same layers.
    """
    attention = model.get_layer("attention")
    return Reinforce(
        model.input,
        _look(model),
        deviation=attention.deviation,
        policy_weight=policy_weight,
        name=f"{model.name}_learner",
    )


def explain(model):
    """Shows where a RARL model looks, and what it sees there (Fig. 2).

    Args:
        model: `keras.Model` made by `rarl`, or loaded from its file.

    Returns:
        A functional `keras.Model` over the same layers, from the model's
        inputs to a dict: `regions`, `(batch, num_steps, k, 4)`: ymin xmin ymax
        xmax, 0 to 1 of the image; `region_scores`, `(batch, num_steps, k,
        num_classes)`, whose maximum over both is the model's logits.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = rarl(tiny(image_size=64), num_classes=80, units=8)
    >>> explain(model).output["regions"].shape
    (None, 5, 9, 4)
    """
    found = _look(model)
    shown = {key: found[key][:, 0] for key in ("regions", "region_scores")}
    return keras.Model(model.input, shown, name=f"{model.name}_explain")


def _look(model):
    """Gives all that the recurrent layer finds, of which a model needs one."""
    attention = model.get_layer("attention")
    inputs = attention.input
    return attention(*inputs) if isinstance(inputs, list) else attention(inputs)
