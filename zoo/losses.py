"""Losses of multi-label recognition, on logits."""

import keras
from keras import ops


class _MultiLabelLoss(keras.losses.Loss):
    """Keeps what the losses share: what a target of -1 means."""

    def __init__(self, unknown="absent", **kwargs):
        super().__init__(**kwargs)
        if unknown not in ("absent", "ignore"):
            raise ValueError(
                '`unknown` must be "absent" or "ignore". '
                f"Received: unknown={unknown}"
            )
        self.unknown = unknown

    def split(self, y_true):
        """Gives the targets without -1, and 1 for each entry that counts."""
        if self.unknown == "absent":
            known = ops.ones_like(y_true)
        else:
            known = ops.cast(y_true >= 0, y_true.dtype)
        return ops.maximum(y_true, 0), known

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "unknown": self.unknown,
        }


@keras.saving.register_keras_serializable(package="zoo")
class BinaryCrossentropy(_MultiLabelLoss):
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
        super().__init__(unknown, **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be in [0, 1). "
                f"Received: label_smoothing={label_smoothing}"
            )
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        smoothing = self.label_smoothing
        if len(y_pred.shape) == 3 and len(y_true.shape) == 2:
            y_true = ops.repeat(y_true[:, None], y_pred.shape[1], axis=1)
        present, known = self.split(y_true)
        losses = ops.binary_crossentropy(
            present * (1 - smoothing) + smoothing / 2, y_pred, from_logits=True
        )  # (B, [T,] K)
        losses = _mean(losses, known)
        return losses if len(losses.shape) == 1 else ops.mean(losses, axis=1)

    def get_config(self):
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
        }


@keras.saving.register_keras_serializable(package="zoo")
class BalancedBinaryCrossentropy(_MultiLabelLoss):
    """Weighs an image's few present classes as much as its many absent ones.

    Formula, from Zhao et al. (2016), https://doi.org/10.5244/C.30.72, eq. (6),
    with the minus sign that its print lacks, per image:

        loss = -mean_{k: y[k] = 1} log sigmoid(logit[k])
               -mean_{k: y[k] = 0} log sigmoid(-logit[k])

    An image without present classes has the second part only, one without
    absent classes the first. The paper's network ends in a softmax, under
    which the classes of one image would compete; here each has its sigmoid.

    Args:
        unknown: str. What a target of -1 means, as in `BinaryCrossentropy`:
            `"absent"`, the same as 0, or `"ignore"`, in neither part.

    Call arguments:
        y_true: Tensor of shape `(batch, num_classes)`: 1 present, 0 absent,
            -1 unknown.
        y_pred: Float tensor of the same shape, the logits.

    Returns:
        Float scalar, the mean over the batch; or of shape `(batch,)` with
        `reduction=None`.

    Raises:
        ValueError: If `unknown` is none of these.

    Example:

    >>> loss = BalancedBinaryCrossentropy()
    >>> targets = ops.array([[1.0, 0.0, 0.0]])
    >>> logits = ops.array([[2.0, -2.0, -2.0]])
    >>> round(float(loss(targets, logits)), 4)
    0.2539
    """

    def call(self, y_true, y_pred):
        present, known = self.split(y_true)
        positives = _mean(ops.log_sigmoid(y_pred), present)
        negatives = _mean(ops.log_sigmoid(-y_pred), known * (1 - present))
        return -positives - negatives


@keras.saving.register_keras_serializable(package="zoo")
class SoftmaxSquaredError(_MultiLabelLoss):
    """Compares the softmax of the scores with the labels' equal shares.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1712.07465,
    eqs. (9) and (10), per image:

        p    = softmax(score)
        loss = sum_k (p[k] - y[k] / sum_j y[j])**2

    It is at most 2, and 0 where the labels of an image share the softmax
    equally: it ranks the classes, and no score in itself means "present". An
    image without labels says nothing of their order, and contributes 0 to the
    batch's mean.

    Args:
        unknown: str. What a target of -1 means, as in `BinaryCrossentropy`:
            `"absent"`, the same as 0, or `"ignore"`, left out of the softmax
            and of the sum.

    Call arguments:
        y_true: Tensor of shape `(batch, num_classes)`: 1 present, 0 absent,
            -1 unknown.
        y_pred: Float tensor of the same shape, the scores before the softmax.

    Returns:
        Float scalar, the mean over the batch; or of shape `(batch,)` with
        `reduction=None`.

    Raises:
        ValueError: If `unknown` is none of these.

    Example:

    >>> loss = SoftmaxSquaredError()
    >>> targets = ops.array([[1.0, 1.0, 0.0, 0.0]])
    >>> float(loss(targets, ops.zeros((1, 4))))
    0.25
    """

    def call(self, y_true, y_pred):
        present, known = self.split(y_true)
        # Finite, where -inf would give NaN if nothing of an image is known.
        scores = ops.where(known > 0, y_pred, -1e30)
        num_labels = ops.sum(present, axis=-1, keepdims=True)
        shares = present / ops.maximum(num_labels, 1)
        losses = ops.square(ops.softmax(scores) - shares)
        return ops.sum(ops.minimum(num_labels, 1) * losses, axis=-1)


def _mean(values, weights):
    """Averages over the classes of weight 1; without any it is 0."""
    # At least 1: no class at all is 0 / 1, not 0 / 0.
    num_classes = ops.maximum(ops.sum(weights, axis=-1), 1)
    return ops.sum(weights * values, axis=-1) / num_classes
