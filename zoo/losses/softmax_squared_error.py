"""The loss of RARL, which ranks the classes of an image."""

import keras
from keras import ops

from zoo.losses.multi_label_loss import MultiLabelLoss


@keras.saving.register_keras_serializable(package="zoo")
class SoftmaxSquaredError(MultiLabelLoss):
    """Compares the softmax of the scores with the labels' equal shares.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1712.07465,
    eqs. (9) and (10), per image:

        p    = softmax(score)
        loss = sum_k (p[k] - y[k] / sum_j y[j])**2

    It is at most 2, and 0 where the labels of an image share the softmax
    equally: it ranks the classes, and no score in itself means "present". An
    image without labels says nothing of their order, and contributes 0 to the
    batch's mean; one whose targets sum to less than 1, as a mixed image's may,
    contributes that share.

    Args:
        unknown: str. What a target of -1 means, as in `BinaryCrossentropy`:
            `"absent"`, the same as 0, or `"ignore"`, left out of the softmax
            and of the sum.

    Call arguments and what is returned: as
    `zoo.losses.multi_label_loss.MultiLabelLoss`; the logits are the scores.

    Raises:
        ValueError: If `unknown` is none of these.

    Example:

    >>> loss = SoftmaxSquaredError()
    >>> targets = ops.array([[1.0, 1.0, 0.0, 0.0]])
    >>> float(loss(targets, ops.zeros((1, 4))))
    0.25
    """

    def image_losses(self, targets, known, logits):
        # Finite, where -inf would give NaN if nothing of an image is known.
        scores = ops.where(known > 0, logits, -1e30)
        total = ops.sum(targets, axis=-1, keepdims=True)
        shares = targets / ops.where(total > 0, total, 1)
        losses = ops.square(ops.softmax(scores) - shares)
        return ops.sum(ops.minimum(total, 1) * losses, axis=-1)
