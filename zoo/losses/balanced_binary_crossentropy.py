"""The cross-entropy of RGNN."""

import keras
from keras import ops

from zoo.losses.multi_label_loss import MultiLabelLoss, mean_over_classes


@keras.saving.register_keras_serializable(package="zoo")
class BalancedBinaryCrossentropy(MultiLabelLoss):
    """Weighs an image's few present classes as much as its many absent ones.

    Formula, from Zhao et al. (2016), https://doi.org/10.5244/C.30.72, eq. (6),
    with the minus sign that its print lacks, per image:

        loss = -mean_{k: y[k] = 1} log sigmoid(logit[k])
               -mean_{k: y[k] = 0} log sigmoid(-logit[k])

    An image without present classes has the second part only, one without
    absent classes the first. The paper's network ends in a softmax, under
    which the classes of one image would compete; here each has its sigmoid.
    Targets between 0 and 1, as mixed images have, are in neither set: take
    another loss for them.

    Args:
        unknown: str. What a target of -1 means, as in `BinaryCrossentropy`:
            `"absent"`, the same as 0, or `"ignore"`, in neither part.

    Call arguments and what is returned: as
    `zoo.losses.multi_label_loss.MultiLabelLoss`.

    Raises:
        ValueError: If `unknown` is none of these.

    Example:

    >>> loss = BalancedBinaryCrossentropy()
    >>> targets = ops.array([[1.0, 0.0, 0.0]])
    >>> logits = ops.array([[2.0, -2.0, -2.0]])
    >>> round(float(loss(targets, logits)), 4)
    0.2539
    """

    def image_losses(self, targets, known, logits):
        positives = mean_over_classes(ops.log_sigmoid(logits), targets)
        negatives = mean_over_classes(
            ops.log_sigmoid(-logits), known * (1 - targets)
        )
        return -positives - negatives
