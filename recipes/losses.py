"""The loss that `--loss` names."""

import numpy as np

from zoo.losses import (
    AsymmetricLoss,
    BinaryCrossentropy,
    FocalLoss,
    class_balanced_weights,
)


def make_loss(recipe, examples, own=None):
    """Makes what a recipe trains with.

    Args:
        recipe: `recipes.cli.Recipe`.
        examples: list of `zoo.data.example.Example`, the training split, of
            which "class_balanced" counts the labels.
        own: `keras.losses.Loss` of the method's paper; `None` where that is
            the cross-entropy.

    Returns:
        `keras.losses.Loss` of targets and logits.

    Example:

    >>> from recipes.cli import Recipe
    >>> make_loss(Recipe(loss="focal", unknown="ignore"), []).unknown
    'ignore'
    """
    if recipe.loss == "paper" and own:
        return own
    if recipe.loss == "asymmetric":
        return AsymmetricLoss(unknown=recipe.unknown)
    if recipe.loss == "focal":
        return FocalLoss(unknown=recipe.unknown)
    class_weights = None
    if recipe.loss == "class_balanced":
        present = np.stack([example.targets for example in examples]) == 1
        class_weights = class_balanced_weights(present.sum(axis=0))
    return BinaryCrossentropy(
        recipe.unknown, recipe.label_smoothing, class_weights
    )
