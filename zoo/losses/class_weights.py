"""Weights of classes, by how many images they have."""

import numpy as np


def class_balanced_weights(positives, beta=0.999):
    """Weighs rare classes more, by the effective number of their images.

    Use them as `class_weights` of `BinaryCrossentropy` where some classes are
    much rarer than others and count as much, as in a macro average such as
    mAP or CF1. Each new image of a class adds less than the one before it, so
    the weights differ less than the numbers of images do.

    Formula, from Cui et al. (2019), https://arxiv.org/abs/1901.05555,
    Proposition 1 and section 4, for a class with n images, then scaled to a
    mean of 1:

        weight = (1 - beta) / (1 - beta**n)

    Args:
        positives: array of int, `(num_classes,)`: images in the training split
            that have the class. One without any has nothing to balance: its
            weight is 1.
        beta: float in `[0, 1)`. 0: all weights are 1. Towards 1 they become
            inverse to the number of images. The most different they can be is
            `1 / (1 - beta)` times.

    Returns:
        float64 array `(num_classes,)`, with a sum of `num_classes`.

    Raises:
        ValueError: If `positives` is not such an array, or `beta` out of range.

    Example:

    >>> class_balanced_weights([10, 100, 10000]).round(2).tolist()
    [2.69, 0.28, 0.03]
    """
    positives = np.asarray(positives)
    if positives.ndim != 1 or not positives.size or (positives < 0).any():
        raise ValueError(
            "`positives` must be one number for each class, at least 0. "
            f"Received: positives={positives}"
        )
    if not 0 <= beta < 1:
        raise ValueError(f"`beta` must be in [0, 1). Received: beta={beta}")
    weights = np.ones(len(positives))
    if (there := positives > 0).any():
        own = (1 - beta) / (1 - beta ** positives[there].astype("float64"))
        weights[there] = own / own.mean()
    return weights
