"""Evidence a person can look at: where a model looked for its labels."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def evidence(image, maps, probabilities, classes, targets, num_maps=3):
    """Draws an image beside the maps of its most probable classes.

    Args:
        image: array of shape `(height, width, 3)`, RGB, 0 to 255.
        maps: array of shape `(rows, columns, num_classes)`; each class' map is
            scaled to its own range.
        probabilities: array of shape `(num_classes,)`.
        classes: sequence of str.
        targets: array of shape `(num_classes,)`: 1, 0, or -1 for unknown.
            True labels stand above the image, absent ones are marked.
        num_maps: int. How many classes to draw.

    Returns:
        `matplotlib.figure.Figure`.
    """
    best = np.argsort(-np.asarray(probabilities), kind="stable")[:num_maps]
    figure = Figure(figsize=(2.4 * (len(best) + 1), 2.8), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(best) + 1)
    height, width = image.shape[:2]
    image = np.asarray(image).round().clip(0, 255).astype("uint8")
    for axis in axes:
        axis.imshow(image)
        axis.set_axis_off()
    present = [classes[k] for k in np.flatnonzero(targets == 1)]
    axes[0].set_title(_wrap(present), fontsize=8)
    for axis, k in zip(axes[1:], best, strict=True):
        axis.imshow(
            maps[..., k],
            cmap="inferno",
            alpha=0.6,
            interpolation="bilinear",
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        mark = " (absent)" if targets[k] == 0 else ""
        axis.set_title(f"{classes[k]} {probabilities[k]:.2f}{mark}", fontsize=8)
    figure.tight_layout()
    return figure


def pixels(figure):
    """Renders a figure to a uint8 array `(height, width, 3)`, RGB."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def _wrap(names, per_line=3):
    lines = [names[i : i + per_line] for i in range(0, len(names), per_line)]
    return "\n".join(", ".join(line) for line in lines)
