"""Pictures of runs side by side."""

import numpy as np
from matplotlib import colormaps

from zoo.pictures import canvas

MOST_GROUPS = 10  # that have a colour of their own, beside the reference
MOST_INCHES = 14  # of a column's height, while there are few columns
MOST_COLUMNS = 4
HIGHEST = 300  # inches, at 100 pixels each: Matplotlib draws no more than 655
OF_A_CLASS = 0.8  # of its bars together, where classes are 1 apart


def differences(names, ap, deviations, gains, gain_deviations, classes, title):
    """Draws AP class by class: of each group, and less that of the reference.

    Points are the groups' AP, bars what they have over the reference; lines go
    one deviation over seeds to either side.

    Args:
        names: list of str, the reference and up to `MOST_GROUPS` others.
        ap: array of shape `(num_groups, num_classes)`, 0 to 1: means over
            seeds; NaN for a class without positives.
        deviations: array of the same shape; NaN of a single seed.
        gains: array of shape `(num_groups - 1, num_classes)`, -1 to 1: means
            over seeds of the difference to the reference; NaN where there is
            none.
        gain_deviations: array of the shape of `gains`; NaN of a single seed.
        classes: sequence of str.
        title: str. What was measured, and the mode of AP.

    Returns:
        `matplotlib.figure.Figure`. The classes are ordered by the first
        difference, or by AP where there is only the reference, the largest on
        top; those without come last.

    Raises:
        ValueError: If there are too many groups.

    Example:

    >>> ap, none = np.array([[0.5, 0.6], [0.6, 0.4]]), np.zeros((2, 2))
    >>> numbers = (ap, none, ap[1:] - ap[:1], none[1:])
    >>> figure = differences(("gap", "csra"), *numbers, "ab", "scenes test")
    >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    ['a', 'b']
    """
    if len(names) > MOST_GROUPS + 1:
        raise ValueError(
            f"Expected the reference and up to {MOST_GROUPS} groups. "
            f"Received: {len(names)} names"
        )
    ap, gains = 100 * np.asarray(ap), 100 * np.asarray(gains)
    deviations = 100 * np.asarray(deviations)
    gain_deviations = 100 * np.asarray(gain_deviations)
    others = len(names) - 1
    labels = canvas.names(classes)
    names = canvas.names(names, longest=60)
    colors = ["black", *map(colormaps["tab10"], range(others))]

    inches = max(0.14 * others, 0.2)  # of a class
    order = np.argsort(-(gains if others else ap)[0], kind="stable")  # NaN last
    columns = np.array_split(
        order,
        min(-(-int(len(order) * inches) // MOST_INCHES) or 1, MOST_COLUMNS),
    )
    panels = 2 if others else 1
    width = 0.075 * max(map(len, labels)) + 2.4 * panels
    height = 1.2 + 0.18 * len(names) + inches * len(columns[0])
    figure, axes = canvas.subplots(
        1,
        panels * len(columns),
        (max(width * len(columns), 6.5), min(height, HIGHEST)),
    )
    for i, column in enumerate(columns):
        left, *right = axes[panels * i : panels * (i + 1)]
        _points(left, ap[:, column], deviations[:, column], colors)
        left.set_yticks(range(len(column)), [labels[k] for k in column])
        left.set_xlabel("AP", fontsize=8)
        for axis in right:
            _bars(
                axis, gains[:, column], gain_deviations[:, column], colors[1:]
            )
            axis.set_yticks(range(len(column)), [])
            axis.set_xlim(_limits(gains, gain_deviations))
            axis.set_xlabel(f"AP less that of {names[0]}", fontsize=8)
        for axis in (left, *right):
            axis.set_ylim(len(columns[0]) - 0.4, -0.6)
            axis.tick_params(labelsize=8, length=0)
            axis.grid(axis="x", color=canvas.PALE, linewidth=0.5)
            axis.set_axisbelow(True)
            axis.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(
        axes[0].containers,
        names,
        loc="outside lower left",
        fontsize=8,
        frameon=False,
    )
    canvas.title(figure, f"{title}; lines: deviation over seeds")
    return figure


def _points(axis, ap, deviations, colors):
    """Draws each group at the height of its bars, the reference between."""
    heights = [0.0, *_heights(len(ap) - 1)]
    for values, spread, height, color in zip(
        ap, deviations, heights, colors, strict=True
    ):
        axis.errorbar(
            values,
            np.arange(len(values)) + height,
            # An error bar of NaN is none, but warns.
            xerr=np.nan_to_num(spread),
            color=color,
            marker="o",
            markersize=4,
            linestyle="none",
            elinewidth=0.8,
        )
    for y in np.flatnonzero(np.isnan(ap).all(axis=0)):
        axis.text(1, y, "no positives", va="center", fontsize=8)
    axis.set_xlim(0, 102)
    axis.set_xticks(range(0, 101, 25))


def _bars(axis, gains, deviations, colors):
    for values, spread, height, color in zip(
        gains, deviations, _heights(len(gains)), colors, strict=True
    ):
        axis.barh(
            np.arange(len(values)) + height,
            values,
            OF_A_CLASS / len(gains),
            xerr=np.nan_to_num(spread),
            error_kw={"elinewidth": 0.8, "ecolor": canvas.GREY},
            color=color,
        )
    axis.axvline(0, color="black", linewidth=0.8)


def _heights(count):
    """Gives the middles of a class' bars, around 0."""
    return (np.arange(count) - (count - 1) / 2) * OF_A_CLASS / max(count, 1)


def _limits(gains, deviations):
    """Gives columns of one picture the same units, with 0 among them."""
    spread = np.nan_to_num(deviations)
    lowest = min(np.nan_to_num(gains - spread).min(), 0)
    highest = max(np.nan_to_num(gains + spread).max(), 0)
    room = 0.05 * (highest - lowest) or 1
    return lowest - room, highest + room
