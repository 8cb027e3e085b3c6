import itertools

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from zoo.beam_search import beam_search

NUM_LABELS = 5
MAX_LENGTH = 3
UNITS = 4
EVERY_PATH = 5 * 4 * 3


def network():
    """Draws a network whose probabilities depend on the order of a path."""
    random = np.random.default_rng(0)
    shapes = ((UNITS, UNITS), (NUM_LABELS, UNITS), (UNITS, NUM_LABELS))
    return tuple(random.normal(size=shape, scale=1.5) for shape in shapes)


def initial(batch=6):
    hidden = np.random.default_rng(1).normal(size=(batch, UNITS))
    return {
        "hidden": ops.cast(hidden, "float32"),
        "before": ops.zeros((batch, NUM_LABELS)),
    }


def step(taken, state):
    recurrent, last, out = (ops.cast(x, "float32") for x in network())
    hidden = ops.tanh(
        ops.matmul(state["hidden"], recurrent)
        + ops.matmul(taken - state["before"], last)
    )
    log_probabilities = ops.log_sigmoid(ops.matmul(hidden, out))
    return log_probabilities, {"hidden": hidden, "before": taken}


def search(beam_width=2, threshold=0.0, state=None, step=step):
    state = initial() if state is None else state
    return beam_search(
        step, state, NUM_LABELS, MAX_LENGTH, beam_width, threshold
    )


def follow(hidden, path):
    """Gives the hidden state and the next probabilities after a path."""
    recurrent, last, out = network()
    hidden = np.tanh(hidden @ recurrent)
    for label in path:
        hidden = np.tanh(hidden @ recurrent + last[label])
    return hidden, 1 / (1 + np.exp(-hidden @ out))


def path_probability(hidden, path):
    """Chen et al. (2018), eq. (11), one factor at a time."""
    factors = [
        follow(hidden, path[:t])[1][label] for t, label in enumerate(path)
    ]
    return np.prod(factors), factors


def every_path(hidden, threshold):
    """Lists all paths, as brute force can: length, probability, labels."""
    paths = [
        (length, path_probability(hidden, path)[0], path)
        for length in range(MAX_LENGTH + 1)
        for path in itertools.permutations(range(NUM_LABELS), length)
    ]
    return [path for path in paths if path[1] >= threshold]


def few_paths(hidden, threshold, beam_width):
    """Lists all paths that a beam search meets, as `every_path`."""
    beams = met = [(0, 1.0, ())]
    for _ in range(MAX_LENGTH):
        successors = [
            (*path, label)
            for _, _, path in beams
            for label in range(NUM_LABELS)
            if label not in path
        ]
        beams = [
            (len(path), path_probability(hidden, path)[0], path)
            for path in successors
        ]
        beams = [beam for beam in beams if beam[1] >= threshold]
        beams = sorted(beams, key=lambda beam: -beam[1])[:beam_width]
        met = met + beams
    return met


def padded(values, padding):
    return [*values, *[padding] * (MAX_LENGTH - len(values))]


def constant_step(probabilities, beam_width):
    """Makes a step that gives an image's probabilities whatever the path.

    The state counts the steps.
    """
    log_probabilities = ops.log(ops.cast(probabilities, "float32"))

    def step(taken, state):
        return ops.repeat(log_probabilities[:, None], beam_width, 1), state + 1

    return step


