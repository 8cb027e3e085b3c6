"""Targets and probabilities -> the numbers of a run, and their table."""

import numpy as np

from zoo import metrics

MODE = "continuous"  # of average precision, see zoo.metrics
THRESHOLD = 0.5  # a label is given above this probability
TOP_K = 3
# Classes that a report may single out -> which have an AP; what chose them:
# its key, its name, and how it reads.
GROUPS = {
    "rarest": ("with positives", "num_positives", "positives", "{}"),
    "smallest": ("with boxes", "mean_area", "mean box", "{:.2%} of the image"),
}


def measure(
    targets,
    probabilities,
    classes,
    predicted=None,
    labels=None,
    other_scores=None,
):
    """Computes what the literature reports for multi-label recognition.

    Args:
        targets: array of shape `(num_examples, num_classes)`: 1, 0, or -1 for
            unknown, which is left out.
        probabilities: array of shape `(num_examples, num_classes)`, 0 to 1.
        classes: sequence of str.
        predicted: bool array of shape `(num_examples, num_classes)`, or
            `None`. The labels that a model gives by itself, in place of those
            above `THRESHOLD`.
        labels: str, says what `predicted` are; `None` without them.
        other_scores: dict from str to array of shape `(num_examples,
            num_classes)`, or `None`. Other readings of the same model's
            answers, each of which gets its mAP.

    Returns:
        dict, ready for JSON, all from 0 to 1: `mAP` and `mAP_mode`;
        `other_mAP`, a dict with the names of `other_scores`; `labels`, a str
        that says how labels are chosen; `all` (these labels) and `top3` (of
        these, an image's three most probable), and with `predicted` also
        `above_threshold` (the labels above `THRESHOLD`, as a server's client
        may choose them), each a dict of CP CR CF1 OP OR OF1; `AP` and
        `num_positives`, dicts from class to average precision and to int;
        `num_examples`. What positives are missing for is `None`; the mean
        leaves such a class out.

    Raises:
        ValueError: If the arrays do not fit one another, or hold what
            `zoo.metrics` does not take.

    Example:

    >>> report = measure([[1, 0], [0, 1]], [[0.9, 0.2], [0.1, 0.6]], "ab")
    >>> report["mAP"], report["all"]["OF1"]
    (1.0, 1.0)
    """
    targets, probabilities = np.asarray(targets), np.asarray(probabilities)
    ap = metrics.average_precision(targets, probabilities, mode=MODE)
    threshold, chosen_from = THRESHOLD, probabilities
    if predicted is not None:
        predicted = np.asarray(predicted)
        if predicted.dtype != bool or predicted.shape != probabilities.shape:
            raise ValueError(
                "`predicted` must be bool and of the shape of `probabilities`, "
                f"{probabilities.shape}. Received: predicted of "
                f"{predicted.dtype} and shape {predicted.shape}"
            )
        threshold = 0
        # What is predicted stays above 0, be its probability as low as 0.
        above_zero = np.maximum(probabilities, np.finfo("float32").tiny)
        chosen_from = np.where(predicted, above_zero, 0)
    report = {
        "mAP": _number(
            metrics.mean_average_precision(targets, probabilities, mode=MODE)
        ),
        "mAP_mode": MODE,
        "other_mAP": {
            name: _number(
                metrics.mean_average_precision(targets, scores, mode=MODE)
            )
            for name, scores in (other_scores or {}).items()
        },
        "num_examples": len(targets),
        "labels": labels or f"probability above {THRESHOLD}",
        "all": _numbers(
            metrics.precision_recall_f1(targets, chosen_from, threshold)
        ),
        "top3": _numbers(
            metrics.precision_recall_f1(
                targets, chosen_from, threshold, top_k=TOP_K
            )
        ),
        "AP": _numbers(dict(zip(classes, ap, strict=True))),
        "num_positives": dict(
            zip(classes, (targets == 1).sum(axis=0).tolist(), strict=True)
        ),
    }
    if predicted is not None:
        report["above_threshold"] = _numbers(
            metrics.precision_recall_f1(targets, probabilities, THRESHOLD)
        )
    return report


def protocols(report):
    """Names the ways to choose labels of a report: name and key of each.

    Args:
        report: dict, from `measure`.

    Returns:
        dict from name to a key of `report`.
    """
    names = {"all": "all", "top 3": "top3", f"> {THRESHOLD}": "above_threshold"}
    return {name: key for name, key in names.items() if key in report}


def rarest(targets, classes, k):
    """Finds the classes of the fewest positives: the tail of a data set.

    Args:
        targets: array of shape `(num_examples, num_classes)`: 1, 0, or -1 for
            unknown.
        classes: sequence of str.
        k: int, from 1 to the number of classes.

    Returns:
        dict from class to its number of positives, the rarest first, of equals
        the first in class order. A class without positives has no average
        precision and is left out, so there may be fewer than `k`.

    Raises:
        ValueError: If `k` is out of its range.

    Example:

    >>> targets = [[1, 0, 0], [1, 0, -1], [0, 0, 1]]
    >>> rarest(targets, ("ant", "bee", "cat"), k=2)
    {'cat': 1, 'ant': 2}
    """
    num_positives = (np.asarray(targets) == 1).sum(axis=0)
    return _lowest("rarest", num_positives, classes, k)


