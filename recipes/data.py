"""Data sets by name, and what a run does with their images."""

import dataclasses
import sys

import numpy as np

from zoo.data import manifest, pipeline, proposals, shards, sources
from zoo.data.sources import DATASETS as DATASETS


@dataclasses.dataclass(frozen=True)
class Data:
    """The examples of a run, by what they are for."""

    classes: tuple[str, ...]
    training: list
    validation: list  # held out of the training split; may be empty
    test: list
    test_name: str  # what `test` is, for titles
    num_missing: int  # images that `test` should have, too
    # pixels, of images that shards hold smaller than they were
    largest_side: int | None = None


def read_data(dataset, data_dir, validation_fraction):
    """Reads a data set by name and finds its unreadable images.

    In training, these are named and left out; in the other splits they are an
    error. What is held out for validation does not depend on the run's seed,
    so that runs can be compared; all examples of an image stay together.

    Args:
        dataset: str, a key of `DATASETS`.
        data_dir: path or `None`.
        validation_fraction: float from 0 to below 1. Of the training images;
            not used where the data has a validation split of its own.

    Returns:
        `Data`.

    Raises:
        FileNotFoundError: If a file of the data set is missing.
        ValueError: If one of them cannot be used.
    """
    source = sources.find(dataset, data_dir)
    if source.own and not shards.are_in(data_dir):
        print(manifest.check(data_dir, decode=False), flush=True)
    split = source.read(data_dir, source.train_split)
    examples = _readable(split.examples, source.train_split)
    if source.validation_split:
        validation_split = read_test(source, data_dir, source.validation_split)
        training_examples, validation = examples, validation_split.examples
    else:
        training_examples, validation = _hold_out(
            examples, validation_fraction, look_for_copies=source.own
        )
    num_missing = 0
    if source.test_split:
        test_split = read_test(source, data_dir, source.test_split)
        test, num_missing = test_split.examples, test_split.num_missing
        test_name = name_of(dataset, source.test_split, test_split)
    elif validation:
        test = validation
        test_name = f"{dataset}, VALIDATION images, which chose the epoch"
    else:
        test = training_examples
        test_name = f"{dataset} {source.train_split}, TRAINING images"
    print(
        f"{dataset}: {len(training_examples)} training and {len(validation)} "
        f"validation images, {len(split.classes)} classes; "
        f"{len(test)} images of {test_name} at the end"
    )
    return Data(
        split.classes,
        training_examples,
        validation,
        test,
        test_name,
        num_missing,
        split.largest_side,
    )


def name_of(dataset, split, data):
    """Names a split for titles, with what makes it another than published.

    Args:
        dataset: str, a key of `DATASETS`.
        split: str.
        data: `zoo.data.example.Dataset` that was read.

    Returns:
        str.
    """
    others = []
    if data.num_missing:
        others.append(f"missing images: {data.num_missing}")
    if data.largest_side:
        others.append(f"resized to at most {data.largest_side} pixels a side")
    return f"{dataset} {split}" + (f" ({'; '.join(others)})" if others else "")


def with_regions(examples, settings):
    """Gives examples the regions that a model looks at.

    Args:
        examples: list of `Example`.
        settings: dict, the arguments of `zoo.data.proposals.propose`; `None`
            for a model of whole images: its examples get none, also where the
            user's own data has some.

    Returns:
        list of `Example`.
    """
    if settings:
        return proposals.propose(examples, **settings)
    return [dataclasses.replace(e, regions=None) for e in examples]


def served_regions(settings, model):
    """Says which regions a server lays where it is given none.

    Args:
        settings: dict, as `with_regions`.
        model: `keras.Model` that looks at given regions, perhaps at a fixed
            number of them.

    Returns:
        dict, as `with_regions`.
    """
    windows = proposals.sliding_windows(
        num_regions=model.input["regions"].shape[1]
    )
    return {
        **settings,
        "method": "sliding_windows",
        "num_regions": len(windows),
    }


def _readable(examples, name):
    """Names the examples whose image cannot be read, and leaves them out."""
    if any(example.span is None for example in examples):
        print(
            f"Checking that the {len(examples)} images of {name} can be read."
        )
    bad = pipeline.unreadable(examples)
    if bad:
        print(
            f"{len(bad)} of {len(examples)} images of {name} cannot be read "
            "and are left out:",
            *bad.values(),
            sep="\n  ",
            file=sys.stderr,
        )
    return [example for i, example in enumerate(examples) if i not in bad]


def _hold_out(examples, fraction, look_for_copies):
    """Shares out the images; an image may have several examples, and copies."""
    locations = list(dict.fromkeys(example.location for example in examples))
    first = {}
    if look_for_copies and fraction:
        for group in manifest.copies(locations):
            first |= dict.fromkeys(group, group[0])
    images = list(dict.fromkeys(first.get(x, x) for x in locations))
    order = np.random.default_rng(0).permutation(len(images))
    held_out = {images[i] for i in order[: round(fraction * len(images))]}
    training_examples, validation = [], []
    for example in examples:
        image = first.get(example.location, example.location)
        part = validation if image in held_out else training_examples
        part.append(example)
    return training_examples, validation


def read_test(source, data_dir, split, classes=None):
    """Reads a split to evaluate on; an unreadable image is an error.

    Args:
        source: `Source`, as `zoo.data.sources.find` gives it.
        data_dir: path or `None`.
        split: str.
        classes: sequence of str or `None`. Those of a trained model: own data
            may have fewer of them, but no others.

    Returns:
        `zoo.data.example.Dataset`.

    Raises:
        FileNotFoundError: If a file of the data set is missing.
        ValueError: If one of them cannot be used.
    """
    if source.own and classes is not None:
        data = source.read(data_dir, split, classes=classes)
    else:
        data = source.read(data_dir, split)
    if bad := pipeline.unreadable(data.examples):
        hint = (
            ". Delete these files to have the images left out as missing ones, "
            "which the report counts"
            if source.leaves_out_missing
            else ""
        )
        raise ValueError(
            f"{len(bad)} of {len(data.examples)} images of {split} cannot be "
            "read, and an evaluation without them would be another protocol: "
            + "; ".join(list(bad.values())[:5])
            + hint
        )
    return data
