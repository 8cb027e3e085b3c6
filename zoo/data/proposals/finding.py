"""Examples -> examples with regions, found in parallel and kept on disk."""

import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import time
import uuid
from concurrent import futures

import keras
import numpy as np
import tensorflow as tf

from zoo import preprocess
from zoo.data import cores, encoded
from zoo.data.proposals import edges
from zoo.data.proposals.windows import sliding_windows

METHODS = ("edge_boxes", "sliding_windows", "own")
PROGRESS_SECONDS = 30  # between two lines
MAX_NAMED = 20  # corrupt images


def propose(
    examples,
    method="edge_boxes",
    num_regions=300,
    nms=0.7,
    model_file=None,
    cache_dir=None,
    num_workers=None,
):
    """Gives examples the regions that a model is to look at.

    They depend on the image alone, never on its labels or boxes. Edge boxes
    are kept on disk, a file an image, under a name that changes with the
    image file's content, the crop, the settings, and the versions of this code
    and of OpenCV; a run that was killed goes on where it stopped. Progress is
    printed. Of the scores only the order is kept: the best come first.

    An image that cannot be decoded is named, and gets no regions: it stays in
    its place, so that what reads the pixels can refuse it or leave it out.

    Args:
        examples: list of `Example`. Of a file with a crop, the crop is the
            image.
        method: str, one of `METHODS`, see `zoo.data.proposals`.
        num_regions: int, at least 1. Most regions of an image.
        nms: float, as of `edge_boxes`; other methods ignore it.
        model_file: path of a structured forest as OpenCV reads it
            (`model.yml.gz`), or `None` for edges by the gradient; other
            methods ignore it.
        cache_dir: path of a folder to keep edge boxes in; `None` is one in
            the cache, `multilabel_zoo` in `$XDG_CACHE_HOME` or `~/.cache`.
        num_workers: int, threads; `None` is one a core. OpenCV and TensorFlow
            let go of Python's lock. Results do not depend on it.

    Returns:
        list of `Example`, in the same order, with `regions`, best first.

    Raises:
        ImportError: If OpenCV is missing; says how to install it.
        FileNotFoundError: If there is no such model file.
        ValueError: If an argument is out of its range; if OpenCV cannot read
            the model file; or if an example has no regions of its own.

    Example:

    >>> from zoo.data import scenes
    >>> examples = scenes.read(None, "test").examples  # doctest: +SKIP
    >>> propose(examples)[0].regions.shape  # doctest: +SKIP
    (300, 4)
    """
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {METHODS}: regions never come from true "
            f"boxes where a model is measured. Received: method={method!r}"
        )
    edges.check(num_regions, nms)
    if method == "edge_boxes":
        cache_dir = _cache_folder() if cache_dir is None else cache_dir
        settings = {"num_regions": num_regions, "nms": nms}
        finder = _Finder(settings, model_file, pathlib.Path(cache_dir))
        found = _find_all(finder, examples, num_workers)
    elif method == "sliding_windows":
        found = [sliding_windows(num_regions=num_regions)] * len(examples)
    else:
        without = [e.image_id for e in examples if e.regions is None]
        if without:
            raise ValueError(
                "With the method 'own', every example brings its regions, as "
                "a manifest with the field 'regions' gives them. "
                f"Received: {len(without)} examples without, "
                f"the first is {without[0]!r}"
            )
        found = [example.regions[:num_regions] for example in examples]
    return [
        dataclasses.replace(example, regions=regions)
        for example, regions in zip(examples, found, strict=True)
    ]


def _cache_folder():
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache, "multilabel_zoo", "edge_boxes")


class _Finder:
    """Finds the edge boxes of one example, in the cache or in the image."""

    def __init__(self, settings, model_file, directory):
        self.settings = {**settings, "forest": None}
        self.directory = directory
        key = {**settings, "version": edges.VERSION}
        key["opencv"] = edges.opencv().__version__
        if model_file is not None:
            self.settings["forest"] = edges.Forest(model_file)
            # What is in it counts, not its name.
            data = pathlib.Path(model_file).read_bytes()
            key["forest"] = hashlib.sha256(data).hexdigest()
        self.key = json.dumps(key, sort_keys=True)

    def __call__(self, example):
        """Gives regions, and "cached", "found" or why there are none."""
        try:
            data = encoded.read_bytes(*example.location)
        except OSError as error:
            return np.zeros((0, 4), "float32"), error.strerror
        sha256 = hashlib.sha256(f"{self.key} {example.crop}\n".encode())
        sha256.update(data)
        name = sha256.hexdigest()
        # Not all in one folder, where they would be hard to list.
        path = self.directory / name[:2] / f"{name[2:]}.npy"
        regions = _cached(path, self.settings["num_regions"])
        if regions is not None:
            return regions, "cached"
        try:
            image = _decode(data, example.crop)
        except tf.errors.InvalidArgumentError:
            return np.zeros((0, 4), "float32"), encoded.fault(data)
        regions, _ = edges.edge_boxes(image, **self.settings)
        _write(path, regions)
        return regions, "found"


def _decode(image_bytes, crop):
    """Gives the pixels that a model sees."""
    with tf.device("CPU"):  # nothing here is worth the way to a GPU and back
        if crop is None:
            return preprocess.decode(image_bytes).numpy()
        return preprocess.decode_crop(image_bytes, crop).numpy()


def _cached(path, num_regions):
    """Gives the regions of a file, or `None` if they cannot be believed."""
    try:
        with open(path, "rb") as file:
            regions = np.load(file)
        is_whole = (
            regions.dtype == "float32"
            and regions.shape == (len(regions), 4)
            and len(regions) <= num_regions
            and np.isfinite(regions).all()
            and (regions[:, 2:] > regions[:, :2]).all()
        )
    except Exception:  # not there; or damaged, and NumPy may raise any
        return None
    return regions if is_whole else None


def _write(path, regions):
    """Writes beside the path and renames: a file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Unlike those of `tempfile`, others may read it as they may our files.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(part, "xb") as file:
            np.save(file, regions)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _find_all(finder, examples, num_workers):
    """Calls the finder in threads, prints progress and what went wrong."""
    num_examples, start = len(examples), time.monotonic()
    print(f"Regions: looking at {num_examples} images", flush=True)
    verbose = int(sys.stdout.isatty())
    bar = keras.utils.Progbar(num_examples, verbose=verbose, unit_name="image")
    found, bad, num_found, printed = [], [], 0, start
    with futures.ThreadPoolExecutor(num_workers or cores.count()) as pool:
        for example, (regions, how) in zip(
            examples, pool.map(finder, examples), strict=True
        ):
            found.append(regions)
            if how == "found":
                num_found += 1
            elif how != "cached":
                bad.append(f"{example.image_path}: {how}")
            bar.update(len(found))
            # A file gets lines, now and then.
            if not verbose and time.monotonic() - printed > PROGRESS_SECONDS:
                printed = time.monotonic()
                print(f"Regions: {len(found)} of {num_examples}", flush=True)
    seconds = (time.monotonic() - start) / max(1, num_found)
    speed = f" ({seconds:.3f} seconds an image)" if num_found else ""
    print(
        f"Regions: {num_found} images now{speed}, "
        f"{num_examples - num_found - len(bad)} from {finder.directory}, "
        f"{len(bad)} cannot be read",
        *bad[:MAX_NAMED],
        *[f"and {len(bad) - MAX_NAMED} more"] * (len(bad) > MAX_NAMED),
        sep="\n    ",
        flush=True,
    )
    return found
