"""Pictures of the regions that a model looked at."""

import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from zoo.pictures import canvas
from zoo.pictures.canvas import GREEN, RED

LONGEST_NAME = 16  # characters, so that it fits into a panel
# Of a label at a region, as shares of a panel's longer side.
LABEL_HEIGHT, CHARACTER_WIDTH = 0.07, 0.024
MOST_GATES = 5  # that are drawn, of the highest and of the lowest
MOST_LABELS = 3  # that stand above the gates


def glimpses(image, regions, scores, classes, targets, num_labels=3):
    """Draws the regions of each step, and those that found a label.

    A class is found by the one region that scores it highest, over all steps.

    Fig. 2 of Chen et al. (2018), https://arxiv.org/abs/1712.07465.

    Args:
        image: array of shape `(height, width, 3)`, RGB, 0 to 255.
        regions: array of shape `(num_steps, regions_a_step, 4)`: ymin xmin
            ymax xmax, 0 to 1 of the image. Rows of zeros are padding.
        scores: array of shape `(num_steps, regions_a_step, num_classes)`, the
            higher the more likely.
        classes: sequence of str.
        targets: array of shape `(num_classes,)`: 1, 0, or -1 for unknown.
            True labels stand above the image, absent ones are marked.
        num_labels: int. How many of the most likely classes to name.

    Returns:
        `matplotlib.figure.Figure`.

    Example:

    >>> image, regions = np.zeros((8, 8, 3)), [[[0, 0, 1, 1]]]
    >>> figure = glimpses(image, regions, [[[0.9, 0.1]]], "ab", [1, 0])
    >>> [axis.get_title() for axis in figure.axes]
    ['a', 'step 1']
    >>> [label.get_text() for label in figure.axes[1].texts]
    ['a', 'b (absent)']
    """
    regions = np.asarray(regions)
    real = regions.any(axis=-1)
    scores = np.where(real[..., None], scores, -np.inf)
    names = canvas.names(classes, LONGEST_NAME)
    titles = [f"step {step}" for step in range(1, len(regions) + 1)]
    figure, axes = canvas.panels(image, names, targets, titles)
    for axis, step_regions, is_real in zip(axes, regions, real, strict=True):
        _outline(axis, step_regions[is_real], "white", linewidth=0.7)

    highest = scores.max(axis=(0, 1))
    best = np.argsort(-highest, kind="stable")[:num_labels]
    found = [[] for _ in axes]  # at each step: region, label, colour
    for rank, k in enumerate(best):
        if highest[k] > -np.inf:  # there is a region
            step, i = np.unravel_index(scores[..., k].argmax(), real.shape)
            label = f"{names[k]}{canvas.mark(targets[k])}"
            found[step].append((regions[step, i], label, f"C{rank}"))
    for axis, labelled in zip(axes, found, strict=True):
        for region, _, color in reversed(labelled):  # the best on top
            _outline(axis, [region], color, linewidth=2)
        _write_labels(axis, labelled)
    return figure


