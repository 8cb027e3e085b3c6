"""Exact metrics of multi-label recognition, in NumPy and float64.

They need all images at once, so they run after a prediction, not within a
step: a streaming approximation of average precision is not the benchmark's.
Every number depends on a protocol, so the protocol is an argument.
"""

import numpy as np

MODES = ("continuous", "interpolated", "11point")
# Of the probability of a path: products, which may be small.
PATH_THRESHOLDS = np.concatenate(
    [np.geomspace(1e-4, 0.01, 20), np.arange(0.02, 1.0, 0.01)]
)


def average_precision(targets, scores, mode="continuous"):
    """Computes the average precision of each class.

    Formula, where `recall` and `precision` of a positive `i` are those of the
    rule "predict all that score at least as much as `i`":

        continuous:   mean over positives i of precision(i)
        interpolated: mean over positives i of
                      max over j with recall(j) >= recall(i) of precision(j)
        11point:      mean over r in 0, 0.1, ..., 1 of
                      max over j with recall(j) >= r of precision(j)

    "interpolated" is the area under the envelope that the VOC devkit measures
    since 2010, "11point" is the devkit's rule up to 2009, so of VOC 2007. On
    the same predictions they differ by points: name the mode beside a number.

    Ties: examples of equal score are ranked together, since no threshold can
    separate them. The result therefore never depends on the examples' order,
    and equal scores for all give the share of positives.

    Args:
        targets: Array of shape `(num_examples, num_classes)`: 1 present, 0
            absent, -1 unknown. An unknown example is left out of its class.
        scores: Array of the same shape; higher means more likely. Only their
            order counts, so logits do as well as probabilities.
        mode: str. One of `MODES`.

    Returns:
        float64 array of shape `(num_classes,)`, 0 to 1; NaN for a class
        without positives, where average precision is not defined.

    Raises:
        ValueError: If `mode` is unknown, the shapes are not equal, not rank 2
            or empty, a score is NaN, or a target is not 1, 0 or -1.

    Example:

    >>> targets = [[1, 0], [0, 0], [1, 0]]
    >>> scores = [[0.9, 0.2], [0.8, 0.3], [0.7, 0.1]]
    >>> average_precision(targets, scores).round(3).tolist()
    [0.833, nan]
    """
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {MODES}. Received: {mode=}")
    targets, scores = _checked(targets, scores, "scores")
    # One class at a time: plain sorts of contiguous rows are several times
    # faster than one `argsort` of the whole matrix and its gathers.
    rows = zip(
        np.ascontiguousarray(targets.T),
        np.ascontiguousarray(scores.T),
        strict=True,
    )
    return np.array([_average_precision(*row, mode) for row in rows])


def mean_average_precision(targets, scores, mode="continuous"):
    """Computes mAP: the mean of `average_precision` over classes.

    Args:
        targets: Array of shape `(num_examples, num_classes)`: 1 present, 0
            absent, -1 unknown.
        scores: Array of the same shape; higher means more likely.
        mode: str. One of `MODES`.

    Returns:
        float, 0 to 1. Classes without positives are left out of the mean; if
        no class has positives, there is nothing to average and it is NaN.

    Raises:
        ValueError: As `average_precision`.

    Example:

    >>> targets = [[1, 0], [0, 1], [1, 0]]
    >>> scores = [[0.9, 0.2], [0.8, 0.3], [0.7, 0.1]]
    >>> round(mean_average_precision(targets, scores), 3)
    0.917
    """
    per_class = average_precision(targets, scores, mode)
    per_class = per_class[~np.isnan(per_class)]
    return float(per_class.mean()) if per_class.size else float("nan")


def precision_recall_curve(targets, scores):
    """Computes the exact precision and recall at each positive.

    They are those of the rule "predict all that score at least as much", so
    the mean of the precisions is the "continuous" average precision, and the
    area under the curve drawn in steps.

    Args:
        targets: array of any shape: 1 present, 0 absent, -1 unknown, which is
            left out.
        scores: array of the same shape; higher means more likely.

    Returns:
        `(recall, precision)`, float64 arrays of shape `(num_positives,)`, by
        rising recall.

    Example:

    >>> recall, precision = precision_recall_curve([1, 0, 1], [0.9, 0.8, 0.7])
    >>> recall.tolist(), precision.round(3).tolist()
    ([0.5, 1.0], [1.0, 0.667])
    """
    targets, scores = np.asarray(targets), np.asarray(scores)
    known = np.sort(scores[targets != -1])
    positives = np.sort(scores[targets == 1])
    # Searching from the left puts all of a tied block on the same side.
    num_correct = positives.size - np.searchsorted(positives, positives)
    num_predicted = known.size - np.searchsorted(known, positives)
    recall = num_correct / max(positives.size, 1)
    return recall[::-1], (num_correct / num_predicted)[::-1]


