"""Pictures of runs side by side."""

import numpy as np
from matplotlib import colormaps

from zoo.pictures import canvas
from zoo.pictures.canvas import GREY

MOST_GROUPS = 10  # that have a colour of their own
MOST_INCHES = 300  # of a figure's height, at 100 pixels each


def differences(names, means, deviations, classes, reference):
    """Draws the AP of each class less that of a reference, for some groups.

    Args:
        names: list of str, up to `MOST_GROUPS`: the groups.
        means: array of shape `(num_groups, num_classes)`, -1 to 1: the mean
            difference over seeds; NaN where there is none.
        deviations: array of the same shape; NaN of a single seed.
        classes: sequence of str.
        reference: str, its name.

    Returns:
        `matplotlib.figure.Figure`. The classes are ordered by the first
        group's difference, the largest on top.

    Raises:
        ValueError: If there are too many groups.

    Example:

    >>> means = np.array([[0.1, -0.2]])
    >>> figure = differences(["csra"], means, 0 * means, ("ant", "bee"), "gap")
    >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    ['ant', 'bee']
    """
    if len(names) > MOST_GROUPS:
        raise ValueError(
            f"Expected up to {MOST_GROUPS} groups. Received: {len(names)}"
        )
    means, deviations = 100 * np.asarray(means), 100 * np.asarray(deviations)
    order = np.argsort(-means[0], kind="stable")  # NaN last
    labels = canvas.names(classes)
    height = 0.8 / len(names)  # of a bar, where classes are 1 apart
    inches = 1.4 + len(classes) * max(0.16 * len(names), 0.24)
    figure, (axis,) = canvas.subplots(1, 1, (7, min(inches, MOST_INCHES)))
    for i, name in enumerate(names):
        axis.barh(
            np.arange(len(order)) + (i - (len(names) - 1) / 2) * height,
            means[i, order],
            height,
            # An error bar of NaN is none, but warns.
            xerr=np.nan_to_num(deviations[i, order]),
            error_kw={"linewidth": 0.8, "ecolor": GREY},
            color=colormaps["tab10"](i),
            label=canvas.names([name], longest=60)[0],
        )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(order)), [labels[k] for k in order])
    axis.set_ylim(len(order) - 0.4, -0.6)
    axis.tick_params(labelsize=8, length=0)
    axis.grid(axis="x", color=canvas.PALE, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower left", fontsize=8, frameon=False)
    canvas.title(
        figure,
        f"AP less that of {canvas.names([reference], longest=60)[0]}, in "
        "per cent; lines: deviation over seeds",
    )
    return figure
