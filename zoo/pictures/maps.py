"""Pictures of where a model looked: its maps, over the image."""

import numpy as np

from zoo.pictures import canvas


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
    names = canvas.names(classes)
    titles = [
        f"{names[k]} {probabilities[k]:.2f}{canvas.mark(targets[k])}"
        for k in best
    ]
    figure, axes = canvas.panels(image, names, targets, titles)
    for axis, k in zip(axes, best, strict=True):
        canvas.overlay(axis, maps[..., k])
    return figure


def sequence(image, maps, labels, probabilities, classes, targets):
    """Draws an image beside where the model looked for each label in turn.

    Fig. 3 of Chen et al. (2018), https://arxiv.org/abs/1707.05495.

    Args:
        image: array of shape `(height, width, 3)`, RGB, 0 to 255.
        maps: array of shape `(max_labels, rows, columns)`: the attention of
            each step, which is scaled to its own range.
        labels: int array of shape `(max_labels,)`: the class that each step
            found, -1 after the last one.
        probabilities: array of shape `(max_labels,)`, of these labels.
        classes: sequence of str.
        targets: array of shape `(num_classes,)`: 1, 0, or -1 for unknown.
            True labels stand above the image, absent ones are marked.

    Returns:
        `matplotlib.figure.Figure`.

    Example:

    >>> image, maps = np.zeros((8, 8, 3)), np.zeros((2, 4, 4))
    >>> figure = sequence(image, maps, [1, -1], [0.93, 0], "ab", [1, 0])
    >>> [axis.get_title() for axis in figure.axes]
    ['a', '1. b 0.93 (absent)']
    """
    names = canvas.names(classes, longest=20)  # beside a number
    titles = [
        f"{step}. {names[k]} {probability:.2f}{canvas.mark(targets[k])}"
        for step, (k, probability) in enumerate(
            zip(labels, probabilities, strict=True), start=1
        )
        if k >= 0
    ]
    figure, axes = canvas.panels(image, names, targets, titles)
    for axis, attention in zip(axes, maps, strict=False):
        canvas.overlay(axis, attention)
    if not titles:
        figure.set_figheight(figure.get_figheight() + 0.2)
        figure.supxlabel("no label found", fontsize=8)
    return figure