def precision_recall_f1(
    targets, probabilities, threshold=0.5, top_k=None, min_probability=None
):
    """Computes CP, CR, CF1 (per class) and OP, OR, OF1 (overall).

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1712.07465,
    eq. (11), with the counts of class `i` over images, `c` of correctly
    predicted, `p` of predicted and `g` of true labels:

        CP  = mean_i c[i] / p[i]            OP  = sum_i c[i] / sum_i p[i]
        CR  = mean_i c[i] / g[i]            OR  = sum_i c[i] / sum_i g[i]
        CF1 = 2 CP CR / (CP + CR)           OF1 = 2 OP OR / (OP + OR)

    CF1 is the harmonic mean of CP and CR, not the mean of the classes' F1. A
    class that is never predicted counts 0 in CP; a class without true labels
    has no recall and is left out of CR.

    The protocols of the papers' tables:

    - "All" (CSRA, FAN): the defaults.
    - "Top 3" (CSRA, FAN): `top_k=3`. The threshold holds here too: CSRA
      reports OP 90.5 at OR 63.7 on COCO, where three labels for each image
      could not pass OP 62, as an image has 2.9 labels.
    - "Top 3" of RARL: `top_k=3, min_probability=0.1`.
    - "Top 3" of WARP and CNN-RNN: `top_k=3, min_probability=0`, exactly three
      labels for each image.

    Args:
        targets: Array of shape `(num_examples, num_classes)`: 1 present, 0
            absent, -1 unknown. Unknown entries are left out of every count.
        probabilities: Array of the same shape, 0 to 1.
        threshold: float, 0 to 1. A label is predicted above it, not at it:
            0.5 means a logit above 0.
        top_k: int or `None`. Predict at most this many labels for an image,
            the most probable, of equals the first in class order. Chosen
            among all classes, as the model cannot know what is annotated.
        min_probability: float, 0 to 1, or `None`. Only with `top_k`: stands
            in for `threshold`, and drops what is below it, not what is at it.

    Returns:
        dict of float, 0 to 1, with keys "CP", "CR", "CF1", "OP", "OR", "OF1".
        An F1 is 0 where precision and recall are; recalls and F1s are NaN if
        no label is true.

    Raises:
        ValueError: If an argument is out of its range, the shapes are not
            equal, not rank 2 or empty, or a target is not 1, 0 or -1.

    Example:

    >>> targets = [[1, 0], [1, 1]]
    >>> probabilities = [[0.9, 0.6], [0.8, 0.3]]
    >>> result = precision_recall_f1(targets, probabilities)
    >>> {name: round(value, 3) for name, value in result.items()}
    {'CP': 0.5, 'CR': 0.5, 'CF1': 0.5, 'OP': 0.667, 'OR': 0.667, 'OF1': 0.667}
    """
    targets, probabilities = _checked(targets, probabilities, "probabilities")
    if probabilities.min() < 0 or probabilities.max() > 1:
        raise ValueError(
            "`probabilities` must be between 0 and 1 (logits need a sigmoid "
            f"first). Received: minimum={probabilities.min()}, "
            f"maximum={probabilities.max()}"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(
            f"`threshold` must be between 0 and 1. Received: {threshold=}"
        )
    if top_k is not None and top_k < 1:
        raise ValueError(
            f"`top_k` must be at least 1, or `None`. Received: {top_k=}"
        )
    if min_probability is not None and (
        top_k is None or not 0 <= min_probability <= 1
    ):
        raise ValueError(
            "`min_probability` must be between 0 and 1 and comes with "
            f"`top_k`. Received: {min_probability=}, {top_k=}"
        )

    if min_probability is None:
        predicted = probabilities > threshold
    else:
        predicted = probabilities >= min_probability
    if top_k is not None:
        predicted &= _highest(probabilities, top_k)
    predicted &= targets != -1
    positive = targets == 1

    num_correct = (predicted & positive).sum(axis=0)  # (K,)
    num_predicted = predicted.sum(axis=0)
    num_true = positive.sum(axis=0)

    cp = (num_correct / np.maximum(num_predicted, 1)).mean()
    op = num_correct.sum() / max(num_predicted.sum(), 1)
    cr = overall_recall = np.nan
    if num_true.any():
        has_labels = num_true > 0
        cr = (num_correct[has_labels] / num_true[has_labels]).mean()
        overall_recall = num_correct.sum() / num_true.sum()
    return {
        "CP": float(cp),
        "CR": float(cr),
        "CF1": _harmonic_mean(cp, cr),
        "OP": float(op),
        "OR": float(overall_recall),
        "OF1": _harmonic_mean(op, overall_recall),
    }


def path_threshold(targets, paths, path_probabilities):
    """Chooses the probability below which a path of labels ends, by OF1.

    Args:
        targets: array of shape `(num_examples, num_classes)`.
        paths: int array `(num_examples, max_labels, max_labels)`: the best path
            of each length, then -1, see `zoo.beam_search`.
        path_probabilities: array `(num_examples, max_labels)`.

    Returns:
        `(threshold, OF1)`, the first of the best in `PATH_THRESHOLDS`.

    Example:

    >>> targets = np.array([[1, 0], [0, 1]])
    >>> paths = np.array([[[0, -1], [0, 1]], [[1, -1], [1, 0]]])
    >>> threshold, of1 = path_threshold(
    ...     targets, paths, np.array([[0.8, 0.3], [0.6, 0.1]])
    ... )
    >>> 0.3 < threshold <= 0.6, of1
    (True, 1.0)
    """
    num_examples, max_labels, _ = paths.shape
    # One row for each number of labels, from none.
    labels = np.zeros((num_examples, max_labels + 1, targets.shape[1]), bool)
    images, lengths, steps = np.nonzero(paths >= 0)
    labels[images, lengths + 1, paths[images, lengths, steps]] = True

    def of1(threshold):
        length = (path_probabilities >= threshold).sum(axis=1)
        predicted = labels[np.arange(num_examples), length]
        f1 = precision_recall_f1(targets, predicted.astype("float32"))
        return np.nan_to_num(f1["OF1"])

    values = [of1(threshold) for threshold in PATH_THRESHOLDS]
    best = int(np.argmax(values))
    return float(PATH_THRESHOLDS[best]), float(values[best])


def score_threshold(targets, scores):
    """Chooses the score above which a label counts as predicted, by OF1.

    For scores that say which classes come first, but not where to stop.

    Args:
        targets: array of shape `(num_examples, num_classes)`: 1 present, 0
            absent, -1 unknown, which is left out.
        scores: float array of the same shape, of any range.

    Returns:
        `(threshold, OF1)`: halfway between two scores, at the highest of the
        best; the highest of all, and an OF1 of 0, where no label is present.

    Raises:
        ValueError: as `precision_recall_f1`, for shapes and targets.

    Example:

    >>> score_threshold([[1, 0], [0, 1]], [[9.0, 5.0], [4.0, 7.0]])
    (6.0, 1.0)
    """
    targets, scores = _checked(targets, scores, "scores")
    if not (targets == 1).any():
        return float(scores.max()), 0.0
    known = targets != -1
    scores, present = scores[known], targets[known] == 1
    order = np.argsort(-scores)
    scores, present = scores[order], present[order]
    num_predicted = np.arange(1, scores.size + 1)
    of1 = 2 * np.cumsum(present) / (num_predicted + present.sum())
    # Nothing can stand between equal scores; below the last one, anything.
    following = np.append(scores[1:], scores[-1] - 1)
    of1[scores == following] = -1
    best = int(np.argmax(of1))
    return float((scores[best] + following[best]) / 2), float(of1[best])


def _average_precision(targets, scores, mode):
    """Computes the average precision of one class, from rows of it."""
    _, precision = precision_recall_curve(targets, scores)
    if not precision.size:
        return np.nan
    if mode == "continuous":
        return precision.mean()
    # The highest precision at this recall or more.
    envelope = np.maximum.accumulate(precision[::-1])
    if mode == "interpolated":
        return envelope.mean()
    # The fewest positives with recall >= r, in integers: as floats, three
    # tenths is above 0.3. Recall 0 takes the maximum over all.
    num_needed = np.maximum(-(-np.arange(11) * precision.size // 10), 1)
    return envelope[precision.size - num_needed].mean()


def _checked(targets, scores, name):
    """Gives both as arrays, or raises what is wrong with them."""
    targets = np.asarray(targets)
    scores = np.asarray(scores)
    # float32 stays: it sorts in half the time, to the same order.
    if scores.dtype != np.float32:
        scores = scores.astype(np.float64)
    if targets.shape != scores.shape or targets.ndim != 2 or not targets.size:
        raise ValueError(
            f"`targets` and `{name}` must have the same shape `(num_examples, "
            "num_classes)`, without zeros. Received: "
            f"targets.shape={targets.shape}, {name}.shape={scores.shape}"
        )
    good = (targets == 1) | (targets == 0) | (targets == -1)
    if not good.all():
        raise ValueError(
            "`targets` must be 1 (present), 0 (absent) or -1 (unknown). "
            f"Received: {targets[~good][0]} at {_first(~good)}"
        )
    missing = np.isnan(scores)
    if missing.any():
        raise ValueError(
            f"`{name}` must not be NaN. Received: NaN at {_first(missing)}"
        )
    return targets.astype(np.int8), scores


def _first(mask):
    """Gives the index of the first true entry, for a message."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def _highest(probabilities, k):
    """Marks the `k` highest of each row, of equals the first."""
    order = np.argsort(-probabilities, axis=1, kind="stable")
    mask = np.zeros(probabilities.shape, dtype=bool)
    np.put_along_axis(mask, order[:, :k], True, axis=1)
    return mask


def _harmonic_mean(precision, recall):
    """Gives F1: 0 where both are 0, NaN where the recall is."""
    total = precision + recall
    return float(2 * precision * recall / total) if total != 0 else 0.0
