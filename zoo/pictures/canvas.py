"""What every picture is drawn with: figures, panels of an image, names."""

import textwrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PANELS_A_ROW = 5
BLUE, RED, GREEN = "#3b6fb6", "#c0392b", "#2e8b57"
GREY, PALE = "#777777", "#c8c8c8"
EXTENT = (0, 1, 1, 0)  # of an image in a panel: shares of its width and height


def pixels(figure):
    """Renders a figure to a uint8 array `(height, width, 3)`, RGB."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def subplots(rows, columns, size):
    """Gives a figure for Agg, of a size in inches, and a flat list of axes."""
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def panels(image, names, targets, titles):
    """Draws an image below its true labels, then again below each title.

    Args:
        image: array of shape `(height, width, 3)`, RGB, 0 to 255.
        names: list of str, one of each class.
        targets: array of shape `(num_classes,)`: 1 for a true label.
        titles: list of str.

    Returns:
        The figure, and the axes of each title, in whose units the image goes
        from 0 to 1.
    """
    present = [names[k] for k in np.flatnonzero(np.asarray(targets) == 1)]
    # As many labels as leave room for the image.
    lines = textwrap.wrap(
        ", ".join(present),
        width=34,
        max_lines=3,
        placeholder=" …",
        break_on_hyphens=False,
    )
    titles = ["\n".join(lines), *titles]
    rows = -(-len(titles) // PANELS_A_ROW)
    columns = -(-len(titles) // rows)  # 6 panels are better 2 x 3
    figure, axes = subplots(rows, columns, (2.4 * columns, 2.9 * rows))
    for axis in axes:
        axis.set_axis_off()
        axis.set(xticks=(), yticks=())  # the layout measures hidden ones, too
        axis.set_anchor("S")  # all the room for the titles
    height, width = image.shape[:2]
    for axis, title in zip(axes, titles, strict=False):
        axis.imshow(as_uint8(image), extent=EXTENT, aspect=height / width)
        axis.set_title(title, fontsize=8)
    return figure, axes[1 : len(titles)]


def overlay(axis, values):
    """Lays a map over the image of a panel, coloured by its own range."""
    axis.imshow(
        values,
        cmap="inferno",
        alpha=0.6,
        interpolation="bilinear",
        extent=EXTENT,
        aspect=axis.get_aspect(),
    )


def title(figure, text):
    """Writes a title on the left, where a figure wider than a screen begins."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=9)


def as_uint8(image):
    """Rounds pixels of 0 to 255 as images store them."""
    return np.asarray(image).round().clip(0, 255).astype("uint8")


def names(classes, longest=28):
    """Shortens long names, and keeps a dollar from starting a formula."""
    return [
        (name if len(name) <= longest else f"{name[: longest - 1]}…").replace(
            "$", r"\$"
        )
        for name in classes
    ]


def mark(target):
    """Gives what follows a found label: nothing, or that it is not there."""
    return " (absent)" if target == 0 else ""
