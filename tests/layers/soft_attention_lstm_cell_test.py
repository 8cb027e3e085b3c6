import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from tests.contract import check_layer
from zoo.layers import SoftAttentionLSTMCell

BATCH, STEPS, DEPTH, POSITIONS, CHANNELS, UNITS = 3, 4, 6, 9, 7, 5


def normal(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype("float32")


def features():
    return normal(BATCH, POSITIONS, CHANNELS)


def sequence(seed=1):
    return normal(BATCH, STEPS, DEPTH, seed=seed)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(cell, features, sequence):
    """Chen et al. (2018), eqs. (4) to (6), and the gates of an LSTM."""
    outputs = []
    for v, inputs in zip(features, sequence, strict=True):
        mean = v.mean(axis=0)
        h, c = (
            np.tanh(mean @ np.array(dense.kernel) + np.array(dense.bias))
            for dense in (cell.initial_hidden, cell.initial_carry)
        )
        for x in inputs:
            z = attended(cell, v, h) if cell.attention else mean
            gates = np.concatenate([x, z]) @ np.array(cell.lstm.kernel)
            gates += h @ np.array(cell.lstm.recurrent_kernel)
            i, f, g, o = np.split(gates + np.array(cell.lstm.bias), 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            outputs.append(np.concatenate([z, h]))
    return np.reshape(outputs, (len(features), sequence.shape[1], -1))


def attended(cell, v, h):
    w_v, w_h, w = cell.soft_attention.get_weights()
    e = [float(np.tanh(x @ w_v + h @ w_h) @ w[:, 0]) for x in v]
    return np.exp(e) / np.exp(e).sum() @ v


def stepwise(cell, states, sequence):
    """Calls the cell step by step: its outputs, and the states at the end."""
    outputs = []
    for t in range(sequence.shape[1]):
        output, states = cell(sequence[:, t], states)
        outputs.append(output)
    return ops.stack(outputs, axis=1), states


@keras.saving.register_keras_serializable(package="tests")
class Unrolled(keras.layers.Layer):
    """The cell in an `RNN`, from its own initial state."""

    def __init__(self, units, attention_units=None, attention=True, **kwargs):
        super().__init__(**kwargs)
        self.cell = SoftAttentionLSTMCell(
            units, attention_units, attention, dtype=self.dtype_policy
        )
        self.rnn = keras.layers.RNN(
            self.cell, return_sequences=True, dtype=self.dtype_policy
        )

    def build(self, sequence_shape, features_shape):
        states_shape = [None, None, features_shape]
        self.cell.build((None, sequence_shape[-1]), states_shape)

    def call(self, sequence, features):
        return self.rnn(
            sequence, initial_state=self.cell.initial_state(features)
        )

    def get_config(self):
        config = self.cell.get_config()
        keys = ("units", "attention_units", "attention")
        return {**super().get_config(), **{key: config[key] for key in keys}}


class SoftAttentionLSTMCellTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(True, False)
    def test_contract(self, attention):
        # Not trainable: its initial state has weights that no step uses.
        cell = SoftAttentionLSTMCell(UNITS, 4, attention, trainable=False)
        image = [(3, 9, 7), (3, 9, 4)] if attention else [(3, 1, 7)]
        shapes = [(3, DEPTH), [(3, UNITS), (3, UNITS), *image]]
        check_layer(cell, shapes, self.get_temp_dir())

    @parameterized.parameters(True, False)
    def test_contract_from_its_initial_state(self, attention):
        layer = Unrolled(UNITS, 4, attention)
        shapes = [(BATCH, STEPS, DEPTH), (BATCH, POSITIONS, CHANNELS)]
        check_layer(layer, shapes, self.get_temp_dir())
        self.assertLen(layer.trainable_weights, 10 if attention else 7)

    @parameterized.parameters((None, True), (4, True), (None, False))
    def test_matches_paper(self, attention_units, attention):
        cell = SoftAttentionLSTMCell(UNITS, attention_units, attention)
        states = cell.initial_state(features())
        outputs, _ = stepwise(cell, states, sequence())
        expected = reference(cell, features(), sequence())
        self.assertAllClose(outputs, expected, rtol=1e-5, atol=1e-5)

    @parameterized.product(
        attention=(True, False),
        dtype=("float32", "mixed_bfloat16"),
        unroll=(True, False),
    )
    def test_runs_in_keras_rnn(self, attention, dtype, unroll):
        cell = SoftAttentionLSTMCell(UNITS, 4, attention, dtype=dtype)
        rnn = keras.layers.RNN(
            cell,
            return_sequences=True,
            return_state=True,
            unroll=unroll,
            dtype=dtype,
        )
        states = cell.initial_state(features())
        outputs, *last = rnn(sequence(), initial_state=states)
        self.assertEqual(outputs.shape, (BATCH, STEPS, CHANNELS + UNITS))
        shape, *_ = rnn.compute_output_shape(sequence().shape)
        self.assertEqual(shape, outputs.shape)
        self.assertEqual(cell.state_size[:2], [UNITS, UNITS])
        self.assertLen(cell.state_size, len(states))
        expected, expected_last = stepwise(cell, states, sequence())
        self.assertAllClose(outputs, expected)
        self.assertAllClose(last, expected_last)
        for state, first in zip(last[2:], states[2:], strict=True):
            self.assertAllEqual(state, first)

    @parameterized.parameters(True, False)
    def test_rows_of_an_image_share_it(self, attention):
        cell = SoftAttentionLSTMCell(UNITS, attention=attention)
        hidden, carry, *image = cell.initial_state(features())
        runs = [sequence(seed) for seed in (1, 2, 3)]
        expected = [
            stepwise(cell, [hidden, carry, *image], run)[0] for run in runs
        ]
        rows = np.stack(runs, axis=1).reshape(3 * BATCH, STEPS, DEPTH)
        first = [ops.repeat(x, 3, axis=0) for x in (hidden, carry)]
        outputs, _ = stepwise(cell, [*first, *image], rows)
        expected = np.reshape(np.stack(expected, axis=1), outputs.shape)
        self.assertAllClose(outputs, expected, rtol=1e-5, atol=1e-6)

    @parameterized.parameters(True, False)
    def test_attends_as_it_steps(self, attention):
        cell = SoftAttentionLSTMCell(UNITS, attention=attention)
        states = cell.initial_state(features())
        context, weights = cell.attend(states[0], states)
        output, _ = cell(sequence()[:, 0], states)
        self.assertAllClose(context, output[:, :CHANNELS])
        positions = POSITIONS if attention else 1
        self.assertEqual(weights.shape, (BATCH, positions))
        self.assertAllClose(tf.reduce_sum(weights, axis=1), np.ones(BATCH))

    @parameterized.parameters(True, False)
    def test_any_batch_and_map_in_one_graph(self, attention):
        cell = SoftAttentionLSTMCell(UNITS, attention=attention)
        cell.build((None, DEPTH), [None, None, (None, None, CHANNELS)])

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, None, CHANNELS)),
                tf.TensorSpec((None, STEPS, DEPTH)),
            ]
        )
        def run(features, sequence):
            states = cell.initial_state(features)
            return stepwise(cell, states, sequence)[0]

        for batch, positions in ((1, 4), (3, 9)):
            v, x = features()[:batch, :positions], sequence()[:batch]
            expected = reference(cell, v, x)
            self.assertAllClose(run(v, x), expected, rtol=1e-5, atol=1e-5)

    @parameterized.parameters("initial_state", "call")
    def test_all_weights_are_there_from_the_first_use(self, use):
        cell = SoftAttentionLSTMCell(UNITS)
        if use == "initial_state":
            states = cell.initial_state(features())
            self.assertLen(cell.weights, 7)
        else:
            hidden, keys = normal(3, UNITS), normal(3, 9, UNITS)
            states = [hidden, hidden, features(), keys]
        cell(sequence()[:, 0], states)
        self.assertLen(cell.weights, 10)

    def test_a_saved_rnn_knows_the_features(self):
        fresh = keras.layers.RNN(SoftAttentionLSTMCell(UNITS, 4))
        rnn = keras.layers.RNN.from_config(fresh.get_config())
        cell = rnn.cell
        expected = rnn(sequence(), initial_state=cell.initial_state(features()))
        config = keras.saving.serialize_keras_object(rnn)
        loaded = keras.saving.deserialize_keras_object(config)
        loaded.set_weights(rnn.get_weights())
        states = loaded.cell.initial_state(features())
        self.assertAllClose(loaded(sequence(), initial_state=states), expected)

    def test_mean_and_attention_differ(self):
        with_attention = SoftAttentionLSTMCell(UNITS)
        states = with_attention.initial_state(features())
        context, _ = with_attention.attend(states[0], states)
        self.assertNotAllClose(context, features().mean(axis=1))

    def test_names_a_bad_argument(self):
        for name in ("units", "attention_units"):
            with self.assertRaisesRegex(ValueError, f"Received: {name}=0"):
                SoftAttentionLSTMCell(**{"units": UNITS, name: 0})

    def test_names_a_bad_shape(self):
        cell = SoftAttentionLSTMCell(UNITS)
        with self.assertRaisesRegex(ValueError, r"Received: shape=\(3, 7\)"):
            cell.initial_state(normal(3, 7))
        states = cell.initial_state(features())
        with self.assertRaisesRegex(ValueError, "Received: inputs_shape="):
            cell(sequence(), states)

    def test_needs_an_image(self):
        rnn = keras.layers.RNN(SoftAttentionLSTMCell(UNITS))
        with self.assertRaisesRegex(ValueError, "call `initial_state` first"):
            rnn(sequence())
        rnn.cell.initial_state(features())
        with self.assertRaisesRegex(ValueError, "Received: initial_state=None"):
            rnn(sequence())
        with self.assertRaisesRegex(ValueError, "Received: features=<Keras"):
            rnn.cell.initial_state(keras.Input((None, CHANNELS)))
