"""What the losses share: unknown targets, and a recurrent model's steps."""

import keras
from keras import ops


class MultiLabelLoss(keras.losses.Loss):
    """Takes unknown targets out of a loss, and averages it over steps.

    Keras casts targets and logits to float32 first, so a loss is exact under
    mixed precision too. A subclass gives `image_losses`.

    Args:
        unknown: str. What a target of -1 means. `"absent"`: the same as 0, as
            CSRA trains on VOC. `"ignore"`: the entry is left out, and an image
            of which nothing else is known contributes 0 to the batch's mean.
        **kwargs: as `keras.losses.Loss`.

    Call arguments:
        y_true: Tensor of shape `(batch, num_classes)`: 1 present, 0 absent,
            between them for mixed images, -1 unknown.
        y_pred: Float tensor of the same shape, the logits; or of shape
            `(batch, steps, num_classes)`, those of a recurrent model, whose
            loss is the mean over its steps. Then `y_true` may have steps, too.

    Returns:
        Float scalar, the mean over the batch; or of shape `(batch,)` with
        `reduction=None`.

    Raises:
        ValueError: If `unknown` is none of these.
    """

    def __init__(self, unknown="absent", **kwargs):
        super().__init__(**kwargs)
        if unknown not in ("absent", "ignore"):
            raise ValueError(
                '`unknown` must be "absent" or "ignore". '
                f"Received: unknown={unknown}"
            )
        self.unknown = unknown

    def image_losses(self, targets, known, logits):
        """Gives the loss of each image, or of each of its steps.

        Args:
            targets: tensor of shape `(batch, [steps,] num_classes)`, from 0 to
                1; 0 for what is unknown.
            known: tensor of the same shape: 0 for what is left out, else 1.
            logits: tensor of the same shape.

        Returns:
            Tensor of shape `(batch, [steps])`.
        """
        raise NotImplementedError

    def call(self, y_true, y_pred):
        # Keras takes a list for a structure of tensors.
        y_true = ops.convert_to_tensor(y_true)
        y_pred = ops.convert_to_tensor(y_pred)
        if len(y_pred.shape) == 3 and len(y_true.shape) == 2:
            y_true = ops.repeat(y_true[:, None], y_pred.shape[1], axis=1)
        if self.unknown == "absent":
            known = ops.ones_like(y_true)
        else:
            known = ops.cast(y_true >= 0, y_true.dtype)
        losses = self.image_losses(ops.maximum(y_true, 0), known, y_pred)
        return losses if len(losses.shape) == 1 else ops.mean(losses, axis=1)

    def get_config(self):
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "unknown": self.unknown,
        }


def mean_over_classes(values, weights):
    """Averages over the classes of weight 1; without any it is 0.

    Args:
        values: tensor of shape `(..., num_classes)`.
        weights: tensor of the same shape, from 0 to 1.

    Returns:
        Tensor of shape `(...)`.
    """
    # At least 1: no class at all is 0 / 1, not 0 / 0.
    num_classes = ops.maximum(ops.sum(weights, axis=-1), 1)
    return ops.sum(weights * values, axis=-1) / num_classes