def gates(image, regions, gates, classes, targets, probabilities):
    """Draws the regions that pass a gate best and worst, and where they lie.

    Beside the image stand the regions of the highest gates, those of the
    lowest, and a map: the mean of the gates whose regions cover a position.
    No region is among both, so of fewer than ten each half is shown.

    Fig. 3 of Zhao et al. (2016), https://doi.org/10.5244/C.30.72.

    Args:
        image: array of shape `(height, width, 3)`, RGB, 0 to 255.
        regions: array of shape `(num_regions, 4)`: ymin xmin ymax xmax, 0 to
            1 of the image. Rows of zeros are padding.
        gates: array of shape `(num_regions,)`, 0 to 1.
        classes: sequence of str.
        targets: array of shape `(num_classes,)`: 1, 0, or -1 for unknown.
            True labels stand above the image, absent ones are marked.
        probabilities: array of shape `(num_classes,)`. The most probable
            classes stand at the top.

    Returns:
        `matplotlib.figure.Figure`.

    Example:

    >>> image, regions = np.zeros((8, 8, 3)), [[0, 0, 1, 1], [0, 0, 1, 0.5]]
    >>> figure = gates(image, regions, [0.2, 0.8], "ab", [1, 0], [0.9, 0.1])
    >>> [axis.get_title() for axis in figure.axes[:2]]
    ['a', 'highest 1 of 2 gates: 0.80 to 0.80']
    """
    regions, gates = np.asarray(regions), np.asarray(gates)
    real = regions.any(axis=1)
    regions, gates = regions[real], gates[real]
    order = np.argsort(-gates, kind="stable")
    half = min(MOST_GATES, -(-len(order) // 2))
    highest, lowest = order[:half], order[half:][-MOST_GATES:]
    covering = _mean_of_covering(regions, gates, image.shape[:2])
    names = canvas.names(classes, LONGEST_NAME)
    titles = [
        f"{words}{_range(values)}"
        for words, values in (
            (f"highest {len(highest)} of {len(gates)} gates", gates[highest]),
            (f"lowest {len(lowest)} of {len(gates)} gates", gates[lowest]),
            ("mean gate", covering[~np.isnan(covering)]),
        )
    ]
    figure, axes = canvas.panels(image, names, targets, titles)
    _outline(axes[0], regions[highest], RED, linewidth=1.5)
    _outline(axes[1], regions[lowest], GREEN, linewidth=1.5)
    if len(regions):
        canvas.overlay(axes[2], covering)
    best = np.argsort(-np.asarray(probabilities), kind="stable")[:MOST_LABELS]
    labels = [
        f"{names[k]} {probabilities[k]:.2f}{canvas.mark(targets[k])}"
        for k in best
    ]
    figure.set_figheight(figure.get_figheight() + 0.25)  # inches, the title's
    canvas.title(figure, f"most probable: {', '.join(labels)}")
    return figure


def _mean_of_covering(regions, gates, size):
    """Gives each pixel the mean gate of the regions over it; NaN of none."""
    inside = []  # a row of pixels along each axis, R x size
    for axis, length in enumerate(size):
        centres = (np.arange(length) + 0.5) / length
        start, end = regions[:, [axis]], regions[:, [axis + 2]]
        inside.append(((start <= centres) & (centres < end)).astype("float32"))
    rows, columns = inside
    count = rows.T @ columns
    total = (rows * gates[:, None]).T @ columns
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _range(values):
    return f": {values.min():.2f} to {values.max():.2f}" if values.size else ""


def _outline(axis, regions, color, linewidth):
    """Draws boxes that stand out from bright and from dark images."""
    edge = withStroke(
        linewidth=linewidth + 1.2,
        foreground="black" if color == "white" else "white",
        alpha=0.6,
    )
    for ymin, xmin, ymax, xmax in regions:
        axis.add_patch(
            Rectangle(
                (xmin, ymin),
                xmax - xmin,
                ymax - ymin,
                fill=False,
                edgecolor=color,
                linewidth=linewidth,
                path_effects=[edge],
                clip_on=False,  # at the image's border, half of the line
            )
        )


def _write_labels(axis, labelled):
    """Writes each label into its region, at the top, and apart from others."""
    aspect = axis.get_aspect()  # the longer side of a panel is always the same
    height = LABEL_HEIGHT * max(1, 1 / aspect)
    labelled = sorted(labelled, key=lambda found: found[0][0])  # by ymin
    tops = [region[0] for region, _, _ in labelled]
    for i in range(1, len(tops)):
        tops[i] = max(tops[i], tops[i - 1] + height)
    bottom = 1
    for i in reversed(range(len(tops))):
        tops[i] = bottom = min(tops[i], bottom - height)
    for top, (region, label, color) in zip(tops, labelled, strict=True):
        width = CHARACTER_WIDTH * len(label) * max(1, aspect)
        axis.text(
            max(0, min(region[1], 1 - width)),
            top,
            label,
            va="top",
            fontsize=7,
            color="white",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1},
        )
