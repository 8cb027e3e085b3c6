"""Regions that do not depend on pixels: a grid, and jittered true boxes."""

import dataclasses
import math
import zlib

import numpy as np


def sliding_windows(
    scales=(0.9, 0.6, 0.4, 0.27, 0.21, 0.15),
    ratios=(0.5, 1, 2),
    strides=(0.75, 0.75, 0.75, 0.75, 1.5, 2),
    num_regions=None,
):
    """Lays windows of several scales and ratios over an image.

    The exported model looks at these where nobody gives it regions. Of the
    small scales there would be hundreds: they have gaps in between.

    Fewer than all are of all areas, in proportion, and lie all over the image:
    windows of equal area come in an order that is random, but always the same.

    Args:
        scales: floats, at least one. Square root of a window's area, as a
            share of the image's side.
        ratios: floats, at least one. Height over width.
        strides: floats above 0, as many as scales. Largest step to the next
            window, as a share of the window's side; above 1 there are gaps.
            Windows are spread evenly, and the outer ones end where the image
            does.
        num_regions: int, most windows, at least 1; `None` for all.

    Returns:
        float32 array of shape `(num_regions, 4)`, each once, the largest
        first. A side that would be longer than the image's is cut to it.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> grid = sliding_windows(scales=[0.5], ratios=[1], strides=[1])
    >>> sorted(grid.tolist())[1]
    [0.0, 0.5, 0.5, 1.0]
    >>> sliding_windows().shape
    (242, 4)
    """
    arguments = {"scales": scales, "ratios": ratios, "strides": strides}
    for name, values in arguments.items():
        if not len(values) or not all(0 < x < math.inf for x in values):
            raise ValueError(
                f"`{name}` must hold numbers above 0. Received: {name}={values}"
            )
    if len(strides) != len(scales):
        raise ValueError(
            "`strides` must be as many as `scales`. "
            f"Received: strides={strides}, scales={scales}"
        )
    if num_regions is not None and num_regions < 1:
        raise ValueError(
            "`num_regions` must be at least 1, or `None`. "
            f"Received: num_regions={num_regions}"
        )
    windows = []
    for scale, stride in zip(scales, strides, strict=True):
        for ratio in ratios:
            height = min(1, scale * math.sqrt(ratio))
            width = min(1, scale / math.sqrt(ratio))
            windows += [
                (y, x, y + height, x + width)
                for y in _starts(height, stride)
                for x in _starts(width, stride)
            ]
    windows = np.unique(np.round(windows, 6).astype("float32"), axis=0)
    windows = np.random.default_rng(0).permutation(windows)
    areas = np.prod(windows[:, 2:] - windows[:, :2], axis=1)
    # Equal areas differ in their last digit, which must not order them.
    windows = windows[np.argsort(-np.round(areas, 5), kind="stable")]
    if num_regions is None or num_regions >= len(windows):
        return windows
    return windows[np.arange(num_regions) * len(windows) // num_regions]


def _starts(side, stride):
    # Without rounding, 0.5 / 0.25 may be a little above 2.
    num_steps = math.ceil(round((1 - side) / (stride * side), 6))
    return np.linspace(0, 1 - side, num_steps + 1)


def jitter(examples, num_regions, seed):
    """Gives training examples regions around their true boxes.

    For training examples alone: where a model is measured, regions that know
    the answer would be cheating. So this stands apart from `propose`, which
    never asks for boxes.

    Args:
        examples: list of `Example`, of a training split.
        num_regions: int, at least 1. Regions of an image.
        seed: int, at least 0. With an example's `image_id` it decides where
            the example's regions lie; other examples do not matter.

    Returns:
        list of `Example`, in the same order, with `regions`. An example
        without boxes keeps those it has, or gets none.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> from zoo.data import scenes
    >>> examples = scenes.read(None, "train").examples  # doctest: +SKIP
    >>> jitter(examples, 50, seed=0)[0].regions.shape  # doctest: +SKIP
    (50, 4)
    """
    with_regions = []
    for example in examples:
        # Unlike `hash`, a checksum is the same in the next process.
        seeds = (seed, zlib.crc32(example.image_id.encode()))
        regions = jittered_boxes(example.boxes, num_regions, seeds)
        if example.regions is not None and not len(example.boxes):
            regions = example.regions
        with_regions.append(dataclasses.replace(example, regions=regions))
    return with_regions


def jittered_boxes(boxes, num_regions, seed, jitter=0.2):
    """Moves and stretches true boxes at random; `jitter` does so for examples.

    Args:
        boxes: float array of shape `(num_boxes, 4)`, as those of an `Example`.
        num_regions: int, at least 1.
        seed: int, at least 0, or a tuple of such.
        jitter: float, at least 0. Standard deviation of the centre, as a
            share of a side, and of the logarithm of a side.

    Returns:
        float32 array of shape `(num_regions, 4)`, cut to the image, around
        each of the boxes in turn; `(0, 4)` where there are no boxes.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> regions = jittered_boxes([[0.2, 0.2, 0.6, 0.8]], num_regions=5, seed=0)
    >>> regions.shape
    (5, 4)
    """
    if num_regions < 1 or jitter < 0:
        raise ValueError(
            "`num_regions` must be at least 1, and `jitter` at least 0. "
            f"Received: num_regions={num_regions}, jitter={jitter}"
        )
    boxes = np.asarray(boxes, "float64").reshape(-1, 4)
    if not len(boxes):
        return np.zeros((0, 4), "float32")
    boxes = boxes[np.arange(num_regions) % len(boxes)]
    start, end = boxes[:, :2], boxes[:, 2:]
    shifts, stretches = np.random.default_rng(seed).normal(
        0, jitter, (2, num_regions, 2)
    )
    # A centre in the image leaves a region something of it.
    centre = np.clip((start + end) / 2 + shifts * (end - start), 0, 1)
    half = np.exp(stretches) * (end - start) / 2
    regions = np.hstack([centre - half, centre + half])
    return np.clip(regions, 0, 1).astype("float32")
