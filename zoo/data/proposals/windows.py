"""Regions that do not depend on pixels: a grid, and jittered true boxes."""

import itertools
import math

import numpy as np


def sliding_windows(
    scales=(0.9, 0.6, 0.4, 0.27), ratios=(0.5, 1, 2), stride=0.75
):
    """Lays windows of several scales and ratios over an image.

    The exported model looks at these where nobody gives it regions.

    Args:
        scales: floats, at least one. Square root of a window's area, as a
            share of the image's side.
        ratios: floats, at least one. Height over width.
        stride: float in `(0, 1]`. Largest step to the next window, as a share
            of the window's side. Windows are spread evenly, and the outer
            ones end where the image does.

    Returns:
        float32 array of shape `(num_regions, 4)`, each once, the largest
        first. A side that would be longer than the image's is cut to it.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> sliding_windows(scales=[0.5], ratios=[1], stride=1).tolist()[1]
    [0.0, 0.5, 0.5, 1.0]
    >>> sliding_windows().shape
    (144, 4)
    """
    for name, values in (("scales", scales), ("ratios", ratios)):
        if not len(values) or not all(0 < x < math.inf for x in values):
            raise ValueError(
                f"`{name}` must hold numbers above 0. Received: {name}={values}"
            )
    if not 0 < stride <= 1:
        raise ValueError(
            f"`stride` must be in (0, 1]. Received: stride={stride}"
        )
    windows = []
    for scale, ratio in itertools.product(scales, ratios):
        height = min(1, scale * math.sqrt(ratio))
        width = min(1, scale / math.sqrt(ratio))
        windows += [
            (y, x, y + height, x + width)
            for y in _starts(height, stride)
            for x in _starts(width, stride)
        ]
    windows = np.unique(np.round(windows, 6).astype("float32"), axis=0)
    areas = np.prod(windows[:, 2:] - windows[:, :2], axis=1)
    # Equal areas differ in their last digit, which must not order them.
    return windows[np.argsort(-np.round(areas, 5), kind="stable")]


def _starts(side, stride):
    # Without rounding, 0.5 / 0.25 may be a little above 2.
    num_steps = math.ceil(round((1 - side) / (stride * side), 6))
    return np.linspace(0, 1 - side, num_steps + 1)


def jittered_boxes(boxes, num_regions, seed, jitter=0.2):
    """Moves and stretches true boxes at random, for studies of training.

    It stands apart from `propose`, which never asks for boxes: where a model
    is measured, regions that know the answer would be cheating. Give these to
    training examples alone, with `dataclasses.replace(example, regions=...)`.

    Args:
        boxes: float array of shape `(num_boxes, 4)`, as those of an `Example`.
        num_regions: int, at least 1.
        seed: int, at least 0.
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
