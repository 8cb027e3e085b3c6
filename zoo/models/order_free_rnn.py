"""Order-Free RNN: labels one after the other (Chen et al., AAAI 2018)."""

import keras

from zoo.models.confidence_ranked_lstm import ConfidenceRankedLSTM
from zoo.models.levels import deepest, named

OUTPUTS = ("logits", "mean_logits", "sequence", "sequence_probabilities")


def order_free_rnn(
    backbone,
    num_classes,
    max_labels,
    attention=True,
    level="P4",
    units=512,
    dropout=0.8,
    beam_width=3,
    threshold=0.5,
    name="order_free_rnn",
):
    """Builds Order-Free RNN: image -> backbone -> label after label.

    A first guess of all classes, from the pooled deepest features, starts a
    recurrent network that attends to the image, takes its most confident label,
    and guesses again, until no label is worth taking. Which order the labels
    come in is its own choice.

    Training has two phases (the paper's Algorithm 1), each with a model over
    the layers of this one: `preliminary_model`, then, with the layer
    `preliminary` frozen too, `step_model`.

    Args:
        backbone: `keras.Model` from images to a dict of feature maps, see
            `zoo.backbones`. It is frozen here (`trainable=False`), which also
            puts its batch normalisation in inference mode for good. It should
            have no dropout, which would stay.
        num_classes: int. Number of classes.
        max_labels: int from 1 to `num_classes`. Longest sequence, the paper's
            T: the largest number of labels of a training image.
        attention: bool. `False` replaces the attended features by their mean
            (Tables 1 and 2).
        level: str. The feature map to attend to, a key of the backbone's.
        units: int. Size of the hidden state, of the attention's and of the
            predictor's hidden layer.
        dropout: float in `[0, 1)`. Share that the predictor drops.
        beam_width: int, at least 1. Paths that the search keeps; 1 is greedy.
        threshold: float from 0 to 1. Least probability of a path. Choose it
            on validation images, see `path_model`, and assign it to
            `model.get_layer("decoder").threshold`.
        name: str. Name of the model.

    Returns:
        A functional `keras.Model` from images, as the backbone takes them, to
        a dict: `logits`, float32 `(batch, num_classes)`, of the last step of
        the best path; `mean_logits`, of the same shape, their mean over the
        steps; `sequence`, int32 `(batch, max_labels)`, the classes in the order
        found, then -1; `sequence_probabilities`, float32 of the same shape, of
        each label at its step, then 0.

    Raises:
        ValueError: If an argument is out of range, or the backbone has no
            such level.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = order_free_rnn(tiny(image_size=64), 80, max_labels=5, units=8)
    >>> model.output["logits"].shape, model.output["sequence"].shape
    ((None, 80), (None, 5))
    """
    backbone.trainable = False

    # === Functional Model ===
    image = keras.Input(backbone.input_shape[1:], name="image")
    maps = backbone(image)
    pooled = keras.layers.GlobalAveragePooling2D(name="pooled")(deepest(maps))
    # float32 also under mixed precision: the loss exponentiates the logits.
    guess = keras.layers.Dense(
        num_classes, dtype="float32", name="preliminary"
    )(pooled)
    # Frozen features come in any scale, and tanh in the attention saturates.
    features = keras.layers.LayerNormalization(name="features")(
        named(maps, level)
    )
    outputs = ConfidenceRankedLSTM(
        num_classes,
        max_labels,
        attention,
        units,
        dropout,
        beam_width,
        threshold,
        name="decoder",
    )(features, guess)
    return keras.Model(image, {key: outputs[key] for key in OUTPUTS}, name=name)


def preliminary_model(model):
    """Gives the model of the first phase: images to the first guess.

    Args:
        model: `keras.Model` made by `order_free_rnn`, or loaded from its file.

    Returns:
        A functional `keras.Model` over the same layers, from images to logits
        of shape `(batch, num_classes)`.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = order_free_rnn(tiny(image_size=64), 80, max_labels=5, units=8)
    >>> preliminary_model(model).output_shape
    (None, 80)
    """
    guess = _decoder(model).input[1]
    return keras.Model(model.input, guess, name=f"{model.name}_preliminary")


