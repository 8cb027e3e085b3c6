"""The focal loss, which hard answers dominate."""

import keras
from keras import ops

from zoo.losses.multi_label_loss import MultiLabelLoss, mean_over_classes


@keras.saving.register_keras_serializable(package="zoo")
class FocalLoss(MultiLabelLoss):
    """Weighs each answer of the cross-entropy by how wrong it is.

    For many classes of which an image has few: most answers are easy, and
    their many small losses would outweigh the few large ones. Present and
    absent classes are treated alike; where the absent ones dominate by far,
    see `AsymmetricLoss`. Sigmoids trained by it are less sure than the data.

    Formula, from Lin et al. (2017), https://arxiv.org/abs/1708.02002, eq. (5),
    with p = sigmoid(logit):

        p_t     = y p     + (1 - y) (1 - p)
        alpha_t = y alpha + (1 - y) (1 - alpha)
        loss    = alpha_t (1 - p_t)**gamma cross-entropy(y, p)

    as in `keras.losses.BinaryFocalCrossentropy`, which knows no unknown
    targets and clips the sigmoid; y may lie between 0 and 1. The loss of an
    image is the mean over its classes, where the paper has a sum, so that it
    takes the learning rates of `BinaryCrossentropy`.

    Args:
        gamma: float, at least 1. How much less easy answers count. 0 would be
            the cross-entropy, and below 1 the gradient of a sure right answer
            is infinite.
        alpha: float in `(0, 1)`. Weight of present classes, beside 1 - alpha of
            absent ones.
        unknown: as `MultiLabelLoss`, but "ignore" if not given.
        **kwargs: as `keras.losses.Loss`.

    Call arguments and what is returned: as
    `zoo.losses.multi_label_loss.MultiLabelLoss`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> loss = FocalLoss()
    >>> targets, logits = ops.array([[1.0, -1.0]]), ops.array([[0.0, 9.0]])
    >>> round(float(loss(targets, logits)), 4)  # 0.25 * 0.5**2 * log 2
    0.0433
    """

    def __init__(self, gamma=2.0, alpha=0.25, unknown="ignore", **kwargs):
        super().__init__(unknown, **kwargs)
        if not gamma >= 1:
            raise ValueError(
                f"`gamma` must be at least 1. Received: gamma={gamma}"
            )
        if not 0 < alpha < 1:
            raise ValueError(
                f"`alpha` must be in (0, 1). Received: alpha={alpha}"
            )
        self.gamma = gamma
        self.alpha = alpha

    def image_losses(self, targets, known, logits):
        # From logits: a sigmoid that is clipped gives the worst of the wrong
        # answers, which count most, no gradient.
        losses = ops.binary_crossentropy(targets, logits, from_logits=True)
        wrong = targets * ops.sigmoid(-logits)
        wrong += (1 - targets) * ops.sigmoid(logits)
        weights = targets * self.alpha + (1 - targets) * (1 - self.alpha)
        losses *= weights * ops.power(wrong, self.gamma)
        return mean_over_classes(losses, known)

    def get_config(self):
        return {
            **super().get_config(),
            "gamma": self.gamma,
            "alpha": self.alpha,
        }
