"""Shards -> Examples, after comparing each shard with the index."""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from concurrent import futures

import numpy as np

from zoo.data import cores, encoded
from zoo.data.example import Dataset
from zoo.data.progress import Progress
from zoo.data.shards import records

MAX_NAMED = 5  # shards in one message


def are_in(root: str | os.PathLike | None) -> bool:
    """Tells whether a folder is one of shards, finished or not.

    Args:
        root: str, path or `None`.

    Returns:
        bool.
    """
    return root is not None and any(
        pathlib.Path(root, name).is_file()
        for name in (records.INDEX, records.UNFINISHED)
    )


def splits(
    root: str | os.PathLike, dataset: str | None = None
) -> tuple[str, ...]:
    """Gives the splits that lie in a folder of shards.

    Args:
        root: str or path.
        dataset: str, the data set that it must be of; `None` for any.

    Returns:
        tuple of str.

    Raises:
        FileNotFoundError: If the folder has no index.
        ValueError: If the index cannot be used, or is of another data set.
    """
    index = _index(pathlib.Path(root))
    if dataset not in (None, index["dataset"]):
        raise ValueError(
            f"The shards in {root} are of the data set {index['dataset']!r}. "
            f"Received: dataset={dataset!r}"
        )
    return tuple(index["splits"])


def read(
    root: str | os.PathLike,
    split: str,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Reads one split, and makes sure that every byte of it is as written.

    Args:
        root: str or path. A folder that `write` has finished.
        split: str. One of `splits(root)`.
        classes: sequence of str, such as those of a trained model, in the
            order of the targets; `None` for those of the index. One that the
            shards do not know is absent everywhere.

    Returns:
        A `Dataset`, in the order of the data set that was written. Images
        that could not be decoded then count as missing.

    Raises:
        FileNotFoundError: If the folder has no index.
        ValueError: If there is no such split; if a shard is missing or differs
            from what the index says, with its name and what was found; or if
            an example has a class that is not one of `classes`.

    Example:

    >>> dataset = read("shards/voc2007", "trainval")  # doctest: +SKIP
    >>> dataset.targets().shape  # doctest: +SKIP
    (5011, 20)
    """
    root = pathlib.Path(root)
    index = _index(root)
    if split not in index["splits"]:
        raise ValueError(
            f"The shards in {root} have the splits {list(index['splits'])}. "
            f"Received: split={split!r}"
        )
    shards = index["splits"][split]["shards"]
    left_out = index["splits"][split]["left_out"]
    num_examples = sum(shard["num_examples"] for shard in shards)
    print(
        f"Comparing the {len(shards)} shards of {split}, {num_examples} "
        "examples, with their checksums",
        flush=True,
    )
    if left_out:
        print(
            f"{len(left_out)} examples of {split} were left out when the "
            f"shards were written; {root / records.INDEX} says why.",
            file=sys.stderr,
        )
    progress = Progress("Compared", num_examples, "examples")

    def read_shard(shard):
        if found := problem(root, shard):
            return found
        found = list(_examples(str(root / shard["file"])))
        progress.add(shard["num_examples"])
        return found

    with futures.ThreadPoolExecutor(cores.count()) as pool:
        found = list(pool.map(read_shard, shards))
    if problems := [each for each in found if isinstance(each, str)]:
        raise ValueError(
            f"{len(problems)} of {len(shards)} shards of {split} cannot be "
            "used; copy them again, or write them again in another folder: "
            + "; ".join(problems[:MAX_NAMED])
        )
    # All examples of an image take it from the record of the first: those of
    # the others have none.
    first, examples = {}, []
    for example, image_file in (pair for shard in found for pair in shard):
        path, span = first.setdefault(image_file, example.location)
        examples.append(
            dataclasses.replace(example, image_path=path, span=span)
        )
    num_missing = index["splits"][split]["num_missing"] + len(left_out)
    dataset = Dataset(
        examples,
        tuple(index["classes"]),
        num_missing,
        index["options"]["largest_side"],
    )
    return dataset if classes is None else _with_classes(dataset, classes, root)


def _index(root):
    """Reads the index of a folder of shards."""
    path = root / records.INDEX
    if not path.is_file():
        unfinished = path.with_name(records.UNFINISHED).is_file()
        raise FileNotFoundError(
            f"The shards in {root} are not finished: go on by the command "
            "that began them."
            if unfinished
            else f"There are no shards in {root}: no {records.INDEX}."
        )
    try:
        index = json.loads(path.read_bytes())
        if index["format"] in records.READ:
            return index
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not an index of shards. {type(error).__name__}: {error}"
        ) from error
    raise ValueError(
        f"{path}: 'format' must be one of {records.READ}, which this version "
        f"reads. Received: format={index['format']!r}"
    )


def problem(root, shard):
    """Says how a shard differs from the index; `None` where it does not."""
    path = root / shard["file"]
    try:
        size = path.stat().st_size
        if size != shard["bytes"]:
            return f"{path}: expected {shard['bytes']} bytes, found {size}"
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if sha256 != shard["sha256"]:
        return f"{path}: expected the sha256 {shard['sha256']}, found {sha256}"
    return None


def _examples(path):
    """Yields the examples of a shard with the names of their images' files."""
    with open(path, "rb") as file:
        while head := file.read(encoded.RECORD_HEAD):
            length = int.from_bytes(head[:8], "little")
            span = (file.tell(), length)
            yield records.parse(file.read(length), path, span)
            file.seek(encoded.RECORD_TAIL, os.SEEK_CUR)


def _with_classes(dataset, classes, root):
    """Puts the targets into another order of classes, perhaps of more."""
    place = {name: k for k, name in enumerate(classes)}
    column = np.array([place.get(name, -1) for name in dataset.classes], int)
    used = (dataset.targets() != 0).any(axis=0)
    if unknown := [
        name
        for name, is_used, k in zip(dataset.classes, used, column, strict=True)
        if is_used and k < 0
    ]:
        raise ValueError(
            f"{root}: a label must be one of the {len(classes)} classes "
            f"given. Received: {unknown}"
        )
    known = column >= 0

    def moved(example):
        targets = np.zeros(len(classes), "float32")
        targets[column[known]] = example.targets[known]
        box_classes = column[example.box_classes].astype("int32")
        return dataclasses.replace(
            example, targets=targets, box_classes=box_classes
        )

    return dataclasses.replace(
        dataset,
        examples=[moved(example) for example in dataset.examples],
        classes=tuple(classes),
    )
