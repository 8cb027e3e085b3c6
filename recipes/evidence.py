"""Pictures of what models of every method looked at."""

import itertools

import keras
import numpy as np

from recipes.cli import EXPLAIN
from zoo import metrics, pictures, reports
from zoo.data import pipeline

BATCH_SIZE = 8  # images that are drawn from one pass of the model


def painter(run, attention):
    """Gives a function that draws what TensorBoard shows after an epoch.

    Args:
        run: `recipes.steps.Run`.
        attention: bool. Whether the model looks at anything yet.
    """
    examples, classes = run.watched, run.data.classes
    with run.building():
        explain = EXPLAIN[run.method](run.model)

    def load(chosen):
        return pipeline.evaluation_batch(
            [examples[i] for i in chosen], run.recipe.image_size
        )

    first = range(min(4, len(examples)))
    inputs, first_targets = load(first)
    images = images_of(inputs)
    targets = np.stack([example.targets for example in examples])

    def paint(model, probabilities):
        evidence = of_batch(explain, inputs) if attention else []
        ap = metrics.average_precision(targets, probabilities, reports.MODE)
        worst = pictures.worst_images(targets, probabilities)
        figures = {
            "AP": pictures.ap_bars(ap, classes, reports.MODE),
            "worst_errors": pictures.worst_errors(
                images_of(load(worst)[0]),
                targets[worst],
                probabilities[worst],
                classes,
            ),
        }
        for i, found in enumerate(evidence):
            figures[f"attention/{i + 1}"] = draw(
                images[i], found, probabilities[i], classes, first_targets[i]
            )
        return {k: pictures.pixels(f)[None] for k, f in figures.items()}

    return paint


def picture_names(examples, taken=()):
    """Names a picture of each example: by its id, and as no other.

    Args:
        examples: list of `Example`; an id may be a path, as in WIDER.
        taken: iterable of names that are not free.

    Returns:
        list of str.

    Example:

    >>> from types import SimpleNamespace
    >>> picture_names([SimpleNamespace(image_id="a/1")] * 2, taken=["a_1_2"])
    ['a_1', 'a_1_3']
    """
    names, taken = [], set(taken)
    for example in examples:
        stem = example.image_id.replace("/", "_")
        candidates = itertools.chain(
            [stem], (f"{stem}_{i}" for i in itertools.count(2))
        )
        names.append(next(name for name in candidates if name not in taken))
        taken.add(names[-1])
    return names


def draw_all(directory, explain, examples, probabilities, classes, image_size):
    """Writes one PNG an image: where the model looked for its labels.

    Args:
        directory: `pathlib.Path`, made if it is not there.
        explain: as `of_batch`.
        examples: list of `Example`; their ids name the pictures.
        probabilities: array of shape `(num_examples, num_classes)`.
        classes: sequence of str.
        image_size: int. Height and width of the images, in pixels.

    Returns:
        list of `pathlib.Path`, in the order of the examples.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{name}.png" for name in picture_names(examples)]
    for i in range(0, len(examples), BATCH_SIZE):
        batch = slice(i, i + BATCH_SIZE)
        inputs, targets = pipeline.evaluation_batch(examples[batch], image_size)
        for path, image, found, row, present in zip(
            paths[batch],
            images_of(inputs),
            of_batch(explain, inputs),
            probabilities[batch],
            targets,
            strict=True,
        ):
            draw(image, found, row, classes, present).savefig(path)
    return paths


def images_of(inputs):
    """Picks the images of a batch, which regions may stand beside."""
    return inputs["image"] if isinstance(inputs, dict) else inputs


def of_batch(explain, inputs):
    """Lists what an `explain` says of each image, as NumPy arrays, see `draw`.

    Args:
        explain: `keras.Model` from inputs to maps, or to a dict of arrays.
        inputs: a batch as `zoo.data.pipeline.evaluation_batches` gives it:
            images, float32 `(num_images, height, width, 3)`, or a dict with
            these and their regions.

    Returns:
        list of arrays, or of dicts of arrays.
    """
    outputs = keras.tree.map_structure(
        keras.ops.convert_to_numpy, explain(inputs)
    )
    return [
        keras.tree.map_structure(lambda array, i=i: array[i], outputs)
        for i in range(len(images_of(inputs)))
    ]


def draw(image, evidence, probabilities, classes, targets):
    """Draws what a model looked at in an image, for models of every method.

    Args:
        image: array of shape `(height, width, 3)`, RGB, 0 to 255.
        evidence: what the method's `explain` gives of the image: maps of
            shape `(rows, columns, num_classes)`; or a dict with `attention`,
            `(max_labels, rows, columns)`, and the sequence of labels; or with
            `regions` and either their `region_scores` or their `gates`.
        probabilities: array of shape `(num_classes,)`.
        classes: sequence of str.
        targets: array of shape `(num_classes,)`: 1, 0, or -1 for unknown.

    Returns:
        `matplotlib.figure.Figure`.
    """
    if not isinstance(evidence, dict):
        return pictures.evidence(
            image, evidence, probabilities, classes, targets
        )
    if "gates" in evidence:
        return pictures.gates(
            image,
            evidence["regions"],
            evidence["gates"],
            classes,
            targets,
            probabilities,
        )
    if "region_scores" in evidence:
        return pictures.glimpses(
            image,
            evidence["regions"],
            evidence["region_scores"],
            classes,
            targets,
        )
    return pictures.sequence(
        image,
        evidence["attention"],
        evidence["sequence"],
        evidence["sequence_probabilities"],
        classes,
        targets,
    )
