"""The cross-entropy of a sigmoid, on which most methods train."""

import keras
from keras import ops

from zoo.losses.multi_label_loss import MultiLabelLoss, mean_over_classes


@keras.saving.register_keras_serializable(package="zoo")
class BinaryCrossentropy(MultiLabelLoss):
    """Averages the sigmoid cross-entropy over an image's classes.

    Keras' loss of the same name knows 1 and 0 only; data sets also have
    classes of which nothing is known in an image.

    Formula, per image, where the mean is over its classes:

        loss = -mean_k w[k] [y[k] log sigmoid(logit[k])
                             + (1 - y[k]) log sigmoid(-logit[k])]

    where label smoothing by `s` makes of each target y

        y * (1 - s) + s / 2

    Smooth where labels are often wrong, or probabilities come out too sure.
    Weigh where some classes are much rarer than others, by
    `class_balanced_weights`.

    Args:
        unknown: str. What a target of -1 means. `"absent"`: the same as 0, as
            CSRA trains on VOC. `"ignore"`: the entry is left out, the mean is
            over the known classes, and an image with none contributes 0 to
            the batch's mean.
        label_smoothing: float in `[0, 1)`. How far targets move towards one
            half, `s` above.
        class_weights: sequence of float, one a class, or `None` for 1 each;
            `w` above.
        **kwargs: as `keras.losses.Loss`.

    Call arguments and what is returned: as
    `zoo.losses.multi_label_loss.MultiLabelLoss`.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> loss = BinaryCrossentropy(unknown="ignore")
    >>> targets = ops.array([[1.0, 0.0, -1.0]])
    >>> logits = ops.array([[2.0, -2.0, 9.0]])
    >>> round(float(loss(targets, logits)), 4)
    0.1269
    """

    def __init__(
        self,
        unknown="absent",
        label_smoothing=0.0,
        class_weights=None,
        **kwargs,
    ):
        super().__init__(unknown, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be in [0, 1). "
                f"Received: label_smoothing={label_smoothing}"
            )
        self.label_smoothing = label_smoothing
        if class_weights is not None:
            class_weights = [float(weight) for weight in class_weights]
            if not all(0 <= weight < float("inf") for weight in class_weights):
                raise ValueError(
                    "`class_weights` must be finite and at least 0. "
                    f"Received: class_weights={class_weights}"
                )
        self.class_weights = class_weights

    def image_losses(self, targets, known, logits):
        smoothing = self.label_smoothing
        losses = ops.binary_crossentropy(
            targets * (1 - smoothing) + smoothing / 2, logits, from_logits=True
        )
        if self.class_weights is not None:
            losses *= self._weights_for(logits)
        return mean_over_classes(losses, known)

    def _weights_for(self, logits):
        if len(self.class_weights) != logits.shape[-1]:
            raise ValueError(
                "`class_weights` must have one weight for each class. "
                f"Received: {len(self.class_weights)} weights, "
                f"{logits.shape[-1]} classes"
            )
        return ops.convert_to_tensor(self.class_weights, logits.dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "class_weights": self.class_weights,
        }
