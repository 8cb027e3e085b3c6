r"""Trains Order-Free RNN: labels one after the other (Chen et al., AAAI 2018).

Run:    python recipes/train_order_free_rnn.py  # built-in scenes, on a CPU
        python recipes/train_order_free_rnn.py --dataset nus_wide_150k \
            --data_dir NUS-WIDE --backbone resnet152 --cache_features
        python recipes/train_order_free_rnn.py --attention false  # Tables 1, 2
        python recipes/train_order_free_rnn.py --order rare       # Tables 1, 2
Paper:  ResNet-152: COCO 2014 CF1 62.1, OF1 67.7; NUS-WIDE CF1 54.7, OF1 70.2.
Ours:   not measured.
Cost:   not measured.
"""

import dataclasses
import functools
import shutil
import typing

import numpy as np
from keras import ops

from recipes import cli, steps
from zoo import feature_cache, metrics, training
from zoo.data import pipeline
from zoo.models.order_free_rnn import (
    feature_model,
    from_features,
    order_free_rnn,
    path_model,
    preliminary_model,
    step_model,
)

FEATURES = "features"  # folder in the run's, while it trains
THRESHOLDS = np.concatenate(
    [np.geomspace(1e-4, 0.01, 20), np.arange(0.02, 1.0, 0.01)]
)


@dataclasses.dataclass(frozen=True)
class Recipe(cli.Recipe):
    """Every number that changes the result, and nothing else."""

    image_size: int = cli.field(224, "height and width, in pixels")
    batch_size: int = cli.field(64, "images in a step, over all replicas")
    epochs: int = cli.field(20, "of the second phase")
    preliminary_epochs: int = cli.field(10, "of the first phase")
    optimizer: typing.Literal["sgd", "adamw"] = cli.field(
        "adamw", "sgd has momentum 0.9; adamw is Adam where weight_decay is 0"
    )
    backbone_learning_rate: float = cli.field(
        0.0, "highest, in the first phase; 0: frozen, as in the paper"
    )
    preliminary_learning_rate: float = cli.field(
        3e-4, "highest, of the first guess"
    )
    head_learning_rate: float = cli.field(3e-4, "highest, of all the rest")
    weight_decay: float = cli.field(0.0, "of all weights")
    schedule: typing.Literal["step", "cosine", "plateau", "constant"] = (
        cli.field("constant", cli.SCHEDULES)
    )
    warmup_epochs: float = cli.field(0.0, "of a linear rise")
    crop_area: float = cli.field(1.0, cli.CROP_AREA)
    flip: bool = cli.field(False, cli.FLIP)
    normalization: typing.Literal[
        "weights", "imagenet", "unit", "symmetric"
    ] = cli.field("imagenet", cli.NORMALIZATIONS)
    max_labels: int = cli.field(
        0, "longest sequence; 0: the most labels of a training image"
    )
    level: str = cli.field("P4", "feature map to attend to")
    units: int = cli.field(512, "of the LSTM, attention and predictor")
    dropout: float = cli.field(0.8, "share that the predictor drops")
    attention: bool = cli.field(True, "or the mean of all positions")
    order: typing.Literal["confidence", "frequency", "rare"] = cli.field(
        "confidence",
        "the model's own; or a fixed one with teacher forcing, frequent or "
        "rare labels first",
    )
    beam_width: int = cli.field(3, "paths that the search keeps; 1: greedy")
    cache_features: bool = cli.field(
        False, "compute a frozen backbone's features once, to the run's folder"
    )

    def __post_init__(self):
        """Refuses numbers that no training could use."""
        super().__post_init__()
        changed = [
            name
            for name, plain in PLAIN_PIXELS.items()
            if getattr(self, name) != plain
        ]
        if self.cache_features and changed:
            raise ValueError(
                "`cache_features` needs the same pixels in every epoch. "
                "Received: "
                + ", ".join(f"{name}={getattr(self, name)}" for name in changed)
            )


PLAIN_PIXELS = {
    "crop_area": 1.0,
    "shift": 0.0,
    "rand_augment": 0,
    "flip": False,
}
PAPER = Recipe()
RECIPES = cli.by_name(
    PAPER,
    dataclasses.replace(PAPER, validation_fraction=0.05),
    preliminary_epochs=18,
    preliminary_learning_rate=3e-3,
    epochs=12,
    head_learning_rate=3e-3,
    level="P5",
    units=256,
    dropout=0.5,
    flip=True,
)


def build(recipe, backbone, data):
    """Builds the model that the recipe describes."""
    most = max((example.targets == 1).sum() for example in data.training)
    return order_free_rnn(
        backbone,
        len(data.classes),
        recipe.max_labels or max(int(most), 1),
        attention=recipe.attention,
        level=recipe.level,
        units=recipe.units,
        dropout=recipe.dropout,
        beam_width=recipe.beam_width,
    )


def phases(run):
    """Trains the first guess, then the sequence, as the paper's Algorithm 1."""
    recipe, model, backbone = run.recipe, run.model, run.backbone
    backbone.trainable = recipe.backbone_learning_rate > 0
    first = dataclasses.replace(
        recipe,
        epochs=recipe.preliminary_epochs,
        head_learning_rate=recipe.preliminary_learning_rate,
    )
    print("First phase: the first guess.", flush=True)
    with run.building():
        guess = preliminary_model(model)
    _fit(run, first, "preliminary", guess, guess)

    print("Second phase: the sequence, on what is frozen now.", flush=True)
    backbone.trainable = False
    model.get_layer("preliminary").trainable = False
    with run.building():
        predictor = learner = step_model(model)
        if recipe.order != "confidence":
            learner = step_model(model, teacher=True)
    _fit(run, recipe, "", learner, predictor)


