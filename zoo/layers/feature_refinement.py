"""The feature refinement block of FAN."""

import keras
from keras import ops

POOLINGS = {"max": ops.max, "avg": ops.mean}


@keras.saving.register_keras_serializable(package="zoo")
class FeatureRefinement(keras.layers.Layer):
    """Weighs the channels of a fine level by what it and a coarse one hold.

    The coarse, high level knows what the image is about: it tells which
    channels of the fine, low level matter, such as those of small objects.

    Formula, from Yan et al. (2019),
    https://doi.org/10.1109/ACCESS.2019.2929512, eqs. (1) to (3), (7) and (9):

        z       = max over positions of concat(high, low)
        w       = W2 relu(W1 z + b1) + b2
        refined = low * sigmoid(w)

    Eq. (8) prints a softmax where the text around it and eq. (2) say sigmoid.
    With a softmax the channels would compete for a sum of 1, and a "value
    close to 1" could mark one channel only: this is the sigmoid.

    Args:
        pooling: str. `"max"`, or `"avg"` for the mean over positions (the
            paper's Table 6).
        hidden_units: int or `None`. Width of the hidden layer, at least 1,
            which the paper does not give; `None` takes the low level's
            channels.

    Call arguments:
        high: Float tensor of shape `(batch, height, width, high_channels)`.
            Its size may be another than that of `low`.
        low: Float tensor of shape `(batch, height, width, channels)`.

    Returns:
        Float tensor of the shape of `low`.

    Raises:
        ValueError: If `pooling` is neither `"max"` nor `"avg"`,
            `hidden_units` is below 1, or `high` or `low` is not a rank-4
            tensor with a known number of channels.

    Example:

    >>> refine = FeatureRefinement()
    >>> high, low = ops.ones((2, 7, 7, 512)), ops.ones((2, 14, 14, 256))
    >>> tuple(refine(high, low).shape)
    (2, 14, 14, 256)
    """

    def __init__(self, pooling="max", hidden_units=None, **kwargs):
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise ValueError(
                f"`pooling` must be one of {sorted(POOLINGS)}. "
                f"Received: pooling={pooling!r}"
            )
        if hidden_units is not None and hidden_units < 1:
            raise ValueError(
                "`hidden_units` must be at least 1, or `None`. "
                f"Received: hidden_units={hidden_units}"
            )
        self.pooling = pooling
        self.hidden_units = hidden_units

    def build(self, high_shape, low_shape):
        for shape in (high_shape, low_shape):
            if len(shape) != 4 or shape[-1] is None:
                raise ValueError(
                    "`FeatureRefinement` expects two maps of shape `(batch, "
                    "height, width, channels)` with known channels. Received: "
                    f"high_shape={high_shape}, low_shape={low_shape}"
                )
        channels = low_shape[-1]
        hidden_units = self.hidden_units or channels
        self.hidden = keras.layers.Dense(
            hidden_units, "relu", dtype=self.dtype_policy, name="hidden"
        )
        self.hidden.build((None, high_shape[-1] + channels))
        self.gate = keras.layers.Dense(
            channels, "sigmoid", dtype=self.dtype_policy, name="gate"
        )
        self.gate.build((None, hidden_units))

    def call(self, high, low):
        pool = POOLINGS[self.pooling]
        # Pooled before they are joined: the same numbers, without a copy of
        # both maps.
        context = ops.concatenate(
            [pool(features, axis=(1, 2)) for features in (high, low)], axis=-1
        )
        gate = self.gate(self.hidden(context))  # (B, C)
        return low * gate[:, None, None, :]

    def get_config(self):
        return {
            **super().get_config(),
            "pooling": self.pooling,
            "hidden_units": self.hidden_units,
        }
