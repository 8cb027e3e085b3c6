"""Features of a frozen backbone, computed once and kept on disk.

Where the backbone does not learn and nothing in the pixels is random, every
epoch would compute the same features again. A cache is a folder:

key.json    what the features depend on
00.npy      the first output of the network, one row an image
01.npy      the second, and so on
"""

import hashlib
import json
import math
import os
import pathlib
import shutil
import sys
import time

import keras
import numpy as np

from zoo import runs

KEY = "key.json"
PROGRESS_SECONDS = 30  # between two lines


def load_or_compute(directory, key, compute, batches, num_examples):
    """Opens the features in a folder, after computing them if there are none.

    They are written to another folder beside it, which is renamed at the end,
    so a cache is whole or not there.

    Args:
        directory: str or path of the cache.
        key: dict, ready for JSON: all that the features depend on, such as
            the `digest` of the weights, the data, the image size.
        compute: callable from a batch of images to its features: a float
            array or tensor `(batch, ...)`, or a list of them.
        batches: iterable of `(images, targets)`, such as a `tf.data.Dataset`,
            always in the same order; read only if there is no cache.
        num_examples: int. Number of images in `batches`.

    Returns:
        list of float32 `np.memmap` of shape `(num_examples, ...)`, read-only,
        one for each of the features.

    Raises:
        FileExistsError: If the folder holds something else.
        OSError: If the disk has too little room for the features.
        ValueError: If the cache has another key; names what differs. Or if
            `batches` hold another number of images than `num_examples`.
    """
    directory = pathlib.Path(directory)
    if (directory / KEY).exists():
        _check_key(directory, key)
        print(f"The features in {directory} are used again.")
    elif directory.exists() and any(directory.iterdir()):
        raise FileExistsError(
            f"Expected a folder of features, with a {KEY} in it, or an empty "
            f"one, or none. Received: directory={str(directory)!r}"
        )
    else:
        _write(directory, key, compute, batches, num_examples)
    paths = sorted(directory.glob("*.npy"))
    return [np.load(path, mmap_mode="r") for path in paths]


def digest(weights):
    """Gives a text that is another one for other weights.

    Args:
        weights: list of Keras variables, such as `model.weights`.

    Returns:
        str, the sha256 of their shapes, types and values in hexadecimal.
        Names do not count: Keras numbers the layers of a process.

    Example:

    >>> digest([keras.Variable([1.0, 2.0])])[:8]
    'ad838d43'
    """
    sha256 = hashlib.sha256()
    for weight in weights:
        array = keras.ops.convert_to_numpy(weight)
        sha256.update(f"{array.shape} {array.dtype}".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def digest_of_images(examples):
    """Gives a text that is another one for other images.

    Args:
        examples: list of `zoo.data.Example`.

    Returns:
        str, the sha256 of their ids, paths, crops and the sizes of the files,
        or of their places in shards. The files are not read.
    """
    sha256 = hashlib.sha256()
    for example in examples:
        size = example.span or os.path.getsize(example.image_path)
        text = f"{example.image_id} {example.image_path} {example.crop} {size}"
        sha256.update(f"{text}\n".encode())
    return sha256.hexdigest()


def _check_key(directory, key):
    stored = json.loads((directory / KEY).read_text())
    # JSON has lists for tuples: compare what it would give back.
    key = json.loads(json.dumps(key))
    changed = [
        f"{name}: {stored.get(name)!r} there, {key.get(name)!r} now"
        for name in sorted(stored.keys() | key.keys())
        if stored.get(name) != key.get(name)
    ]
    if changed:
        raise ValueError(
            f"The features in {directory} were made from something else; "
            "delete the folder or choose another. Received: "
            + "; ".join(changed)
        )


def _write(directory, key, compute, batches, num_examples):
    writing = directory.with_name(f".writing-{directory.name}")
    shutil.rmtree(writing, ignore_errors=True)  # left by a run that was killed
    writing.mkdir(parents=True)
    bar = keras.utils.Progbar(num_examples, unit_name="image")
    arrays, end, printed = [], 0, time.monotonic()
    try:
        for images, _ in batches:
            features = keras.tree.flatten(compute(images))
            features = [keras.ops.convert_to_numpy(x) for x in features]
            start, end = end, end + len(features[0])
            if end > num_examples:
                break
            arrays = arrays or _create(writing, features, num_examples)
            for array, feature in zip(arrays, features, strict=True):
                array[start:end] = feature
            if sys.stdout.isatty():
                bar.update(end)
            # A file gets lines, now and then.
            elif (
                end == num_examples
                or time.monotonic() - printed > PROGRESS_SECONDS
            ):
                printed = time.monotonic()
                print(f"features: {end} of {num_examples} images", flush=True)
        if end != num_examples:
            raise ValueError(
                "`batches` must hold `num_examples` images. Received: "
                f"num_examples={num_examples}, and the batches' sizes add up "
                f"to {end}{' or more' if end > num_examples else ''}"
            )
        for array in arrays:
            array.flush()
        runs.write_json(writing / KEY, key)
        os.replace(writing, directory)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def _create(directory, features, num_examples):
    """Makes the files, once the first batch tells how large they will be."""
    shapes = [(num_examples, *feature.shape[1:]) for feature in features]
    needed = 4 * sum(math.prod(shape) for shape in shapes)  # bytes
    free = shutil.disk_usage(directory).free
    # The files have holes at first: a full disk, met in the middle of a write
    # to mapped memory, would kill the process without a word.
    if needed > free:
        raise OSError(
            f"The features of {num_examples} images need {needed / 1e9:.1f} "
            f"GB. Received: {free / 1e9:.1f} GB free for {directory}"
        )
    return [
        np.lib.format.open_memmap(
            directory / f"{i:02}.npy", mode="w+", dtype="float32", shape=shape
        )
        for i, shape in enumerate(shapes)
    ]
