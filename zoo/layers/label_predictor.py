"""The prediction layer of Order-Free RNN."""

import keras


@keras.saving.register_keras_serializable(package="zoo")
class LabelPredictor(keras.layers.Layer):
    """Gives the logits of all labels by two dense layers.

    Formula, `f_pred` of Chen et al. (2018), https://arxiv.org/abs/1707.05495,
    eq. (7), for `x = [v_pred, z, y, h]`:

        p = W_2 dropout(relu(W_1 x + b_1)) + b_2

    Args:
        units: int. Size of the hidden layer, at least 1.
        num_classes: int. Number of classes, at least 1.
        dropout: float in `[0, 1)`. Share of the hidden layer that is dropped
            in training. The paper has "the dropout rate at 0.8" and does not
            say where: here it is what is dropped, not kept, between the two
            layers.

    Call arguments:
        inputs: Float tensor of shape `(..., depth)`.
        training: bool or `None`. Whether to drop.

    Returns:
        Float32 tensor of shape `(..., num_classes)`, the logits.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from keras import ops
    >>> predictor = LabelPredictor(units=8, num_classes=20)
    >>> tuple(predictor(ops.ones((2, 5))).shape)
    (2, 20)
    """

    def __init__(self, units, num_classes, dropout=0.8, **kwargs):
        super().__init__(**kwargs)
        for name, value in (("units", units), ("num_classes", num_classes)):
            if value < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={value}"
                )
        if not 0 <= dropout < 1:
            raise ValueError(
                f"`dropout` must be in [0, 1). Received: dropout={dropout}"
            )
        self.units = units
        self.num_classes = num_classes
        self.dropout = dropout
        self.hidden = keras.layers.Dense(
            units, "relu", dtype=self.dtype_policy, name="hidden"
        )
        self.drop = keras.layers.Dropout(
            dropout, dtype=self.dtype_policy, name="drop"
        )
        # float32 also under mixed precision: the loss exponentiates its input.
        self.logits = keras.layers.Dense(
            num_classes, dtype="float32", name="logits"
        )

    def build(self, inputs_shape):
        self.hidden.build(inputs_shape)
        self.logits.build((*inputs_shape[:-1], self.units))

    def call(self, inputs, training=None):
        hidden = self.drop(self.hidden(inputs), training=training)
        return self.logits(hidden)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "num_classes": self.num_classes,
            "dropout": self.dropout,
        }
