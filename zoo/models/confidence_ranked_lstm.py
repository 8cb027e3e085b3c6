"""The recurrent part of Order-Free RNN: step by step, or by a search."""

import keras
from keras import ops

from zoo.beam_search import beam_search
from zoo.layers import CandidatePool, LabelPredictor, SoftAttentionLSTMCell


@keras.saving.register_keras_serializable(package="zoo")
class ConfidenceRankedLSTM(keras.layers.Layer):
    """Takes labels one after the other, the most confident one first.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1707.05495, eqs.
    (6), (7), (9), (10), where `z[t]` is what `SoftAttentionLSTMCell` attends
    to, `y[t]` the labels taken so far, and `C[t]` the labels not taken:

        v[1] = sigmoid(guess),  v[t] = sigmoid(p[t-1])
        h[t] = LSTM(v[t], z[t], y[t-1], h[t-1])
        p[t] = f_pred(v[t], z[t], y[t-1], h[t])
        l[t] = argmax_{C[t]} p[t],  y[t] = y[t-1] + l[t]

    Args:
        num_classes, max_labels, attention, units, dropout, beam_width,
        threshold: see `order_free_rnn`.

    Call arguments:
        features: Float tensor of shape `(batch, height, width, channels)`.
        guess: Float tensor of shape `(batch, num_classes)`, logits.
        search: bool. Whether to search for the best path, or to take every
            step of a single one, for training and for pictures.
        labels: int tensor of shape `(batch, max_labels)` or `None`. The labels
            to take where `search` is false, -1 for none; `None`: the most
            confident ones.
        beam_width: int or `None` for the layer's own.
        threshold: float or `None` for the layer's own.

    Returns:
        With `search`, the dict of `order_free_rnn`, and of the best path of
        each length `paths` and `path_probabilities`, see `zoo.beam_search`.
        Without, a dict: `step_logits`, float32 `(batch, max_labels,
        num_classes)`; `attention`, `(batch, max_labels, height, width)`, with
        a sum of 1 over the positions.
    """

    def __init__(
        self,
        num_classes,
        max_labels,
        attention=True,
        units=512,
        dropout=0.8,
        beam_width=3,
        threshold=0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 1 <= max_labels <= num_classes:
            raise ValueError(
                "`max_labels` must be from 1 to `num_classes`. Received: "
                f"max_labels={max_labels}, num_classes={num_classes}"
            )
        if beam_width < 1:
            raise ValueError(
                f"`beam_width` must be at least 1. "
                f"Received: beam_width={beam_width}"
            )
        if not 0 <= threshold <= 1:
            raise ValueError(
                f"`threshold` must be from 0 to 1. "
                f"Received: threshold={threshold}"
            )
        self.num_classes = num_classes
        self.max_labels = max_labels
        self.attention = attention
        self.units = units
        self.dropout = dropout
        self.beam_width = beam_width
        self.initial_threshold = threshold
        dtype = self.dtype_policy
        self.cell = SoftAttentionLSTMCell(
            units, attention=attention, dtype=dtype, name="cell"
        )
        self.predictor = LabelPredictor(
            units, num_classes, dropout, dtype=dtype, name="predictor"
        )
        self.pool = CandidatePool(dtype=dtype, name="pool")

    def build(self, features_shape, guess_shape):
        channels = features_shape[-1]
        self.cell.build(
            (None, 2 * self.num_classes), [None, None, (None, None, channels)]
        )
        self.predictor.build(
            (None, 2 * self.num_classes + channels + self.units)
        )
        # A weight, so that it is saved with the model and served with it.
        self.threshold = self.add_weight(
            name="threshold",
            shape=(),
            initializer=keras.initializers.Constant(self.initial_threshold),
            trainable=False,
        )

    def call(
        self,
        features,
        guess,
        search=True,
        labels=None,
        beam_width=None,
        threshold=None,
        training=None,
    ):
        shape = ops.shape(features)
        positions = ops.reshape(features, (shape[0], -1, shape[-1]))
        state = self.cell.initial_state(positions)
        guess = ops.cast(guess, "float32")
        if search:
            return self._search(
                guess,
                state,
                self.beam_width if beam_width is None else beam_width,
                self.threshold if threshold is None else threshold,
            )
        logits, attention = self._steps(guess, state, labels, training)
        height, width = shape[1:3]
        if not self.attention:  # the mean weighs all positions alike
            attention = ops.repeat(attention, height * width, axis=-1)
            attention /= ops.cast(height * width, attention.dtype)
        return {
            "step_logits": logits,
            "attention": ops.reshape(
                attention, (shape[0], self.max_labels, height, width)
            ),
        }

    # Keras would trace the whole search to learn these.
    def compute_output_spec(
        self, features, guess, search=True, labels=None, **others
    ):
        batch, height, width, _ = features.shape
        classes, labels = self.num_classes, self.max_labels

        def spec(*shape, dtype="float32"):
            return keras.KerasTensor((batch, *shape), dtype)

        if not search:
            return {
                "step_logits": spec(labels, classes),
                "attention": spec(labels, height, width),
            }
        return {
            "logits": spec(classes),
            "mean_logits": spec(classes),
            "sequence": spec(labels, dtype="int32"),
            "sequence_probabilities": spec(labels),
            "paths": spec(labels, labels, dtype="int32"),
            "path_probabilities": spec(labels),
        }

    def _step(self, logits, taken, state, training=None):
        """Guesses again: logits and `taken` `(rows, num_classes)` to logits."""
        seen = ops.concatenate([ops.sigmoid(logits), taken], axis=-1)
        seen = ops.cast(seen, self.compute_dtype)
        output, state = self.cell(seen, state, training=training)
        inputs = ops.concatenate([seen, output], axis=-1)  # v, y, z, h
        return self.predictor(inputs, training=training), state

    def _steps(self, guess, state, labels, training):
        """Takes `max_labels` steps on one path an image."""
        taken = ops.zeros_like(guess)
        logits, all_logits, all_attention = guess, [], []
        for t in range(self.max_labels):
            _, attention = self.cell.attend(state[0], state)
            logits, state = self._step(logits, taken, state, training)
            if labels is None:
                _, taken = self.pool(logits, taken)
            else:
                label = ops.one_hot(labels[:, t], self.num_classes)
                taken = ops.maximum(taken, label)
            all_logits.append(logits)
            all_attention.append(attention)
        attention = ops.stack(all_attention, axis=1)
        return ops.stack(all_logits, axis=1), attention

    def _search(self, guess, state, beam_width, threshold):
        hidden, carry, *image = state  # what follows is the same at each step

        def step(taken, state):
            def rows(x):  # all beams of all images are one batch
                return ops.reshape(x, (-1, x.shape[-1]))

            def beams(x):
                return ops.reshape(x, (-1, beam_width, x.shape[-1]))

            logits, (hidden, carry, *_) = self._step(
                rows(state["logits"]),
                rows(taken),
                [rows(state["hidden"]), rows(state["carry"]), *image],
                training=False,
            )
            logits = beams(logits)
            return ops.log_sigmoid(logits), {
                "logits": logits,
                "total": state["total"] + logits,
                "hidden": beams(hidden),
                "carry": beams(carry),
            }

        found = beam_search(
            step,
            {
                "logits": guess,
                "total": ops.zeros_like(guess),
                "hidden": hidden,
                "carry": carry,
            },
            self.num_classes,
            self.max_labels,
            beam_width,
            threshold,
        )
        # The step that ended a path took no label.
        num_steps = ops.minimum(found.lengths + 1, self.max_labels)
        num_steps = ops.cast(num_steps, "float32")[:, None]
        return {
            "logits": found.state["logits"],
            "mean_logits": found.state["total"] / num_steps,
            "sequence": found.labels,
            "sequence_probabilities": found.probabilities,
            "paths": found.paths,
            "path_probabilities": found.path_probabilities,
        }

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "max_labels": self.max_labels,
            "attention": self.attention,
            "units": self.units,
            "dropout": self.dropout,
            "beam_width": self.beam_width,
            "threshold": self.initial_threshold,
        }
