"""Examples -> shards, in threads; what was stopped goes on."""

import hashlib
import json
import math
import os
import pathlib
import shutil
import threading
from collections.abc import Mapping
from concurrent import futures

import tensorflow as tf

from zoo import runs
from zoo.data import cores, encoded
from zoo.data.example import Dataset
from zoo.data.progress import Progress
from zoo.data.shards import images, reading, records

MEGABYTES = 150  # of image files in a shard


def write(
    directory: str | os.PathLike,
    dataset: str,
    splits: Mapping[str, Dataset],
    largest_side: int | None = None,
    shard_megabytes: float = MEGABYTES,
    num_workers: int | None = None,
) -> dict:
    """Writes a data set into a folder of shards, see `zoo.data.shards`.

    Each shard is written beside its name and renamed. Where a call was
    stopped, the same call goes on; the shards are then, byte for byte, those
    of a call that was not. Images that cannot be decoded are left out, and the
    index names them.

    Args:
        directory: str or path. A new or empty folder, or one that the same
            call has begun.
        dataset: str. Name of the data set.
        splits: dict from the name of a split to its `Dataset`; all of the
            same classes.
        largest_side: int, at least 1. Pixels above which the larger side of
            an image is resized to this; `None` keeps all as they are. What
            comes from shards with a lower one keeps that.
        shard_megabytes: float, above 0. Million bytes of image files, before
            they are resized, in a shard.
        num_workers: int, threads, each with a shard; `None` is one a core.
            The shards do not depend on it.

    Returns:
        dict, the index, as it is in `shards.json`.

    Raises:
        FileExistsError: If the folder holds finished shards or other files, or
            another process writes into it.
        OSError: If the disk has too little room, or fails.
        ValueError: If an argument is out of its range; if the folder holds
            shards of other data or options; or if a split has no image that
            can be decoded.

    Example:

    >>> dataset = voc.read("VOCdevkit", "test", 2007)  # doctest: +SKIP
    >>> index = write("shards", "voc2007", {"test": dataset})  # doctest: +SKIP
    """
    if largest_side is not None and largest_side < 1:
        raise ValueError(
            "`largest_side` must be at least 1, or `None`. "
            f"Received: largest_side={largest_side}"
        )
    if not shard_megabytes > 0:
        raise ValueError(
            "`shard_megabytes` must be above 0. "
            f"Received: shard_megabytes={shard_megabytes}"
        )
    if empty := [name for name, data in splits.items() if not data.examples]:
        raise ValueError(f"All splits must have examples. Received: {empty}")
    if len({data.classes for data in splits.values()}) != 1:
        raise ValueError(
            "All splits must have the same classes. Received: "
            f"{ {name: data.classes for name, data in splits.items()} }"
        )
    directory = pathlib.Path(directory)
    as_they_are = largest_side is None
    sides = [largest_side, *(data.largest_side for data in splits.values())]
    largest_side = min((side for side in sides if side), default=None)
    options = {"largest_side": largest_side, "shard_megabytes": shard_megabytes}
    index = {
        "format": records.FORMAT,
        "dataset": dataset,
        "classes": next(iter(splits.values())).classes,
        "options": options,
        "splits": {},
    }
    contents = {}  # shard's file -> its examples, with names of their images
    num_bytes = 0
    for split, data in splits.items():
        # An image may have several examples; it is stored once.
        size_of = {
            location: _size(*location)
            for location in dict.fromkeys(e.location for e in data.examples)
        }
        sizes = [size_of[example.location] for example in data.examples]
        split_bytes = sum(size_of.values())
        pairs = list(zip(data.examples, _names(data.examples), strict=True))
        parts = _parts(split, pairs, split_bytes, shard_megabytes * 1e6)
        contents |= parts
        num_bytes += split_bytes
        index["splits"][split] = {
            "num_missing": data.num_missing,
            "examples_sha256": _digest(pairs, sizes),
            "left_out": [],
            "shards": [{"file": name} for name in parts],
        }
    directory.mkdir(parents=True, exist_ok=True)
    with runs.claim(directory):
        index = _begun(directory, index)
        written = {
            shard["file"]: shard
            for split in index["splits"].values()
            for shard in split["shards"]
            if _is_written(directory, shard)
        }
        missing = {k: v for k, v in contents.items() if k not in written}
        if as_they_are and not written:
            _check_room(directory, num_bytes)
        _write_all(directory, index, missing, largest_side, num_workers)
        _finish(directory, index)
    return index


def _finish(directory, index):
    """Writes the index, by which the folder is one of shards from now on."""
    for split, entry in index["splits"].items():
        entry["left_out"] = [
            left_out
            for shard in entry["shards"]
            for left_out in shard.pop("left_out")
        ]
        if not any(shard["num_examples"] for shard in entry["shards"]):
            reasons = [each["reason"] for each in entry["left_out"][:3]]
            raise ValueError(
                f"No image of {split} can be decoded: {'; '.join(reasons)}"
            )
    runs.write_json(directory / records.INDEX, index)
    (directory / records.UNFINISHED).unlink(missing_ok=True)


def _size(path, span):
    if span:
        return span[1]
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _names(examples):
    """Names the images by their files, relative to the folder of all."""
    folders = {os.path.dirname(example.image_path) for example in examples}
    top = os.path.commonpath(list(map(os.path.abspath, folders)))
    names = {  # an image may have several examples
        location: os.path.relpath(location[0], top)
        + (f":{location[1][0]}" if location[1] else "")
        for location in dict.fromkeys(e.location for e in examples)
    }
    return [names[example.location] for example in examples]


