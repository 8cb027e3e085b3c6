"""Compares the losses with float64 loops, and checks their limits."""

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo.losses import (
    BalancedBinaryCrossentropy,
    BinaryCrossentropy,
    SoftmaxSquaredError,
)


def reference(targets, logits, unknown, smoothing=0.0):
    """Cross-entropy of each image, one class at a time, in float64."""
    losses = []
    for target_row, logit_row in zip(targets, logits, strict=True):
        terms = []
        for target, logit in zip(target_row, logit_row, strict=True):
            probability = 1 / (1 + np.exp(-np.float64(logit)))
            if target == -1 and unknown == "ignore":
                continue
            smooth = (target == 1) * (1 - smoothing) + smoothing / 2
            terms.append(
                -smooth * np.log(probability)
                - (1 - smooth) * np.log(1 - probability)
            )
        losses.append(np.mean(terms) if terms else 0.0)
    return losses


def balanced_reference(targets, logits, unknown):
    """Zhao et al. (2016), eq. (6), one class at a time, in float64."""
    losses = []
    for target_row, logit_row in zip(targets, logits, strict=True):
        positives, negatives = [], []
        for target, logit in zip(target_row, logit_row, strict=True):
            probability = 1 / (1 + np.exp(-np.float64(logit)))
            if target == 1:
                positives.append(-np.log(probability))
            elif target == 0 or unknown == "absent":
                negatives.append(-np.log(1 - probability))
        parts = [np.mean(part) for part in (positives, negatives) if part]
        losses.append(sum(parts))
    return losses


def softmax_reference(targets, scores, unknown):
    """Chen et al. (2018), eqs. (9) and (10), one class at a time."""
    losses = []
    for target_row, score_row in zip(targets, scores, strict=True):
        pairs = [
            (target == 1, np.exp(np.float64(score)))
            for target, score in zip(target_row, score_row, strict=True)
            if target != -1 or unknown == "absent"
        ]
        num_labels = sum(present for present, _ in pairs)
        total = sum(exponential for _, exponential in pairs)
        losses.append(
            sum(
                (exponential / total - present / num_labels) ** 2
                for present, exponential in pairs
            )
            if num_labels
            else 0.0
        )
    return losses


def random_problem():
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, (6, 5)).astype("float32")
    targets[0] = -1
    logits = rng.normal(scale=3, size=(6, 5)).astype("float32")
    return targets, logits


