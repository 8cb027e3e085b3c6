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
        num_classes: int. Number of classes.
        max_labels: int from 1 to `num_classes`. Longest sequence, the paper's
            T.
        attention: bool. `False` replaces `z` by the mean of the features.
        units: int. Size of the hidden state, of the attention and of the
            predictor's hidden layer.
        dropout: float in `[0, 1)`. Share that the predictor drops.
        beam_width: int, at least 1. Paths that the search keeps.
        threshold: float from 0 to 1. Least probability of a path, at first:
            it is a weight, `layer.threshold`, to assign to.

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
        num_classes)`; `labels`, int32 `(batch, max_labels)`, what was taken;
        `attention`, float32 `(batch, max_labels, height, width)`, with a sum
        of 1 over the positions.

    Raises:
        ValueError: If an argument is out of its range, `features` is not a
            rank-4 tensor with known channels, or `guess` has another number
            of classes.
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
        _check_width(beam_width)
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
        self._check_shapes(features_shape, guess_shape)
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
            autocast=False,  # half precision would round it
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
        logits, labels, attention = self._steps(guess, state, labels, training)
        height, width = shape[1:3]
        if not self.attention:  # the mean weighs all positions alike
            attention = ops.repeat(attention, height * width, axis=-1)
            attention /= ops.cast(height * width, "float32")
        return {
            "step_logits": logits,
            "labels": labels,
            "attention": ops.reshape(
                attention, (shape[0], self.max_labels, height, width)
            ),
        }

    # Keras would trace the whole search to learn these.
    def compute_output_spec(
        self, features, guess, search=True, beam_width=None, **others
    ):
        self._check_shapes(features.shape, guess.shape)
        if beam_width is not None:
            _check_width(beam_width)
        batch, height, width, _ = features.shape
        classes, labels = self.num_classes, self.max_labels

        def spec(*shape, dtype="float32"):
            return keras.KerasTensor((batch, *shape), dtype)

        if not search:
            return {
                "step_logits": spec(labels, classes),
                "labels": spec(labels, dtype="int32"),
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

    def _check_shapes(self, features_shape, guess_shape):
        if len(features_shape) != 4 or features_shape[-1] is None:
            raise ValueError(
                "`ConfidenceRankedLSTM` expects features of shape `(batch, "
                "height, width, channels)` with known channels. "
                f"Received: features_shape={tuple(features_shape)}"
            )
        if len(guess_shape) != 2 or guess_shape[-1] != self.num_classes:
            raise ValueError(
                "`ConfidenceRankedLSTM` expects a guess of shape `(batch, "
                f"{self.num_classes})`. "
                f"Received: guess_shape={tuple(guess_shape)}"
            )

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
        logits, all_logits, all_labels, all_hidden = guess, [], [], []
        for t in range(self.max_labels):
            all_hidden.append(state[0])
            logits, state = self._step(logits, taken, state, training)
            if labels is None:
                label, taken = self.pool(logits, taken)
            else:
                label = labels[:, t]
                # -1 is no class, so a row of zeros.
                given = ops.one_hot(label, self.num_classes)
                taken = ops.maximum(taken, given)
            all_logits.append(logits)
            all_labels.append(label)
        # What each step looked at, for pictures: all steps are rows at once.
        hidden = ops.reshape(ops.stack(all_hidden, axis=1), (-1, self.units))
        _, attention = self.cell.attend(hidden, state)
        return (
            ops.stack(all_logits, axis=1),
            ops.stack(all_labels, axis=1),
            attention,
        )

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


def _check_width(beam_width):
    if beam_width < 1:
        raise ValueError(
            "`beam_width` must be at least 1. "
            f"Received: beam_width={beam_width}"
        )
