"""What models of every method answer, in one form."""

import dataclasses

import keras
import numpy as np

from zoo import reports, training

LEAST_OF_SOFTMAX = 0.1  # of RARL's labels: Chen et al. (2018), Table 2


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model says of some images, as `zoo.reports.measure` takes it.

    Args:
        probabilities: float32 array of shape `(num_examples, num_classes)`.
        predicted: bool array of the same shape, the labels that the method
            chooses; `None` where it leaves that to a threshold.
        labels: str, says which these are; `None` without them.
        other_scores: dict from name to array of the same shape, by which the
            examples may be ranked, too.
    """

    probabilities: np.ndarray
    predicted: np.ndarray | None
    labels: str | None
    other_scores: dict[str, np.ndarray]


def answers_of(card, outputs):
    """Reads what `zoo.training.predict` gives, for models of every method.

    Args:
        card: dict, the run's, or of it "method", a key of
            `recipes.cli.EXPLAIN`, and "loss", if it has one.
        outputs: array of shape `(num_examples, num_classes)`, or a dict.

    Returns:
        `Answers`.
    """
    if card["method"] == "order_free_rnn":
        return _of_sequences(outputs)
    # Of RARL: by another loss than its own a score has a sign.
    if card["method"] == "rarl" and card.get("loss", "paper") == "paper":
        return _of_softmax(outputs)
    return Answers(training.sigmoid(outputs), None, None, {})


def _of_sequences(outputs):
    probabilities = training.sigmoid(outputs["logits"])
    images, steps = np.nonzero(outputs["sequence"] >= 0)
    predicted = np.zeros(probabilities.shape, bool)
    predicted[images, outputs["sequence"][images, steps]] = True
    means = training.sigmoid(outputs["mean_logits"])
    return Answers(
        probabilities,
        predicted,
        "the model's own sequences",
        {"mean_over_steps": means},
    )


def _of_softmax(logits):
    """Reads scores whose training compared their softmax with the labels."""
    softmax = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    order = np.argsort(-softmax, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1)
    predicted = (ranks < reports.TOP_K) & (softmax >= LEAST_OF_SOFTMAX)
    return Answers(
        training.sigmoid(logits),
        predicted,
        f"the {reports.TOP_K} best of a softmax over the classes, those from "
        f"{LEAST_OF_SOFTMAX}",
        {"softmax": softmax},
    )
