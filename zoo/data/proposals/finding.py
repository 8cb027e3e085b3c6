"""Examples -> examples with regions, found in parallel and kept on disk."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import sys
import tempfile
import time
from concurrent import futures

import keras
import numpy as np
from PIL import Image, ImageOps

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
    printed.

    An image that cannot be decoded is named, and gets no regions: it stays in
    its place, so that what reads the pixels can refuse it or leave it out.

    Args:
        examples: list of `Example`. Of a file with a crop, the crop is the
            image.
        method: str, one of `METHODS`, see `zoo.data.proposals`.
        num_regions: int, at least 1. Most regions of an image.
        nms: float, as of `edge_boxes`; other methods ignore it.
        model_file: path or `None`, as of `edge_boxes`.
        cache_dir: path of a folder to keep edge boxes in; `None` is one in
            the cache, `multilabel_zoo` in `$XDG_CACHE_HOME` or `~/.cache`.
        num_workers: int, threads; `None` is one a core. OpenCV and Pillow
            let go of Python's lock. Results do not depend on it.

    Returns:
        list of `Example`, in the same order, with `regions`.

    Raises:
        ImportError: If OpenCV is missing; says how to install it.
        FileNotFoundError: If there is no such model file.
        ValueError: If an argument is out of its range; or if an example has
            no regions of its own.

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
    edges.check(num_regions, nms, model_file)
    if method == "edge_boxes":
        settings = {
            "num_regions": num_regions,
            "nms": nms,
            "model_file": model_file and os.fspath(model_file),
        }
        cache_dir = _cache_folder() if cache_dir is None else cache_dir
        finder = _Finder(settings, pathlib.Path(cache_dir))
        found = _find_all(finder, examples, num_workers)
    elif method == "sliding_windows":
        found = [sliding_windows()[:num_regions]] * len(examples)
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

    def __init__(self, settings, directory):
        self.settings = settings
        self.directory = directory
        key = {**settings, "version": edges.VERSION}
        key["opencv"] = edges.opencv().__version__
        if settings["model_file"]:  # what is in it counts, not its name
            data = pathlib.Path(settings["model_file"]).read_bytes()
            key["model_file"] = hashlib.sha256(data).hexdigest()
        self.key = json.dumps(key, sort_keys=True)

    def __call__(self, example):
        """Gives regions, and "cached", "found" or why there are none."""
        try:
            data = pathlib.Path(example.image_path).read_bytes()
        except OSError as error:
            return np.zeros((0, 4), "float32"), error.strerror
        sha256 = hashlib.sha256(f"{self.key} {example.crop}\n".encode())
        sha256.update(data)
        name = sha256.hexdigest()
        # Not all in one folder, where they would be hard to list.
        path = self.directory / name[:2] / f"{name[2:]}.npy"
        try:
            return np.load(path), "cached"
        except (OSError, EOFError, ValueError):
            pass  # not there, or cut off by a power failure
        try:
            image = _decode(data, example.crop)
        except Exception as error:  # a broken file makes Pillow raise any
            return np.zeros((0, 4), "float32"), str(error)
        regions, _ = edges.edge_boxes(image, **self.settings)
        _write(path, regions)
        return regions, "found"


def _decode(data, crop):
    """Gives the upright pixels that `zoo.preprocess` gives."""
    with Image.open(io.BytesIO(data)) as file:
        image = ImageOps.exif_transpose(file).convert("RGB")
    if crop is not None:
        size = np.array([image.height, image.width])
        sides = np.float32(crop).reshape(2, 2) * np.float32(size)
        start, end = np.round(sides).astype(int)
        top, left = np.minimum(start, size - 1)
        bottom, right = np.maximum(end, (top + 1, left + 1))
        image = image.crop((left, top, right, bottom))
    return np.asarray(image)


def _write(path, regions):
    """Writes beside the path and renames: a file is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        np.save(file, regions)
    os.replace(file.name, path)


def _find_all(finder, examples, num_workers):
    """Calls the finder in threads, prints progress and what went wrong."""
    num_examples, start = len(examples), time.monotonic()
    print(f"Regions: looking at {num_examples} images", flush=True)
    verbose = int(sys.stdout.isatty())
    bar = keras.utils.Progbar(num_examples, verbose=verbose, unit_name="image")
    found, bad, num_found, printed = [], [], 0, start
    with futures.ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
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
