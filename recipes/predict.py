"""Labels a few photos with a finished run, and draws where it looked.

Run:    python recipes/predict.py photo.jpg another.png
        python recipes/predict.py photo.jpg --run runs/csra-scenes-tiny-seed0
        python recipes/predict.py photo.jpg --run runs/rgnn-scenes-tiny-seed0
"""

import argparse
import dataclasses
import pathlib
import sys

import recipes  # noqa: F401, sets what TensorFlow reads at its import

# isort: split
import keras
import numpy as np

from recipes import cli, evidence
from recipes.answers import answers_of
from recipes.data import served_regions, with_regions
from zoo import reports, runs, training
from zoo.data import pipeline
from zoo.data.example import Example


def main(argv=None):
    """Prints each photo's labels and the path of its picture."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "photos", type=pathlib.Path, nargs="+", help="JPEG, PNG or WebP files"
    )
    parser.add_argument(
        "--run",
        type=pathlib.Path,
        help="a finished run (default: the newest one in runs/)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help=f"least probability of a label (default: {reports.THRESHOLD}); "
        "not of a model that ends its sequence of labels itself",
    )
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        default=pathlib.Path("predictions"),
        help="folder for the pictures (default: predictions)",
    )
    arguments = parser.parse_args(argv)
    threshold = arguments.threshold
    if threshold is not None and not 0 <= threshold <= 1:
        parser.error(f"--threshold must be from 0 to 1. Received: {threshold}")
    with cli.clear_errors():
        run = arguments.run or _newest_run(pathlib.Path("runs"))
        card = runs.finished(run)
        model = keras.saving.load_model(run / runs.MODEL)
        if isinstance(model.output, dict) and threshold is not None:
            raise ValueError(
                f"The model of {run} ends its sequence of labels by its own "
                f"threshold. Received: --threshold {threshold}"
            )
    print(f"{card['method']} of {run}")

    classes, image_size = card["classes"], card["image_size"]
    examples = _examples(arguments.photos, classes, arguments.output_dir)
    bad = pipeline.unreadable(examples)
    for reason in bad.values():
        print(f"error: {reason}", file=sys.stderr)
    examples = [e for i, e in enumerate(examples) if i not in bad]
    if examples:
        with cli.clear_errors():  # OpenCV may be missing here
            examples = with_regions(examples, _regions(card, model))
        batch_size = card.get("batch_size", 16)  # a converted run has none
        batches = pipeline.evaluation_batches(examples, image_size, batch_size)
        outputs = training.predict(model, batches, len(examples))
        probabilities = answers_of(card, outputs).probabilities
        paths = evidence.draw_all(
            arguments.output_dir,
            cli.EXPLAIN[card["method"]](model),
            examples,
            probabilities,
            classes,
            image_size,
        )
        labels = _labels(outputs, probabilities, threshold)
        for example, found, path in zip(examples, labels, paths, strict=True):
            text = ", ".join(f"{classes[k]} {p:.3f}" for k, p in found)
            print(f"{example.image_path}: {text or 'no label'}  ({path})")
    if bad:
        sys.exit(1)


def _regions(card, model):
    """Says how to find regions in photos, which come without any."""
    settings = card.get("regions")
    if settings and settings["method"] == "own":
        print("The photos have no regions: windows are laid, as by a server.")
        return served_regions(settings, model)
    return settings


def _labels(outputs, probabilities, threshold):
    """Lists the labels of each photo, as pairs of class and probability.

    They come in the order in which the model found them, or else the most
    probable first.
    """
    if isinstance(outputs, dict):
        rows = outputs["sequence"], outputs["sequence_probabilities"]
        return [
            [(k, p) for k, p in zip(*row, strict=True) if k >= 0]
            for row in zip(*rows, strict=True)
        ]
    least = reports.THRESHOLD if threshold is None else threshold
    return [
        sorted(
            ((k, p[k]) for k in np.flatnonzero(p >= least)), key=lambda x: -x[1]
        )
        for p in probabilities
    ]


def _examples(photos, classes, output_dir):
    """Gives each photo an id that is the name of no picture yet."""
    examples = [
        Example(
            image_id=photo.stem,
            image_path=str(photo),
            targets=np.full(len(classes), -1, "float32"),
            boxes=np.zeros((0, 4), "float32"),
            box_classes=np.zeros(0, "int32"),
            box_difficult=np.zeros(0, bool),
        )
        for photo in photos
    ]
    taken = [path.stem for path in output_dir.glob("*.png")]
    return [
        dataclasses.replace(example, image_id=name)
        for example, name in zip(
            examples, evidence.picture_names(examples, taken), strict=True
        )
    ]


def _newest_run(folder):
    cards = list(folder.glob(f"*/{runs.CARD}"))
    if not cards:
        raise FileNotFoundError(
            f"There is no finished run in {folder}/. Train one by `python "
            "recipes/train_csra.py`, or name one by --run."
        )
    return max(cards, key=lambda card: card.stat().st_mtime).parent


if __name__ == "__main__":
    main()
