"""The methods and layers whose answers the backends of Keras must agree on."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

import zoo.losses
from zoo import layers
from zoo.models import (
    add_max_pooling,
    baseline,
    csra,
    fan,
    order_free_rnn,
    rarl,
    rgnn,
)
from zoo.models.baseline import explain as explain_baseline
from zoo.models.csra import explain as explain_csra
from zoo.models.fan import explain as explain_fan
from zoo.models.order_free_rnn import explain as explain_order_free_rnn
from zoo.models.order_free_rnn import preliminary_model, step_model
from zoo.models.rarl import explain as explain_rarl
from zoo.models.rarl import learner as rarl_learner
from zoo.models.rgnn import explain as explain_rgnn
from zoo.models.rgnn import global_model, open_model
from zoo.models.rgnn import learner as rgnn_learner

NUM_CLASSES = 5


def uniform(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype("float32")


INPUTS = {
    "image": 255 * uniform(2, 64, 64, 3),
    "regions": np.array(  # the last one of an image is padding
        [
            [[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.5, 0.9], [0.0, 0.0, 0.0, 0.0]],
            [[0.3, 0.0, 0.6, 0.3], [0.7, 0.7, 0.8, 0.9], [0.0, 0.0, 0.0, 0.0]],
        ],
        "float32",
    ),
}
TARGETS = np.array([[1, 0, 1, -1, 0], [0, 1, 0, 0, -1]], "float32")
REGION_TARGETS = np.array([[1, 0, -1], [0, 1, -1]], "float32")


class Method(NamedTuple):
    """A model to save, and the models over its layers.

    Attributes:
        model: callable from a backbone to the model.
        loss: the method's own.
        trained: dict of callables from the model to one that trains.
        shown: dict of callables from the model to one that only answers.
        pretrained: of the backbone.
    """

    model: Callable[[keras.Model], keras.Model]
    loss: keras.losses.Loss
    trained: dict[str, Callable[[keras.Model], keras.Model]]
    shown: dict[str, Callable[[keras.Model], keras.Model]]
    pretrained: str | None = None


def itself(model):
    return model


def method(function, loss, trained, shown, pretrained=None, **options):
    options = {"num_classes": NUM_CLASSES, **options}
    model = functools.partial(function, **options)
    return Method(model, loss, trained, shown, pretrained)


def falling_gate_weight(model):
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 2, 0.0)
    return rgnn_learner(model, schedule)


BINARY = zoo.losses.BinaryCrossentropy(unknown="ignore")
SOFTMAX = zoo.losses.SoftmaxSquaredError()
BALANCED = zoo.losses.BalancedBinaryCrossentropy()
WHOLE = {"whole": itself}
RARL = {"num_steps": 2, "units": 8, "size": 3, "seed": 0}
RARL_SHOWN = {"whole": itself, "explain": explain_rarl}
RGNN_SHOWN = {"whole": itself, "explain": explain_rgnn}

METHODS = {
    "baseline_avg": method(
        baseline,
        BINARY,
        WHOLE,
        {
            "with_max": lambda model: add_max_pooling(model, 0.2),
            "explain": explain_baseline,
        },
    ),
    "baseline_max": method(baseline, BINARY, WHOLE, {}, pooling="max"),
    "csra_one_head": method(
        csra, BINARY, WHOLE, {"explain": explain_csra}, pretrained="stamps"
    ),
    "csra_six_heads": method(csra, BINARY, WHOLE, {}, num_heads=6),
    "fan": method(fan, BINARY, WHOLE, {"explain": explain_fan}, dim=8),
    "order_free_rnn": method(
        order_free_rnn,
        BINARY,
        {"preliminary": preliminary_model, "steps": step_model},
        {"search": itself, "explain": explain_order_free_rnn},
        max_labels=3,
        units=8,
        threshold=0.1,
    ),
    "rarl_learned": method(
        rarl,
        SOFTMAX,
        {"learner": rarl_learner},
        RARL_SHOWN,
        episodes=2,
        **RARL,
    ),
    "rarl_random": method(
        rarl,
        SOFTMAX,
        {"learner": rarl_learner},
        RARL_SHOWN,
        locations="random",
        **RARL,
    ),
    "rgnn_region": method(
        rgnn,
        BALANCED,
        {
            "global": global_model,
            "open": open_model,
            "gates": functools.partial(rgnn_learner, classification=False),
            "learner": falling_gate_weight,
        },
        RGNN_SHOWN,
        dim=32,  # with few, dropout or a ReLU can leave no gradient
    ),
    "rgnn_feature": method(
        rgnn,
        BALANCED,
        {"learner": rgnn_learner},
        RGNN_SHOWN,
        dim=32,
        gate="feature",
    ),
}

SCORES_AND_FC7 = [uniform(2, 3, 5), uniform(2, 3, 6)]
# Layer -> what makes it, and what it is called with.
LAYERS = {
    "CandidatePool": (layers.CandidatePool, [uniform(3, 8), np.eye(3, 8)]),
    "Correlation": (
        lambda: layers.Correlation(6, residual=True),
        [uniform(2, 3, 4, 5), uniform(2, 3, 4, 5), uniform(2, 3, 4, 6)],
    ),
    "CrossRegionPooling": (
        layers.CrossRegionPooling,
        [uniform(2, 3, 5), INPUTS["regions"]],
    ),
    "FeatureGate": (layers.FeatureGate, SCORES_AND_FC7),
    "FeatureRefinement": (
        layers.FeatureRefinement,
        [uniform(2, 3, 4, 5), uniform(2, 6, 8, 7)],
    ),
    "FeatureTransform": (
        lambda: layers.FeatureTransform(5),
        [uniform(2, 3, 4, 6)],
    ),
    "LabelPredictor": (
        lambda: layers.LabelPredictor(8, NUM_CLASSES),
        [uniform(4, 6)],
    ),
    "RecurrentAttention": (
        lambda: layers.RecurrentAttention(NUM_CLASSES, 2, units=8, size=3),
        [uniform(2, 5, 6, 3)],
    ),
    "RegionAnchors": (
        lambda: layers.RegionAnchors((0.2, 0.5), (2.0, 0.5)),
        [uniform(3, 2)],
    ),
    "RegionGate": (layers.RegionGate, SCORES_AND_FC7),
    "ResidualAttention": (
        lambda: layers.ResidualAttention(NUM_CLASSES, 2.0),
        [uniform(2, 3, 4, 6)],
    ),
    "RoiCropAndResize": (
        lambda: layers.RoiCropAndResize(3),
        [uniform(2, 5, 6, 3), INPUTS["regions"]],
    ),
    "RoiPooling": (  # large enough to go in chunks
        lambda: layers.RoiPooling(7),
        [uniform(2, 5, 6, 128), INPUTS["regions"]],
    ),
    "SoftAttention": (
        lambda: layers.SoftAttention(5),
        [uniform(2, 9, 7), uniform(2, 3, 4)],
    ),
    "SoftAttentionLSTMCell": (
        lambda: layers.SoftAttentionLSTMCell(4, 5),
        [
            uniform(4, 6),
            [uniform(4, 4), uniform(4, 4), uniform(2, 9, 7), uniform(2, 9, 5)],
        ],
    ),
}
