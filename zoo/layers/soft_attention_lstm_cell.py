"""The recurrent cell of Order-Free RNN: an LSTM that looks at an image."""

import keras
from keras import ops

from zoo.layers.soft_attention import SoftAttention


@keras.saving.register_keras_serializable(package="zoo")
class SoftAttentionLSTMCell(keras.layers.Layer):
    """Looks at an image by its hidden state, then takes an LSTM's step.

    The image is a part of the state: a step hands it back as it is. So the
    cell runs in `keras.layers.RNN`, with `initial_state=cell.initial_state(
    features)`, as well as one step at a time. Rows may be several to an image,
    such as the beams of a search; they are one batch to the LSTM and share the
    features of their image without a copy.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1707.05495, eqs.
    (4) to (6), with the first state of Xu et al. (2015),
    https://arxiv.org/abs/1502.03044, for features `V` and an input `x`:

        h[0], c[0] = tanh(W_h mean(V) + b_h), tanh(W_c mean(V) + b_c)
        z[t]       = attention(V, h[t-1]), see `SoftAttention`
        h[t], c[t] = LSTM([x[t], z[t]], h[t-1], c[t-1])

    Args:
        units: int. Size of the hidden state, at least 1.
        attention_units: int or `None`. Units of the attention, at least 1;
            `None` takes `units`.
        attention: bool. `False` is the paper's ablation: `z` is the mean of
            the features at every step.

    Call arguments:
        inputs: Float tensor of shape `(rows, depth)`, where rows are `batch *
            queries` and those of an image stand beside each other. Order-Free
            RNN gives `[v_pred, y]`, its confidences and the labels so far.
        states: List of float tensors. `hidden` and `carry`, `(rows, units)`;
            then `features`, `(batch, positions, channels)`, and `keys`,
            `(batch, positions, attention_units)`; or, without attention,
            `mean`, `(batch, 1, channels)`, in place of these two.

    Returns:
        A pair: the output `[z, h]`, of shape `(rows, channels + units)`, both
        of which the prediction of eq. (7) needs; and the list of new states.

    Raises:
        ValueError: If an argument is out of range or a shape not as above; if
            the cell runs in `keras.layers.RNN` without an initial state.

    Example:

    >>> cell = SoftAttentionLSTMCell(units=8)
    >>> states = cell.initial_state(ops.ones((2, 49, 16)))
    >>> output, states = cell(ops.ones((2, 5)), states)
    >>> tuple(output.shape)
    (2, 24)
    """

    def __init__(self, units, attention_units=None, attention=True, **kwargs):
        super().__init__(**kwargs)
        if attention_units is None:
            attention_units = units
        for name, value in (
            ("units", units),
            ("attention_units", attention_units),
        ):
            if value < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={value}"
                )
        self.units = units
        self.attention_units = attention_units
        self.attention = attention
        self.channels = None  # until the features are known
        dtype = self.dtype_policy
        self.initial_hidden = keras.layers.Dense(
            units, "tanh", dtype=dtype, name="initial_hidden"
        )
        self.initial_carry = keras.layers.Dense(
            units, "tanh", dtype=dtype, name="initial_carry"
        )
        if attention:
            self.soft_attention = SoftAttention(
                attention_units, dtype=dtype, name="attention"
            )
        self.lstm = keras.layers.LSTMCell(units, dtype=dtype, name="lstm")

    @property
    def state_size(self):
        """Sizes of the states; `None` where the image decides."""
        image = [None, None] if self.attention else [None]
        return [self.units, self.units, *image]

    @property
    def output_size(self):
        """Size of the output, once the features are known."""
        return self.channels + self.units

    def build(self, inputs_shape, states_shape=None):
        # `keras.layers.RNN` gives no `states_shape`, but its caller has
        # called `initial_state` before.
        if states_shape is not None:
            self._build_for_features(states_shape[2])
        if self.channels is None:
            raise ValueError(
                "`SoftAttentionLSTMCell` must know the features: call "
                "`initial_state` first. "
                f"Received: states_shape={states_shape}"
            )
        if len(inputs_shape) != 2 or inputs_shape[-1] is None:
            raise ValueError(
                "`SoftAttentionLSTMCell` expects inputs of shape `(rows, "
                "depth)` with known depth. "
                f"Received: inputs_shape={inputs_shape}"
            )
        self.lstm.build((None, inputs_shape[-1] + self.channels))

    def _build_for_features(self, shape):
        if len(shape) != 3 or shape[-1] is None:
            raise ValueError(
                "`SoftAttentionLSTMCell` expects features of shape `(batch, "
                "positions, channels)` with known channels. "
                f"Received: shape={tuple(shape)}"
            )
        if self.channels is not None:
            return
        self.channels = shape[-1]
        self.initial_hidden.build((None, self.channels))
        self.initial_carry.build((None, self.channels))
        if self.attention:
            self.soft_attention.build(shape, (None, None, self.units))

    # `keras.layers.RNN` builds the cell by its inputs alone; a saved file must
    # know the features too.
    def get_build_config(self):
        config = super().get_build_config()  # `None` before `build`
        return config and {**config, "channels": self.channels}

    def build_from_config(self, config):
        self._build_for_features((None, None, config["channels"]))
        super().build_from_config(config)

    def initial_state(self, features):
        """Gives the state before the first step, which holds the image.

        Args:
            features: Float tensor of shape `(batch, positions, channels)`; in
                a functional model, in the `call` of a layer.

        Returns:
            The list `states` above, with one row for each image.
        """
        if isinstance(features, keras.KerasTensor):
            # The model's file would hold the weights that are used here
            # outside of the cell, and could not be loaded.
            raise ValueError(
                "In a functional model, `initial_state` must be called in the "
                f"`call` of a layer. Received: features={features}"
            )
        features = ops.convert_to_tensor(features, self.compute_dtype)
        self._build_for_features(features.shape)
        mean = ops.mean(features, axis=1)
        if self.attention:
            image = [features, self.soft_attention.project(features)]
        else:
            image = [mean[:, None]]
        return [self.initial_hidden(mean), self.initial_carry(mean), *image]

    def get_initial_state(self, batch_size=None):
        """Refuses `keras.layers.RNN`'s request for a state of zeros."""
        raise ValueError(
            "`SoftAttentionLSTMCell` starts from an image: call `RNN` with "
            "`initial_state=cell.initial_state(features)`. "
            "Received: initial_state=None"
        )

    def attend(self, hidden, states):
        """Gives what a step from this hidden state looks at.

        Args:
            hidden: Float tensor of shape `(rows, units)`.
            states: List of states, of which the image is taken.

        Returns:
            A pair: the context, of shape `(rows, channels)`, and the attention,
            float32 `(rows, positions)`, with a sum of 1 over the positions.
            Without attention the mean is the only position.
        """
        features, *keys = states[2:]
        rows, batch = ops.shape(hidden)[0], ops.shape(features)[0]
        queries = ops.reshape(hidden, (batch, -1, self.units))  # (B, Q, U)
        if self.attention:
            context, attention = self.soft_attention(features, queries, *keys)
        else:
            attention = ops.ones_like(queries[..., :1])
            context = ops.matmul(attention, features)
            attention = ops.cast(attention, "float32")  # as `SoftAttention`
        return (
            ops.reshape(context, (rows, self.channels)),
            ops.reshape(attention, (rows, ops.shape(features)[1])),
        )

    def call(self, inputs, states, training=None):
        hidden, carry, *image = states
        context, _ = self.attend(hidden, states)
        _, (hidden, carry) = self.lstm(
            ops.concatenate([inputs, context], axis=-1),
            [hidden, carry],
            training=training,
        )
        output = ops.concatenate([context, hidden], axis=-1)
        return output, [hidden, carry, *image]

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "attention_units": self.attention_units,
            "attention": self.attention,
        }
