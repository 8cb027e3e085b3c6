"""Data sets by name: how each is read, in its own layout or in shards."""

import dataclasses
import functools
import os
import typing

from zoo.data import coco, manifest, nus_wide, scenes, shards, voc, wider


@dataclasses.dataclass(frozen=True)
class Source:
    """How to read a data set, and which split is for what."""

    read: typing.Callable  # (root, split) -> zoo.data.Dataset
    train_split: str
    test_split: str | None  # None: there is none, or not with its labels
    validation_split: str | None = None  # None: a part of train_split
    needs_data_dir: bool = True
    # Other splits with images of train_split: what they measure is training.
    overlapping: tuple[str, ...] = ()
    own: bool = False  # the user's: its splits and classes stand in its files
    images: str | None = None  # which ones, where data sets share them
    leaves_out_missing: bool = False  # images that have no file


_nus_wide = functools.partial(
    Source,
    train_split="train",
    test_split="test",
    images="nus_wide",
    leaves_out_missing=True,
)

DATASETS = {
    "scenes": Source(scenes.read, "trainval", "test", needs_data_dir=False),
    "voc2007": Source(
        lambda root, split: voc.read(root, split, year=2007),
        "trainval",
        "test",
        overlapping=("train", "val"),
    ),
    "voc2012": Source(
        lambda root, split: voc.read(root, split, year=2012),
        "trainval",
        None,
        overlapping=("train", "val"),
    ),
    "coco2014": Source(coco.read, "train2014", "val2014"),
    "wider": Source(
        wider.read, "trainval", "test", overlapping=("train", "val")
    ),
    "nus_wide": _nus_wide(nus_wide.read),
    "nus_wide_with_unlabelled": _nus_wide(
        functools.partial(nus_wide.read, keep_unlabelled=True)
    ),
    "nus_wide_150k": _nus_wide(
        functools.partial(nus_wide.read, protocol="seed_split")
    ),
    "manifest": Source(manifest.read, "train", "test", "val", own=True),
}


def find(dataset: str, data_dir: str | os.PathLike | None) -> Source:
    """Gives a data set as it lies in a folder: in its own layout, or in shards.

    Of own data, only the splits that are there are named.

    Args:
        dataset: str, a key of `DATASETS`.
        data_dir: str, path or `None`, what its reader takes as `root`; or the
            folder of its shards, see `zoo.data.shards`.

    Returns:
        `Source`.

    Raises:
        FileNotFoundError: If own data or its shards are not there.
        ValueError: If they cannot be used, or are of another data set.

    Example:

    >>> find("voc2007", "VOCdevkit").test_split
    'test'
    """
    source = DATASETS[dataset]
    if shards.are_in(data_dir):
        there = shards.splits(data_dir, dataset)
        source = dataclasses.replace(source, read=shards.read)
    elif source.own:
        there = manifest.splits(data_dir)
    if not source.own:
        return source
    return dataclasses.replace(
        source,
        validation_split="val" if "val" in there else None,
        test_split="test" if "test" in there else None,
    )
