"""The asymmetric loss, which easy absent classes do not drown."""

import keras
from keras import ops

from zoo.losses.multi_label_loss import MultiLabelLoss, mean_over_classes


@keras.saving.register_keras_serializable(package="zoo")
class AsymmetricLoss(MultiLabelLoss):
    """Stops learning from absent classes that the model is sure of.

    For many classes of which an image has few, as in COCO or NUS-WIDE, and
    where some labels are missing: a class that is marked absent and looks
    present has little gradient, too.

    Formula, from Ridnik et al. (2021), https://arxiv.org/abs/2009.14119,
    section 2:

        p    = sigmoid(logit)
        q    = max(p - margin, 0)
        loss = -y (1 - p)**gamma_pos log(p) - (1 - y) q**gamma_neg log(1 - q)

    The loss of an image is the mean over its classes, where the paper has a
    sum, so that it takes the learning rates of `BinaryCrossentropy`.

    Args:
        gamma_pos: float. Focus on hard positives: 0, or at least 1.
        gamma_neg: float. Focus on hard negatives: 0, or at least 1.
        margin: float in `[0, 1)`. Below this probability a negative is free.
        unknown: as `MultiLabelLoss`, but "ignore" if not given.
        **kwargs: as `keras.losses.Loss`.

    Call arguments and what is returned: as
    `zoo.losses.multi_label_loss.MultiLabelLoss`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> loss = AsymmetricLoss()
    >>> logits = ops.array([[-3.0, -4.0]])  # both below the margin
    >>> float(loss(ops.zeros((1, 2)), logits))
    0.0
    """

    def __init__(
        self,
        gamma_pos=0.0,
        gamma_neg=4.0,
        margin=0.05,
        unknown="ignore",
        **kwargs,
    ):
        super().__init__(unknown, **kwargs)
        # Between 0 and 1 the gradient of x**gamma is infinite at x = 0.
        for gamma in (gamma_pos, gamma_neg):
            if gamma != 0 and not gamma >= 1:
                raise ValueError(
                    "`gamma_pos` and `gamma_neg` must be 0 or at least 1. "
                    f"Received: gamma_pos={gamma_pos}, gamma_neg={gamma_neg}"
                )
        if not 0 <= margin < 1:
            raise ValueError(
                f"`margin` must be in [0, 1). Received: margin={margin}"
            )
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.margin = margin

    def image_losses(self, targets, known, logits):
        p = ops.sigmoid(logits)
        not_p = ops.sigmoid(-logits)  # 1 - p would round to 0
        positives = targets * ops.log_sigmoid(logits)
        if self.gamma_pos:
            positives *= ops.power(not_p, self.gamma_pos)
        if self.margin:
            log_not_q = ops.log(ops.minimum(not_p + self.margin, 1))
        else:  # finite where not_p is 0, too
            log_not_q = ops.log_sigmoid(-logits)
        negatives = (1 - targets) * log_not_q
        if self.gamma_neg:
            q = ops.relu(p - self.margin)
            negatives *= ops.power(q, self.gamma_neg)
        return mean_over_classes(-positives - negatives, known)

    def get_config(self):
        return {
            **super().get_config(),
            "gamma_pos": self.gamma_pos,
            "gamma_neg": self.gamma_neg,
            "margin": self.margin,
        }