class BeamSearchTest(parameterized.TestCase, tf.test.TestCase):
    def assertFound(self, found, met_by_image):
        """Compares everything with the paths that a reference met."""
        lengths = set()
        for i, met in enumerate(met_by_image):
            hidden = initial()["hidden"][i].numpy().astype("float64")
            length, _, path = max(met)
            lengths.add(length)
            factors = path_probability(hidden, path)[1]
            self.assertAllEqual(found.labels[i], padded(path, -1))
            self.assertAllClose(found.probabilities[i], padded(factors, 0))
            self.assertEqual(found.lengths[i], length)
            # The step that ended the path knew it all, step `MAX_LENGTH` did
            # not know the last label.
            known = path[: MAX_LENGTH - 1]
            self.assertAllClose(
                found.state["hidden"][i], follow(hidden, known)[0], atol=1e-5
            )
            self.assertAllEqual(
                found.state["before"][i], np.isin(range(NUM_LABELS), known)
            )
            for t in range(1, MAX_LENGTH + 1):
                _, probability, path = max(
                    (p for p in met if p[0] == t), default=(0, 0, ())
                )
                row = found.paths[i, t - 1]
                self.assertAllEqual(row, padded(path, -1))
                self.assertAllClose(
                    found.path_probabilities[i, t - 1], probability
                )
        return lengths

    @parameterized.parameters(0.0, 0.1, 0.5, 1.0)
    def test_full_width_finds_the_best_of_all_paths(self, threshold):
        hiddens = initial()["hidden"].numpy().astype("float64")
        lengths = self.assertFound(
            search(EVERY_PATH, threshold),
            [every_path(hidden, threshold) for hidden in hiddens],
        )
        if threshold == 0.5:  # several ends in one batch
            self.assertGreater(len(lengths), 1)

    @parameterized.product(beam_width=(1, 3), threshold=(0.0, 0.1, 0.5))
    def test_narrow_beams(self, beam_width, threshold):
        hiddens = initial()["hidden"].numpy().astype("float64")
        self.assertFound(
            search(beam_width, threshold),
            [few_paths(hidden, threshold, beam_width) for hidden in hiddens],
        )

    def test_width_matters(self):
        greedy, wide = search(1), search(EVERY_PATH)
        self.assertTrue(
            np.any(wide.path_probabilities > greedy.path_probabilities + 1e-3)
        )

    def test_one_search_tells_the_answer_for_every_threshold(self):
        found = search(3, 0.0)
        for threshold in np.linspace(0.01, 0.99, 20, dtype="float32"):
            lives = found.path_probabilities.numpy() >= threshold
            lengths = lives.sum(axis=1)
            self.assertAllEqual(lives, np.arange(MAX_LENGTH) < lengths[:, None])
            again = search(3, ops.convert_to_tensor(threshold))
            self.assertAllEqual(again.lengths, lengths)
            for i, length in enumerate(lengths):
                expected = found.paths[i, length - 1] if length else -1
                self.assertAllEqual(
                    again.labels[i], np.broadcast_to(expected, MAX_LENGTH)
                )

    @parameterized.parameters(1, 2, 7)
    def test_of_equals_the_lower_label_is_first(self, beam_width):
        step = constant_step(np.full((2, NUM_LABELS), 0.5), beam_width)
        found = search(beam_width, 0.0, ops.zeros(2), step)
        self.assertAllEqual(found.labels, [[0, 1, 2]] * 2)
        self.assertAllClose(found.path_probabilities, [[0.5, 0.25, 0.125]] * 2)

    def test_images_end_at_their_own_steps(self):
        probabilities = np.full((4, NUM_LABELS), 0.1)
        for i in range(1, 4):
            probabilities[i, -i:] = 0.9  # image i has i labels
        found = search(2, 0.7, ops.zeros(4), constant_step(probabilities, 2))
        self.assertAllEqual(found.lengths, [0, 1, 2, 3])
        self.assertAllEqual(
            found.labels, [[-1] * 3, [4, -1, -1], [3, 4, -1], [2, 3, 4]]
        )
        self.assertAllClose(
            found.probabilities, 0.9 * (found.labels.numpy() >= 0)
        )
        # One more step than labels, but never more than `max_length`.
        self.assertAllEqual(found.state, [1, 2, 3, 3])

    def test_stops_with_the_last_image(self):
        calls = []
        inner = constant_step([[0.9] * NUM_LABELS, [0.1] * NUM_LABELS], 2)

        def step(taken, state):
            calls.append(taken)
            return inner(taken, state)

        self.assertAllEqual(search(2, 0.85, ops.zeros(2), step).lengths, [1, 0])
        self.assertLen(calls, 2)

    def test_no_path_is_probable_enough(self):
        step = constant_step([[0.9] * NUM_LABELS], 2)
        found = search(2, 1, ops.zeros(1), step)
        self.assertAllEqual(found.lengths, [0])
        self.assertAllEqual(found.labels, [[-1] * MAX_LENGTH])
        self.assertAllEqual(found.probabilities, [[0] * MAX_LENGTH])
        self.assertAllEqual(found.paths, np.full((1, 3, 3), -1))
        self.assertAllEqual(found.path_probabilities, [[0] * MAX_LENGTH])
        self.assertAllEqual(found.state, [1])

    @parameterized.parameters(1, 2, 7)
    def test_takes_no_label_twice_and_none_of_probability_0(self, beam_width):
        step = constant_step([[0, 1, 0, 1, 0], [0, 0, 0, 0, 1]], beam_width)
        found = search(beam_width, 0.0, ops.zeros(2), step)
        self.assertAllEqual(found.labels, [[1, 3, -1], [4, -1, -1]])

    def test_takes_every_label(self):
        step = constant_step([[0.1, 0.9, 0.5]], 2)
        found = beam_search(step, ops.zeros(1), 3, 3, 2, 0.0)
        self.assertAllEqual(found.labels, [[1, 2, 0]])

    def test_a_path_at_the_threshold_lives(self):
        step = constant_step([[0.9, 0.9, 1, 0.9, 1]], 2)
        found = search(2, 1.0, ops.zeros(1), step)
        self.assertAllEqual(found.labels, [[2, 4, -1]])

    @parameterized.parameters("bfloat16", "float16")
    def test_multiplies_in_float32(self, dtype):
        def half_step(taken, state):
            log_probabilities = ops.full((2, 2, NUM_LABELS), -0.01, dtype)
            return log_probabilities, ops.cast(state + 1, dtype)

        found = search(2, 0.0, ops.zeros(2, dtype), half_step)
        self.assertEqual(found.probabilities.dtype, "float32")
        self.assertEqual(found.state.dtype, dtype)
        factor = float(np.exp(np.float64(ops.cast(-0.01, dtype))))
        self.assertAllClose(
            found.path_probabilities[0], [factor, factor**2, factor**3]
        )

    def test_in_a_graph_of_unknown_batch_size(self):
        spec = {
            "hidden": tf.TensorSpec((None, UNITS)),
            "before": tf.TensorSpec((None, NUM_LABELS)),
        }
        graph = tf.function(
            lambda state, threshold: search(3, threshold, state)
        ).get_concrete_function(spec, tf.TensorSpec(()))
        for batch in (6, 1):
            state = initial(batch)
            expected = search(3, 0.4, state)
            found = graph(state, tf.constant(0.4))
            for a, b in zip(
                tf.nest.flatten(found), tf.nest.flatten(expected), strict=True
            ):
                self.assertAllClose(a, b)
        shapes = [x.shape.as_list() for x in graph.structured_outputs[:3]]
        self.assertEqual(shapes, [[None, 3], [None, 3], [None]])

    def test_in_a_functional_model(self):
        class Search(keras.layers.Layer):
            def call(self, hidden):
                before = ops.zeros((ops.shape(hidden)[0], NUM_LABELS))
                state = {"hidden": hidden, "before": before}
                return search(3, 0.4, state)._asdict()

        hidden = keras.Input((UNITS,))
        model = keras.Model(hidden, Search()(hidden))
        self.assertEqual(model.output["labels"].shape, (None, MAX_LENGTH))
        self.assertEqual(model.output["labels"].dtype, "int32")
        self.assertEqual(model.output["state"]["hidden"].shape, (None, UNITS))
        hidden = initial()["hidden"].numpy()
        found = model.predict(hidden, batch_size=4, verbose=0)
        self.assertAllEqual(found["labels"], search(3, 0.4).labels)

    @parameterized.parameters(
        ({"max_length": 6}, "max_length=6, num_labels=5"),
        ({"max_length": 0}, "Received: max_length=0"),
        ({"beam_width": 0}, "Received: beam_width=0"),
        ({"threshold": 1.5}, "Received: threshold=1.5"),
        ({"threshold": -1}, "Received: threshold=-1"),
    )
    def test_names_a_bad_number(self, argument, message):
        numbers = {"max_length": 3, "beam_width": 2, "threshold": 0.5}
        with self.assertRaisesRegex(ValueError, message):
            beam_search(step, initial(), NUM_LABELS, **{**numbers, **argument})
