"""Pictures of how good and how wrong a model's answers are."""

import numpy as np

from zoo import metrics
from zoo.pictures import canvas
from zoo.pictures.canvas import BLUE, GREEN, GREY, PALE, RED

BARS_A_COLUMN = 40  # of up to MOST_COLUMNS; then longer ones
MOST_COLUMNS = 8
MOST_PANELS = 20  # classes that get a precision-recall panel of their own
IMAGES_A_ROW = 4
MOST_ERRORS = 3  # that are named on an image, of either kind


def ap_bars(ap, classes, mode):
    """Draws the average precision of each class, the best first.

    Args:
        ap: array of shape `(num_classes,)`, 0 to 1; NaN for a class without
            positives, which stands last and is marked.
        classes: sequence of str.
        mode: str. The mode of `zoo.metrics.average_precision`, for the title.

    Returns:
        `matplotlib.figure.Figure`.

    Example:

    >>> figure = ap_bars([0.5, np.nan, 0.9], ("ant", "bee", "cat"), "11point")
    >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    ['cat', 'ant', 'bee']
    """
    ap, names = 100 * np.asarray(ap, "float64"), canvas.names(classes)
    known = ap[~np.isnan(ap)]
    columns = np.array_split(
        np.argsort(-ap, kind="stable"),  # NaN last
        min(-(-len(ap) // BARS_A_COLUMN), MOST_COLUMNS),
    )
    width = 2.2 + 0.075 * max(map(len, names))
    width = max(width * len(columns), 4.5)  # room for the title
    figure, axes = canvas.subplots(
        1, len(columns), (width, 1.0 + 0.18 * len(columns[0]))
    )
    for axis, column in zip(axes, columns, strict=True):
        axis.barh(range(len(column)), ap[column], color=BLUE)
        axis.set_yticks(range(len(column)), [names[k] for k in column])
        axis.set_ylim(len(columns[0]) - 0.4, -0.6)
        axis.set_xlim(0, 120)  # room for the numbers beside whole bars
        axis.set_xticks(range(0, 101, 25))
        axis.tick_params(labelsize=8, length=0)
        axis.spines[["top", "right", "left"]].set_visible(False)
        for y, value in enumerate(ap[column]):
            text = "no positives" if np.isnan(value) else f"{value:.1f}"
            axis.text(120, y, text, ha="right", va="center", fontsize=8)
        if known.size:
            axis.axvline(known.mean(), color=RED, linestyle="--", linewidth=1)
    mean = f"{known.mean():.1f} (dashed)" if known.size else "none"
    canvas.title(figure, f"AP ({mode}) in per cent; mean {mean}")
    return figure


def precision_recall(targets, probabilities, classes):
    """Draws precision over recall: each class, and all of them pooled.

    Up to `MOST_PANELS` classes have a panel each. Of more, the best, the
    median and the worst stand out from the others.

    Args:
        targets: array of shape `(num_examples, num_classes)`: 1, 0, or -1 for
            unknown, which is left out.
        probabilities: array of the same shape, 0 to 1.
        classes: sequence of str.

    Returns:
        `matplotlib.figure.Figure`.
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    curves = [
        metrics.precision_recall_curve(targets[:, k], probabilities[:, k])
        for k in range(len(classes))
    ]
    pooled = metrics.precision_recall_curve(targets, probabilities)
    if len(classes) > MOST_PANELS:
        return _overview(curves, pooled, canvas.names(classes))
    names = canvas.names(classes, longest=18)  # as wide as a panel
    rows = -(-len(names) // canvas.PANELS_A_ROW)
    columns = -(-len(names) // rows)  # 16 classes are better 4 x 4
    width = max(1.8 * columns, 6)  # room for the title
    figure, axes = canvas.subplots(rows, columns, (width, 1.8 * rows + 0.5))
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis, name, curve in zip(axes, names, curves, strict=False):
        _draw(axis, pooled, color=GREY, linewidth=0.8, linestyle=":")
        _draw(axis, curve, color=BLUE)
        axis.set_title(f"{name} {_ap(curve)}", fontsize=8)
        axis.set_xticks((0, 50, 100))
        axis.set_yticks((0, 50, 100))
    title = "Precision over recall, with AP (continuous), in per cent"
    canvas.title(figure, f"{title}; dotted: all classes pooled {_ap(pooled)}")
    return figure


def worst_images(targets, probabilities, num_images=8):
    """Finds the images that the model is most wrong about.

    Args:
        targets: array of shape `(num_examples, num_classes)`: 1, 0, or -1 for
            unknown, which is left out.
        probabilities: array of the same shape, 0 to 1.
        num_images: int. How many, at most.

    Returns:
        int array of at most `num_images` indices: by the mean cross-entropy
        over what is known of an image, the highest first.

    Example:

    >>> worst_images([[1, -1], [1, 0]], [[0.9, 0.9], [0.2, 0.9]], 1).tolist()
    [1]
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    chance = np.where(targets == 1, probabilities, 1 - probabilities)
    known = targets != -1
    # An image of which nothing is known has no error.
    surprise = np.where(known, -np.log(np.maximum(chance, 1e-7)), 0)
    losses = surprise.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.argsort(-losses, kind="stable")[:num_images]


def worst_errors(
    images, targets, probabilities, classes, threshold=0.5, predicted=None
):
    """Draws images: above each what was missed, below it what was wrong.

    Where nothing was missed, the present class of the lowest score stands
    there in grey; where nothing was wrong, the absent one of the highest.

    Args:
        images: array of shape `(num_images, height, width, 3)`, RGB, 0 to 255.
        targets: array of shape `(num_images, num_classes)`: 1, 0, or -1 for
            unknown, which is never an error.
        probabilities: array of the same shape, 0 to 1.
        classes: sequence of str.
        threshold: float. A label is given above it.
        predicted: bool array of the shape of `probabilities`, or `None`: the
            labels that a model gives by itself, whatever the threshold.

    Returns:
        `matplotlib.figure.Figure`.
    """
    if predicted is None:
        predicted = np.asarray(probabilities) > threshold
    names = canvas.names(classes)
    columns = min(len(images), IMAGES_A_ROW)
    rows = -(-len(images) // columns)
    # Room for all lines, of 7 points each, above and below a whole image.
    height = 2.4 + 2 * (MOST_ERRORS + 1) * 0.125 + 0.3  # inches
    figure, axes = canvas.subplots(
        rows, columns, (2.4 * columns, height * rows)
    )
    figure.get_layout_engine().set(h_pad=0.15)  # inches
    for axis in axes[len(images) :]:
        axis.set_axis_off()
    for axis, image, target, row, given in zip(
        axes, images, targets, probabilities, predicted, strict=False
    ):
        order = np.argsort(-row, kind="stable")
        present = order[target[order] == 1][::-1]
        absent = order[target[order] == 0]
        axis.imshow(canvas.as_uint8(image))
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        for write, words, ranked, wrong, color in (
            (axis.set_title, ("missed", "present"), present, ~given, RED),
            (axis.set_xlabel, ("wrong", "absent"), absent, given, BLUE),
        ):
            errors = ranked[wrong[ranked]]
            lines = [
                f"{words[0]} {names[k]} {row[k]:.2f}"
                for k in errors[:MOST_ERRORS]
            ] or [f"{words[1]} {names[k]} {row[k]:.2f}" for k in ranked[:1]]
            if len(errors) > MOST_ERRORS:
                lines.append(f"and {len(errors) - MOST_ERRORS} more")
            write(
                "\n".join(lines),
                fontsize=7,
                color=color if errors.size else GREY,
            )
    return figure


def _overview(curves, pooled, names):
    """Draws all curves into one panel, and names three of them."""
    figure, (axis,) = canvas.subplots(1, 1, (7.0, 5.4))
    ranked = sorted(
        (k for k, (recall, _) in enumerate(curves) if recall.size),
        key=lambda k: -curves[k][1].mean(),
    )
    for k in ranked:
        _draw(axis, curves[k], color=PALE, linewidth=0.6)
    for word, i, color in (
        ("best", 0, GREEN),
        ("median", len(ranked) // 2, BLUE),
        ("worst", -1, RED),
    ):
        for k in ranked[i:][:1]:
            label = f"{word}: {names[k]} {_ap(curves[k])}"
            _draw(axis, curves[k], color=color, label=label)
    label = f"all classes pooled {_ap(pooled)}"
    _draw(axis, pooled, color="black", linestyle=":", label=label)
    axis.set_xlabel("recall", fontsize=8)
    axis.set_ylabel("precision", fontsize=8)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    title = f"Precision over recall of {len(names)} classes"
    canvas.title(figure, f"{title}, with AP (continuous), in per cent")
    return figure


def _draw(axis, curve, **line):
    """Draws a curve in steps, whose area is the average precision."""
    axis.set_xlim(0, 100)
    axis.set_ylim(0, 102)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    recall, precision = curve
    # More points than pixels cost time, and overflow Agg's cells.
    shown = np.linspace(0, recall.size - 1, min(recall.size, 2000)).astype(int)
    recall = np.concatenate([[0], recall[shown]])
    precision = np.concatenate([precision[:1], precision[shown]])
    axis.plot(
        100 * recall[: precision.size],
        100 * precision,
        drawstyle="steps-pre",
        **line,
    )


def _ap(curve):
    _, precision = curve
    return f"{100 * precision.mean():.1f}" if precision.size else "no positives"
