"""Compares the losses with float64 loops, and checks their limits."""

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo.losses import BinaryCrossentropy


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