def smallest(boxes, box_classes, classes, k):
    """Finds the classes whose objects cover the least of their images.

    By the mean over a class' boxes, each its share of its own image. (Yan et
    al., 2019, say of their Table 4 no more than "smallest percentage of the
    images"; a median would hide that a class is sometimes large.)

    Args:
        boxes: array of shape `(num_boxes, 4)`: ymin xmin ymax xmax, 0 to 1 of
            the image; those of all images, one after another.
        box_classes: int array of shape `(num_boxes,)`, indices of classes.
        classes: sequence of str.
        k: int, from 1 to the number of classes.

    Returns:
        dict from class to its mean area, 0 to 1 of the image, the smallest
        first, of equals the first in class order. A class without a box is
        left out, so there may be fewer than `k`.

    Raises:
        ValueError: If `k` is out of its range.

    Example:

    >>> boxes = [[0, 0, 1, 1], [0.5, 0, 1, 0.5], [0, 0, 0.5, 1]]
    >>> smallest(boxes, [0, 0, 2], ("ant", "bee", "cat"), k=2)
    {'cat': 0.5, 'ant': 0.625}
    """
    ymin, xmin, ymax, xmax = np.asarray(boxes, "float64").T
    areas = (ymax - ymin) * (xmax - xmin)
    totals = np.bincount(box_classes, areas, minlength=len(classes))
    counts = np.bincount(box_classes, minlength=len(classes))
    return _lowest("smallest", totals / np.maximum(counts, 1), classes, k)


def group(report, names):
    """Gives the average precision of some classes of a report.

    Those of `rarest` and `smallest` are Tables 3 and 4 of Yan et al. (2019).

    Args:
        report: dict, from `measure`.
        names: iterable of str, classes with positives.

    Returns:
        dict, ready for JSON: `AP`, a dict from class to average precision in
        the order of `names`, and `mAP`, their mean, `None` of no class.

    Example:

    >>> report = measure([[1, 0], [0, 1]], [[0.9, 0.2], [0.1, 0.6]], "ab")
    >>> group(report, ["b"])
    {'mAP': 1.0, 'AP': {'b': 1.0}}
    """
    ap = {name: report["AP"][name] for name in names}
    return {"mAP": float(np.mean(list(ap.values()))) if ap else None, "AP": ap}


def table(report, title):
    """Formats what `measure` gives, in per cent, for a terminal.

    Args:
        report: dict, from `measure`. It may also have `rarest` and
            `smallest`: each what `group` gives, with the `num_positives` or
            the `mean_area` that chose its classes.
        title: str. What was measured on what.

    Returns:
        str of several lines.
    """
    names = ("CP", "CR", "CF1", "OP", "OR", "OF1")
    mode = report["mAP_mode"]
    lines = [
        title,
        f"  mAP ({mode})  {per_cent(report['mAP'])}"
        f"   over {report['num_examples']} images",
        *(
            f"  mAP ({mode}), {name.replace('_', ' ')}  {per_cent(value)}"
            for name, value in report["other_mAP"].items()
        ),
        f"  labels: {report['labels']}",
        "  " + " " * 6 + "".join(f"{name:>7}" for name in names),
    ]
    for protocol, key in protocols(report).items():
        values = "".join(f"{per_cent(report[key][n]):>7}" for n in names)
        lines.append(f"  {protocol:6}{values}")
    lines.append(f"  AP ({mode}) of each class")
    width = max(map(len, report["AP"]))
    cells = [
        f"{name:{width}} {per_cent(ap):>6}" for name, ap in report["AP"].items()
    ]
    lines += [
        "  " + "   ".join(cells[i : i + 4]) for i in range(0, len(cells), 4)
    ]
    if None in report["AP"].values():
        lines.append("  none: no positive example; left out of the mean")
    for word, (condition, key, amount, form) in GROUPS.items():
        if word in report:
            found = report[word]
            lines.append(
                f"  {word.capitalize()} classes {condition}: mean AP ({mode}) "
                f"{per_cent(found['mAP'])}"
            )
            lines += [
                f"  {name:{width}} {per_cent(ap):>6}   {amount}: "
                + form.format(found[key][name])
                for name, ap in found["AP"].items()
            ]
    return "\n".join(lines)


def per_cent(value):
    """Formats a number of a report, 0 to 1 or `None`, without the sign.

    Example:

    >>> per_cent(0.98765), per_cent(None)
    ('98.77', 'none')
    """
    return "none" if value is None else f"{100 * value:.2f}"


def _lowest(word, amounts, classes, k):
    """Gives the `k` lowest of the amounts that are above 0, by class."""
    if not 1 <= k <= len(classes):
        raise ValueError(
            f"The number of {word} classes must be from 1 to {len(classes)}. "
            f"Received: k={k}"
        )
    order = np.argsort(amounts, kind="stable")
    chosen = order[amounts[order] > 0][:k]
    return {classes[i]: amounts[i].item() for i in chosen}


def _number(value):
    return None if np.isnan(value) else float(value)


def _numbers(values):
    return {name: _number(value) for name, value in values.items()}
