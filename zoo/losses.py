"""Losses of multi-label recognition, on logits."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="zoo")
class BinaryCrossentropy(keras.losses.Loss):
    """Averages the sigmoid cross-entropy over an image's classes.

    Keras' loss of the same name knows 1 and 0 only; data sets also have
    classes of which nothing is known in an image.

    Formula, per image, where the mean is over its classes:

        loss = -mean_k [y[k] log sigmoid(logit[k])
                        + (1 - y[k]) log sigmoid(-logit[k])]

    where label smoothing by `s` makes of each target y, 1 or 0,

        y * (1 - s) + s / 2

    Keras casts both tensors to float32 first, so the loss is exact under
    mixed precision too.

    Args:
        unknown: str. What a target of -1 means. `"absent"`: the same as 0, as
            CSRA trains on VOC. `"ignore"`: the entry is left out, the mean is
            over the known classes, and an image with none contributes 0 to
            the batch's mean.
        label_smoothing: float in `[0, 1)`. How far targets move towards one
            half, `s` above.

    Call arguments:
        y_true: Tensor of shape `(batch, num_classes)`: 1 present, 0 absent,
            -1 unknown.
        y_pred: Float tensor of the same shape, the logits; or of shape
            `(batch, steps, num_classes)`, those of a recurrent model, whose
            loss is the mean over its steps. Then `y_true` may have steps, too.

    Returns:
        Float scalar, the mean over the batch; or of shape `(batch,)` with
        `reduction=None`.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> loss = BinaryCrossentropy(unknown="ignore")
    >>> targets = ops.array([[1.0, 0.0, -1.0]])
    >>> logits = ops.array([[2.0, -2.0, 9.0]])
    >>> round(float(loss(targets, logits)), 4)
    0.1269
    """

    def __init__(self, unknown="absent", label_smoothing=0.0, **kwargs):
        super().__init__(**kwargs)
        if unknown not in ("absent", "ignore"):
            raise ValueError(
                '`unknown` must be "absent" or "ignore". '
                f"Received: unknown={unknown}"
            )
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be in [0, 1). "
                f"Received: label_smoothing={label_smoothing}"
            )
        self.unknown = unknown
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        smoothing = self.label_smoothing
        if len(y_pred.shape) == 3 and len(y_true.shape) == 2:
            y_true = ops.repeat(y_true[:, None], y_pred.shape[1], axis=1)
        losses = ops.binary_crossentropy(
            ops.maximum(y_true, 0) * (1 - smoothing) + smoothing / 2,
            y_pred,
            from_logits=True,
        )  # (B, [T,] K)
        if self.unknown == "absent":
            losses = ops.mean(losses, axis=-1)
        else:
            known = ops.cast(y_true >= 0, losses.dtype)
            num_known = ops.sum(known, axis=-1)
            # At least 1: an image with nothing known is 0 / 1, not 0 / 0.
            losses = ops.sum(known * losses, axis=-1)
            losses /= ops.maximum(num_known, 1)
        return losses if len(losses.shape) == 1 else ops.mean(losses, axis=1)

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "unknown": self.unknown,
            "label_smoothing": self.label_smoothing,
        }