def _fit(run, recipe, phase, learner, predictor):
    """Trains on images, or on their features if these stay as they are."""
    batches = functools.partial(steps.image_batches, run, recipe)
    watched = None
    if recipe.cache_features and not run.backbone.trainable:
        with run.building():
            learner, predictor = (
                from_features(run.model, part) for part in (learner, predictor)
            )
        training_features = _features(run, "training", run.data.training)
        targets = np.stack([example.targets for example in run.data.training])

        def batches(first_epoch):
            return pipeline.cached_batches(
                training_features,
                targets,
                recipe.batch_size,
                recipe.epochs,
                recipe.seed,
                first_epoch,
            )

        watched = pipeline.cached_evaluation_batches(
            _features(run, "watched", run.watched),
            np.stack([example.targets for example in run.watched]),
            recipe.batch_size,
        )
    if not phase and recipe.order != "confidence":
        batches = functools.partial(
            _taught, batches, _teacher(run), len(run.data.classes)
        )
    steps.fit(run, recipe, phase, learner, predictor, batches, watched)


def _features(run, name, examples):
    """Computes the frozen backbone's features of some images, or reads them."""
    with run.building():
        frozen = feature_model(run.model)
    batches = pipeline.evaluation_batches(
        examples, run.recipe.image_size, run.recipe.batch_size
    )
    key = {
        "weights_sha256": feature_cache.digest(run.backbone.weights),
        "images": [example.image_id for example in examples],
        "image_size": run.recipe.image_size,
        "level": run.recipe.level,
        "precision": run.recipe.precision,
    }
    return feature_cache.load_or_compute(
        run.directory / FEATURES / name,
        key,
        frozen.predict_on_batch,
        batches.as_numpy_iterator(),
        len(examples),
    )


def _teacher(run):
    """Gives a function from targets to labels in the recipe's fixed order."""
    targets = np.stack([example.targets for example in run.data.training])
    counts = (targets == 1).sum(axis=0)
    frequent_first = np.argsort(-counts, kind="stable")
    rare_first = run.recipe.order == "rare"
    order = frequent_first[::-1] if rare_first else frequent_first
    num_classes = len(order)
    ranks = np.empty(num_classes, "int32")
    ranks[order] = np.arange(num_classes)
    max_labels = run.model.output["sequence"].shape[-1]

    def teach(targets):
        keys = ops.where(targets == 1, ranks, num_classes)
        labels = ops.argsort(keys, axis=-1)[:, :max_labels]
        present = ops.take_along_axis(keys, labels, axis=-1) < num_classes
        return ops.where(present, labels, -1)

    return teach


def _taught(batches, teach, num_classes, first_epoch):
    """Adds the labels to take to the inputs; each step learns its own."""

    def add(inputs, targets):
        labels = teach(targets)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        # -1 has no one, as there is nothing left to find.
        return (*inputs, labels), ops.one_hot(labels, num_classes)

    return batches(first_epoch).map(add)


def settle(run, model):
    """Chooses the threshold by OF1 on the images that chose the epoch."""
    # Training has ended, and they may be large.
    shutil.rmtree(run.directory / FEATURES, ignore_errors=True)
    with run.building():
        paths = path_model(model)
    batches = pipeline.evaluation_batches(
        run.watched, run.recipe.image_size, run.recipe.batch_size
    )
    found = training.predict(paths, batches, len(run.watched))
    targets = np.stack([example.targets for example in run.watched])
    threshold, of1 = choose_threshold(targets, **found)
    decoder = model.get_layer("decoder")
    decoder.threshold.assign(threshold)
    images = "validation" if run.data.validation else "TRAINING"
    print(
        f"The threshold is {threshold:.4g}, by its OF1 of {100 * of1:.2f} on "
        f"{len(targets)} {images} images."
    )
    return {
        "max_labels": decoder.max_labels,
        "threshold": threshold,
        "threshold_chosen_on": f"{len(targets)} {images} images, by OF1",
    }


def choose_threshold(targets, paths, path_probabilities):
    """Chooses the path probability at which to end, by OF1.

    Args:
        targets: array of shape `(num_examples, num_classes)`.
        paths: as `path_model` gives them.
        path_probabilities: the same.

    Returns:
        `(threshold, OF1)`, the first of the best in `THRESHOLDS`.

    Example:

    >>> targets = np.array([[1, 0], [0, 1]])
    >>> paths = np.array([[[0, -1], [0, 1]], [[1, -1], [1, 0]]])
    >>> threshold, of1 = choose_threshold(
    ...     targets, paths, np.array([[0.8, 0.3], [0.6, 0.1]])
    ... )
    >>> 0.3 < threshold <= 0.6, of1
    (True, 1.0)
    """
    num_examples, max_labels, _ = paths.shape
    # One row for each number of labels, from none.
    labels = np.zeros((num_examples, max_labels + 1, targets.shape[1]), bool)
    images, lengths, steps = np.nonzero(paths >= 0)
    labels[images, lengths + 1, paths[images, lengths, steps]] = True

    def of1(threshold):
        length = (path_probabilities >= threshold).sum(axis=1)
        predicted = labels[np.arange(num_examples), length]
        f1 = metrics.precision_recall_f1(targets, predicted.astype("float32"))
        return np.nan_to_num(f1["OF1"])

    values = [of1(threshold) for threshold in THRESHOLDS]
    best = int(np.argmax(values))
    return float(THRESHOLDS[best]), float(values[best])


def main(argv=None):
    """Trains, measures, explains and exports."""
    arguments, recipe = cli.parse(__doc__, RECIPES, argv)
    steps.train("order_free_rnn", recipe, arguments, build, phases, settle)


if __name__ == "__main__":
    main()