def step_model(model, teacher=False):
    """Gives the model of the second phase: images to the logits of each step.

    Args:
        model: as `preliminary_model`.
        teacher: bool. Whether the labels that are taken are an input, instead
            of the model's own choice: the ablation of fixed orders.

    Returns:
        A functional `keras.Model` over the same layers, from images, or from
        images and int32 labels of shape `(batch, max_labels)`, -1 for none, to
        logits of shape `(batch, max_labels, num_classes)`.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = order_free_rnn(tiny(image_size=64), 80, max_labels=5, units=8)
    >>> step_model(model).output_shape
    (None, 5, 80)
    """
    decoder, inputs, labels = _decoder(model), model.input, None
    if teacher:
        labels = keras.Input((decoder.max_labels,), dtype="int32")
        inputs = [inputs, labels]
    taken = decoder(*decoder.input, search=False, labels=labels)
    name = f"{model.name}_steps"
    return keras.Model(inputs, taken["step_logits"], name=name)


def path_model(model):
    """Gives the best path of each length, which no threshold ends.

    The answer at a threshold is the longest of an image's paths that are at
    least as probable: one pass over validation images tells the answers at
    all thresholds, see `zoo.beam_search`.

    Args:
        model: as `preliminary_model`.

    Returns:
        A functional `keras.Model` over the same layers, from images to a dict:
        `paths`, int32 `(batch, max_labels, max_labels)`, of which row t - 1 has
        t labels, then -1; `path_probabilities`, float32 `(batch, max_labels)`.
    """
    decoder = _decoder(model)
    found = decoder(*decoder.input, threshold=0.0)
    kept = {key: found[key] for key in ("paths", "path_probabilities")}
    return keras.Model(model.input, kept, name=f"{model.name}_paths")


def with_beam_width(model, beam_width):
    """Gives the model with another number of paths in its search.

    Args:
        model: as `preliminary_model`.
        beam_width: int, at least 1.

    Returns:
        A functional `keras.Model` over the same layers, with the outputs of
        `order_free_rnn`.
    """
    decoder = _decoder(model)
    found = decoder(*decoder.input, beam_width=beam_width)
    kept = {key: found[key] for key in OUTPUTS}
    return keras.Model(model.input, kept, name=f"{model.name}_{beam_width}")


def from_features(model, part):
    """Gives a part of the model without its backbone.

    A frozen backbone gives an image the same features in every epoch: they
    can be computed once.

    Args:
        model: as `preliminary_model`.
        part: `keras.Model` made of `model` by a function of this file.

    Returns:
        A functional `keras.Model` over the same layers, as `part`, but from
        the outputs of `feature_model` in place of images.
    """
    inputs = [*feature_model(model).outputs, *part.inputs[1:]]
    return keras.Model(inputs, part.output, name=f"{part.name}_head")


def feature_model(model):
    """Gives the model's frozen part.

    Args:
        model: as `preliminary_model`.

    Returns:
        A functional `keras.Model` over the same layers, from images to a list:
        the map to attend to and the pooled deepest features.
    """
    tensors = [
        model.get_layer("features").input,
        model.get_layer("pooled").output,
    ]
    return keras.Model(model.input, tensors, name=f"{model.name}_features")


def explain(model):
    """Shows where the model looks as it takes its labels (the paper's Fig. 3).

    Args:
        model: as `preliminary_model`.

    Returns:
        A functional `keras.Model` over the same layers, from images to a dict:
        `attention`, float32 `(batch, max_labels, height, width)`, of each
        step; `sequence` and `sequence_probabilities`, as `order_free_rnn`.

    Example:

    >>> from zoo.backbones import tiny
    >>> model = order_free_rnn(tiny(image_size=64), 80, max_labels=5, units=8)
    >>> explain(model).output["attention"].shape
    (None, 5, 4, 4)
    """
    decoder, found = _decoder(model), model.output
    taken = decoder(*decoder.input, search=False, labels=found["sequence"])
    outputs = {
        "attention": taken["attention"],
        "sequence": found["sequence"],
        "sequence_probabilities": found["sequence_probabilities"],
    }
    return keras.Model(model.input, outputs, name=f"{model.name}_explain")


def _decoder(model):
    for layer in model.layers:
        if isinstance(layer, ConfidenceRankedLSTM):
            return layer
    raise ValueError(
        "Expected a model made by `order_free_rnn`. "
        f"Received: model={model.name!r}"
    )