def _parts(split, pairs, num_bytes, shard_bytes):
    """Shares out examples, about as many to each shard; names the shards."""
    wanted = math.ceil(num_bytes / shard_bytes)
    num_shards = min(max(1, wanted), len(pairs))
    ends = [i * len(pairs) // num_shards for i in range(num_shards + 1)]
    return {
        f"{split}-{i:05}-of-{num_shards:05}.tfrecord": pairs[
            ends[i] : ends[i + 1]
        ]
        for i in range(num_shards)
    }


def _digest(pairs, sizes):
    """Tells examples from others, by all that is known of them but pixels."""
    sha256 = hashlib.sha256()
    for (example, name), size in zip(pairs, sizes, strict=True):
        record = records.serialize(example, b"", name, example.size)
        sha256.update(b"%d %d " % (size, len(record)))
        sha256.update(record)
    return sha256.hexdigest()


def _begun(directory, index):
    """Gives what a stopped call has left of this index, or the index itself."""
    path = directory / records.UNFINISHED
    if (directory / records.INDEX).exists():
        raise FileExistsError(
            f"{directory} holds finished shards, which are never overwritten. "
            "Choose another folder, or delete it."
        )
    if not path.exists():
        if any(each.name != runs.LOCK for each in directory.iterdir()):
            raise FileExistsError(
                "Shards are written into a new or empty folder, or into one "
                f"with an {records.UNFINISHED}. "
                f"Received: directory={str(directory)!r}"
            )
        runs.write_json(path, index)
        return index
    try:
        begun = json.loads(path.read_bytes())
        then = _identity(begun)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not an index of unfinished shards; delete the folder "
            f"to write them anew. {type(error).__name__}: {error}"
        ) from error
    now = _identity(json.loads(json.dumps(index)))
    changed = [
        f"{name}: {then.get(name)!r} then, {now.get(name)!r} now"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    if changed:
        raise ValueError(
            f"The shards that were begun in {directory} are of other data or "
            "options. Choose another folder, or delete it. Received: "
            + "; ".join(changed)
        )
    return begun


def _identity(index):
    """Lists what a call must share with the one that it goes on with."""
    return {
        "format": index["format"],
        "dataset": index["dataset"],
        "classes": index["classes"],
        **index["options"],
        **{
            f"examples_sha256 of {split}": entry["examples_sha256"]
            for split, entry in index["splits"].items()
        },
    }


def _is_written(directory, shard):
    # Also its contents: a machine that went down may have lost some.
    return "bytes" in shard and reading.problem(directory, shard) is None


def _check_room(directory, num_bytes):
    free = shutil.disk_usage(directory).free
    if num_bytes > free:
        raise OSError(
            f"The shards need {num_bytes / 1e9:.1f} GB. Received: "
            f"{free / 1e9:.1f} GB free for {directory}"
        )


def _write_all(directory, index, contents, largest_side, num_workers):
    """Writes shards in threads; the unfinished index grows by each."""
    place = {
        shard["file"]: (entry["shards"], i)
        for entry in index["splits"].values()
        for i, shard in enumerate(entry["shards"])
    }
    num_examples = sum(map(len, contents.values()))
    print(
        f"Writing {num_examples} examples into {len(contents)} shards, "
        f"{len(place) - len(contents)} are there already",
        flush=True,
    )
    progress = Progress("Written", num_examples, "examples")
    stopped = threading.Event()

    def write_shard(name):
        return _write_shard(
            directory / name, contents[name], largest_side, progress, stopped
        )

    with futures.ThreadPoolExecutor(num_workers or cores.count()) as pool:
        tasks = [pool.submit(write_shard, name) for name in contents]
        try:
            for task in futures.as_completed(tasks):
                entry = task.result()
                shards, i = place[entry["file"]]
                shards[i] = entry
                runs.write_json(directory / records.UNFINISHED, index)
        finally:  # after an error the others need not go on
            stopped.set()
            pool.shutdown(cancel_futures=True)


def _write_shard(path, pairs, largest_side, progress, stopped):
    """Writes a shard, and gives its entry in the index."""
    left_out = []

    def write_to(temporary):
        location, found = None, None
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for example, name in pairs:
                if stopped.is_set():
                    raise InterruptedError("Another shard could not be written")
                if example.location != location:
                    location = example.location
                    found = _image(location, largest_side)
                else:  # an image is stored once, with its first example
                    found = (b"", *found[1:])
                image_bytes, size, reason = found
                if reason:
                    left_out.append(
                        {
                            "image_id": example.image_id,
                            "reason": f"{name}: {reason}",
                        }
                    )
                else:
                    # What the annotations did not say is not known better now.
                    size = example.size and (size or example.size)
                    writer.write(
                        records.serialize(example, image_bytes, name, size)
                    )
                progress.add()

    try:
        runs.write_beside(path, write_to)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be written: {error.message}") from error
    return {
        "file": path.name,
        "num_examples": len(pairs) - len(left_out),
        "bytes": path.stat().st_size,
        "sha256": sha256,
        "left_out": left_out,
    }


def _image(location, largest_side):
    """Gives an image's bytes, its new size, and "" or why it is left out."""
    try:
        image_bytes = encoded.read_bytes(*location)
    except FileNotFoundError:
        return None, None, encoded.absence(location[0])
    try:
        return *images.fitted(image_bytes, largest_side), ""
    except tf.errors.InvalidArgumentError:
        return None, None, encoded.fault(image_bytes)
