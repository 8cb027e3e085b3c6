"""Class-specific residual attention, the head of CSRA."""

import keras
from keras import ops

POOLINGS = ("residual", "average", "spatial")


@keras.saving.register_keras_serializable(package="zoo")
class ResidualAttention(keras.layers.Layer):
    """Scores each class by its average and its most telling positions.

    A unit-norm classifier scores every position of the feature map. Each
    class then pools its own scores twice: uniformly, and by a spatial softmax
    over those same scores.

    Formula, from Zhu and Wu (2021), https://arxiv.org/abs/2108.02456, eq. (8):

        s[i, k]  = <x[i], m[k]> / |m[k]|
        logit[k] = mean_i s[i, k]
                 + lambda * sum_i softmax_i(temperature * s[i, k]) * s[i, k]

    Args:
        num_classes: int. Number of classes, at least 1.
        temperature: float or `None`. Sharpness of the spatial softmax, above
            0. `None` takes its limit, the maximum over positions (eq. 9).
        residual_weight: float. Share of the attended score, `lambda` above.
        pooling: str. `"residual"` is the formula above; `"average"` keeps its
            first term only, `"spatial"` its sum over positions only, without
            lambda (the paper's Table 6).
        normalize: bool. Whether the classifiers are scaled to unit norm
            (section 3.4 and Table 8).

    Call arguments:
        features: Float tensor of shape `(batch, height, width, channels)`.
            Height and width may change from call to call.
        attention_only: bool. Whether to return the spatial softmax in place
            of the logits.

    Returns:
        Float tensor of shape `(batch, num_classes)`, the logits; or, with
        `attention_only`, of shape `(batch, height, width, num_classes)`: where
        each class is seen, eq. (2), with a sum of 1 over the positions. At
        the maximum (temperature `None`) the best positions share it.

    Raises:
        ValueError: If an argument is out of range, or `features` is not a
            rank-4 tensor with a known number of channels.

    Example:

    >>> head = ResidualAttention(num_classes=20)
    >>> tuple(head(ops.ones((2, 14, 14, 2048))).shape)
    (2, 20)
    """

    def __init__(
        self,
        num_classes,
        temperature=1.0,
        residual_weight=0.1,
        pooling="residual",
        normalize=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_classes < 1:
            raise ValueError(
                "`num_classes` must be at least 1. "
                f"Received: num_classes={num_classes}"
            )
        if temperature is not None and temperature <= 0:
            raise ValueError(
                "`temperature` must be above 0, or `None` for the maximum "
                f"over positions. Received: temperature={temperature}"
            )
        if pooling not in POOLINGS:
            raise ValueError(
                f"`pooling` must be one of {POOLINGS}. "
                f"Received: pooling={pooling!r}"
            )
        self.num_classes = num_classes
        self.temperature = temperature
        self.residual_weight = residual_weight
        self.pooling = pooling
        self.normalize = normalize

    def build(self, input_shape):
        if len(input_shape) != 4 or input_shape[-1] is None:
            raise ValueError(
                "`ResidualAttention` expects features of shape `(batch, "
                "height, width, channels)` with known channels. "
                f"Received: input_shape={input_shape}"
            )
        self.classifier = self.add_weight(
            name="classifier",
            shape=(input_shape[-1], self.num_classes),
            initializer="glorot_uniform",
        )

    def call(self, features, attention_only=False):
        directions = self.classifier
        if self.normalize:
            directions = ops.normalize(directions, axis=0)  # (C, K)
        scores = ops.matmul(features, directions)  # (B, H, W, K)
        attention = self._attention(scores)
        # Keras 3.15 cannot wire a second call with more outputs than the
        # first, hence the attention alone and not beside the logits.
        if attention_only:
            return attention
        if self.pooling == "average":
            logits = ops.mean(scores, axis=(1, 2))
        else:
            logits = ops.sum(attention * scores, axis=(1, 2))
        if self.pooling == "residual":
            average = ops.mean(scores, axis=(1, 2))
            logits = average + self.residual_weight * logits
        return logits

    def _attention(self, scores):
        """Applies eq. (2) over positions: `(B, H, W, K)`, sums of 1."""
        highest = ops.max(scores, axis=(1, 2), keepdims=True)
        if self.temperature is None:
            weights = ops.cast(scores == highest, scores.dtype)
        else:
            weights = ops.exp(self.temperature * (scores - highest))
        return weights / ops.sum(weights, axis=(1, 2), keepdims=True)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "temperature": self.temperature,
            "residual_weight": self.residual_weight,
            "pooling": self.pooling,
            "normalize": self.normalize,
        }
