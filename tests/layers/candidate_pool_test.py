import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.layers import CandidatePool


def reference(p, taken):
    """Chen et al. (2018), eqs. (9) and (10), one row and label at a time."""
    labels, taken = [], taken.copy()
    for row, logits in zip(taken, p, strict=True):
        candidates = [i for i in range(len(row)) if not row[i]]
        label = candidates[0]
        for i in candidates:
            if logits[i] > logits[label]:
                label = i
        row[label] = 1
        labels.append(label)
    return labels, taken


def take_all(logits, dtype="float32"):
    """Takes as many labels as there are: `(rows, num_classes)`."""
    taken = tf.zeros_like(logits, "float32")
    labels = []
    for _ in range(logits.shape[-1]):
        label, taken = CandidatePool(dtype=dtype)(logits, taken)
        labels.append(label)
    return tf.stack(labels, axis=-1), taken


LOGITS = {
    "normal": np.random.default_rng(0).normal(size=(3, 8)),
    "equal": np.zeros((3, 8)),
    "huge": 1e38 * np.random.default_rng(0).normal(size=(3, 8)),
    "lowest": np.full((3, 8), -3.4028235e38),
    "minus_infinity": np.full((3, 8), -np.inf),
    "infinity": np.full((3, 8), np.inf),
    "not_a_number": np.full((3, 8), np.nan),
}


class CandidatePoolTest(parameterized.TestCase, tf.test.TestCase):
    def test_contract(self):
        check_layer(CandidatePool(), [(3, 8), (3, 8)], self.get_temp_dir())

    def test_matches_paper(self):
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(6, 8)).astype("float32")
        taken = (rng.uniform(size=(6, 8)) < 0.6).astype("float32")
        taken[:, 7] = 0
        label, new = CandidatePool()(logits, taken)
        expected_label, expected = reference(logits, taken)
        self.assertEqual(label.dtype, tf.int32)
        self.assertAllEqual(label, expected_label)
        self.assertAllEqual(new, expected)

    @parameterized.product(
        kind=list(LOGITS),
        dtype=("float32", "mixed_bfloat16", "mixed_float16"),
        logits_dtype=("float32", "bfloat16", "float16"),
    )
    def test_never_takes_a_label_twice(self, kind, dtype, logits_dtype):
        logits = tf.cast(LOGITS[kind].astype("float32"), logits_dtype)
        labels, taken = take_all(logits, dtype)
        self.assertAllEqual(np.sort(labels), [range(8)] * 3)
        self.assertAllEqual(taken, np.ones((3, 8)))

    def test_the_first_of_equal_labels(self):
        labels, _ = take_all(tf.constant([[1.0, 2.0, 2.0, 1.0]]))
        self.assertAllEqual(labels, [[1, 2, 0, 3]])

    def test_infinite_and_missing_logits_have_their_order(self):
        logits = [[np.nan, -np.inf, 0.0, np.inf, -1e38]]
        labels, _ = take_all(tf.constant(logits))
        self.assertAllEqual(labels, [[3, 2, 4, 0, 1]])

    def test_tells_near_logits_apart_under_mixed_precision(self):
        logits = tf.constant([[1.0, 1.0001]])
        pool = CandidatePool(dtype="mixed_bfloat16")
        label, _ = pool(logits, tf.zeros((1, 2)))
        self.assertAllEqual(label, [1])

    def test_no_label_is_left(self):
        taken = tf.constant([[1.0, 1.0], [1.0, 0.0]])
        label, new = CandidatePool()(tf.constant([[3.0, 1.0]] * 2), taken)
        self.assertAllEqual(label, [-1, 1])
        self.assertAllEqual(new, np.ones((2, 2)))

    def test_the_choice_has_no_gradient(self):
        logits = tf.Variable([[3.0, 1.0]])
        with tf.GradientTape() as tape:
            _, taken = CandidatePool()(logits, tf.zeros((1, 2)))
        self.assertIsNone(tape.gradient(taken, logits))