class BinaryCrossentropyTest(parameterized.TestCase, tf.test.TestCase):
    def tearDown(self):
        keras.config.set_dtype_policy("float32")
        super().tearDown()

    @parameterized.product(unknown=["absent", "ignore"], smoothing=[0.0, 0.2])
    def test_matches_reference(self, unknown, smoothing):
        targets, logits = random_problem()
        expected = reference(targets, logits, unknown, smoothing)
        loss = BinaryCrossentropy(unknown, smoothing, reduction=None)
        self.assertAllClose(loss(targets, logits), expected, rtol=1e-5)
        loss = BinaryCrossentropy(unknown, smoothing)
        self.assertAllClose(loss(targets, logits), np.mean(expected), 1e-5)

    def test_absent_is_the_default_and_the_same_as_zero(self):
        targets, logits = random_problem()
        self.assertAllEqual(
            BinaryCrossentropy()(targets, logits),
            BinaryCrossentropy("ignore")(np.maximum(targets, 0), logits),
        )

    @parameterized.parameters("absent", "ignore")
    def test_steps_share_the_targets_and_are_averaged(self, unknown):
        targets, logits = random_problem()
        steps = np.stack([logits, 2 * logits, -logits], axis=1)  # (B, T, K)
        expected = np.mean(
            [reference(targets, steps[:, t], unknown) for t in range(3)], axis=0
        )
        loss = BinaryCrossentropy(unknown, reduction=None)
        self.assertAllClose(loss(targets, steps), expected, rtol=1e-5)
        # Each step may have targets of its own.
        own = np.stack([targets, targets, targets], axis=1)
        self.assertAllClose(loss(own, steps), expected, rtol=1e-5)

    def test_ignored_entries_have_no_gradient(self):
        targets, logits = random_problem()
        variable = tf.Variable(logits)
        with tf.GradientTape() as tape:
            value = BinaryCrossentropy("ignore")(targets, variable)
        gradient = tape.gradient(value, variable).numpy()
        self.assertAllEqual(gradient == 0, targets == -1)

    @parameterized.parameters("absent", "ignore")
    def test_extreme_logits_are_finite(self, unknown):
        targets = np.array([[1, 0, -1, 1, 0, -1]], "float32")
        logits = tf.Variable([[1e4, 1e4, 1e4, -1e4, -1e4, -1e4]])
        with tf.GradientTape() as tape:
            value = BinaryCrossentropy(unknown)(targets, logits)
        wrong = 3 if unknown == "absent" else 2
        known = 6 if unknown == "absent" else 4
        self.assertAllClose(value, wrong * 1e4 / known)
        self.assertAllInRange(tape.gradient(value, logits), -1, 1)

    def test_is_float32_under_mixed_precision(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        targets, logits = random_problem()
        half = tf.cast(logits, "bfloat16")
        value = BinaryCrossentropy()(targets, half)
        self.assertEqual(value.dtype, "float32")
        exact = reference(targets, tf.cast(half, "float32").numpy(), "absent")
        self.assertAllClose(value, np.mean(exact), rtol=1e-5)

    def test_config_round_trip(self):
        loss = BinaryCrossentropy(
            "ignore", 0.1, name="loss", reduction="sum", dtype="float64"
        )
        config = keras.losses.serialize(loss)
        self.assertEqual(config["registered_name"], "zoo>BinaryCrossentropy")
        loaded = keras.losses.deserialize(config)
        self.assertIsInstance(loaded, BinaryCrossentropy)
        self.assertEqual(
            loaded.get_config(),
            {
                "name": "loss",
                "reduction": "sum",
                "dtype": "float64",
                "unknown": "ignore",
                "label_smoothing": 0.1,
            },
        )
        self.assertEqual(loaded.get_config(), loss.get_config())

    @parameterized.parameters(-0.1, 1.0)
    def test_names_a_bad_smoothing(self, smoothing):
        with self.assertRaisesRegex(
            ValueError, f"Received: label_smoothing={smoothing}"
        ):
            BinaryCrossentropy(label_smoothing=smoothing)

    def test_names_a_bad_unknown(self):
        with self.assertRaisesRegex(ValueError, "Received: unknown=present"):
            BinaryCrossentropy(unknown="present")


@parameterized.product(
    (
        {"kind": BalancedBinaryCrossentropy, "expected": balanced_reference},
        {"kind": SoftmaxSquaredError, "expected": softmax_reference},
    ),
    unknown=("absent", "ignore"),
)
class BalancedAndSoftmaxTest(parameterized.TestCase, tf.test.TestCase):
    def test_matches_paper(self, kind, expected, unknown):
        targets, logits = random_problem()
        targets[1:4] = [[0] * 5, [1] * 5, [1, -1, 1, -1, -1]]
        expected = expected(targets, logits, unknown)
        loss = kind(unknown, reduction=None)(targets, logits)
        self.assertAllClose(loss, expected, rtol=1e-5)
        self.assertAllClose(kind(unknown)(targets, logits), np.mean(expected))
        self.assertAllEqual(
            kind()(targets, logits), kind()(np.maximum(targets, 0), logits)
        )

    def test_extreme_logits_are_finite(self, kind, expected, unknown):
        targets = np.array([[1, 0, -1, 1, 0, -1], [-1] * 6], "float32")
        logits = tf.Variable([[1e4, 1e4, 1e4, -1e4, -1e4, -1e4]] * 2)
        with tf.GradientTape() as tape:
            value = kind(unknown)(targets, logits)
        self.assertAllInRange(value, 0.01, 2e4)
        gradient = tape.gradient(value, logits)
        self.assertAllInRange(gradient, -1, 1)

    def test_ignored_entries_have_no_gradient(self, kind, expected, unknown):
        targets = np.array([[1, 0, -1, 1], [-1] * 4, [0, 1, 0, 0]], "float32")
        logits = tf.Variable(np.arange(12, dtype="float32").reshape(3, 4) / 9)
        with tf.GradientTape() as tape:
            value = kind(unknown)(targets, logits)
        ignored = targets == -1 if unknown == "ignore" else np.zeros((3, 4))
        if kind is SoftmaxSquaredError:  # an image without labels
            ignored = ignored + [[0], [1], [0]]
        self.assertAllEqual(tape.gradient(value, logits) == 0, ignored > 0)

    def test_is_float32_and_serialisable(self, kind, expected, unknown):
        targets, logits = random_problem()
        half = tf.cast(logits, "bfloat16")
        loss = kind(unknown, name="x", reduction="sum", dtype="float32")
        value = loss(targets, half)
        self.assertEqual(value.dtype, "float32")
        exact = expected(targets, tf.cast(half, "float32").numpy(), unknown)
        self.assertAllClose(value, np.sum(exact), rtol=1e-5)
        config = keras.losses.serialize(loss)
        self.assertEqual(config["registered_name"], f"zoo>{kind.__name__}")
        loaded = keras.losses.deserialize(config)
        self.assertEqual(loaded.get_config(), loss.get_config())
        self.assertAllEqual(loaded(targets, half), value)

    def test_names_a_bad_unknown(self, kind, expected, unknown):
        with self.assertRaisesRegex(ValueError, "Received: unknown=present"):
            kind("present")
