"""Compares the losses with float64 loops, and checks their limits."""

import inspect
import re

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo.losses import (
    AsymmetricLoss,
    BalancedBinaryCrossentropy,
    BinaryCrossentropy,
    FocalLoss,
    SoftmaxSquaredError,
    class_balanced_weights,
)


def mean_of_terms(targets, logits, unknown, term):
    """Averages `term(y, p, class)` over each image's classes, in float64."""
    losses = []
    for target_row, logit_row in zip(targets, logits, strict=True):
        terms = []
        for k, (target, logit) in enumerate(
            zip(target_row, logit_row, strict=True)
        ):
            if target == -1 and unknown == "ignore":
                continue
            probability = 1 / (1 + np.exp(-np.float64(logit)))
            terms.append(term(max(np.float64(target), 0), probability, k))
        losses.append(np.mean(terms) if terms else 0.0)
    return losses


def reference(targets, logits, unknown, smoothing=0.0, weights=None):
    """Cross-entropy, smoothed as Szegedy et al. (2016) do, and weighed."""

    def term(y, p, k):
        y = y * (1 - smoothing) + smoothing / 2
        loss = -y * np.log(p) - (1 - y) * np.log(1 - p)
        return loss if weights is None else weights[k] * loss

    return mean_of_terms(targets, logits, unknown, term)


def asymmetric_reference(
    targets, logits, unknown, gamma_pos=0, gamma_neg=4, margin=0.05
):
    """Ridnik et al. (2021), section 2."""

    def term(y, p, k):
        shifted = max(p - margin, 0)
        positive = (1 - p) ** gamma_pos * np.log(p)
        negative = shifted**gamma_neg * np.log(1 - shifted)
        return -y * positive - (1 - y) * negative

    return mean_of_terms(targets, logits, unknown, term)


def focal_reference(targets, logits, unknown, gamma=2, alpha=0.25):
    """Lin et al. (2017), eq. (5), with Keras' reading of soft targets."""

    def term(y, p, k):
        p_t = y * p + (1 - y) * (1 - p)
        alpha_t = y * alpha + (1 - y) * (1 - alpha)
        crossentropy = -y * np.log(p) - (1 - y) * np.log(1 - p)
        return alpha_t * (1 - p_t) ** gamma * crossentropy

    return mean_of_terms(targets, logits, unknown, term)


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
            (max(np.float64(target), 0), np.exp(np.float64(score)))
            for target, score in zip(target_row, score_row, strict=True)
            if target != -1 or unknown == "absent"
        ]
        num_labels = sum(present for present, _ in pairs)
        total = sum(exponential for _, exponential in pairs)
        losses.append(
            min(num_labels, 1)
            * sum(
                (exponential / total - present / num_labels) ** 2
                for present, exponential in pairs
            )
            if num_labels
            else 0.0
        )
    return losses


WEIGHTS = (0.5, 2.0, 1.0, 0.0, 1.5)
CASES = {  # loss -> its class, arguments, and reference, which takes them too
    "crossentropy": (BinaryCrossentropy, {}, reference),
    "smoothed": (BinaryCrossentropy, {"label_smoothing": 0.2}, reference),
    "weighed": (BinaryCrossentropy, {"class_weights": WEIGHTS}, reference),
    "asymmetric": (AsymmetricLoss, {}, asymmetric_reference),
    "asymmetric_by_numbers": (
        AsymmetricLoss,
        {"gamma_pos": 1.0, "gamma_neg": 2.0, "margin": 0.0},
        asymmetric_reference,
    ),
    "focal": (FocalLoss, {}, focal_reference),
    "focal_by_numbers": (
        FocalLoss,
        {"gamma": 1.0, "alpha": 0.6},
        focal_reference,
    ),
    "balanced": (BalancedBinaryCrossentropy, {}, balanced_reference),
    "softmax": (SoftmaxSquaredError, {}, softmax_reference),
}
NAMES = {"label_smoothing": "smoothing", "class_weights": "weights"}


def make(case, unknown, **arguments):
    kind, own, _ = CASES[case]
    return kind(unknown=unknown, **own, **arguments)


def expected(case, targets, logits, unknown):
    _, own, function = CASES[case]
    own = {NAMES.get(name, name): value for name, value in own.items()}
    return np.array(function(targets, logits, unknown, **own))


def random_problem():
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, (6, 5)).astype("float32")
    targets[0] = -1
    logits = rng.normal(scale=3, size=(6, 5)).astype("float32")
    return targets, logits


@parameterized.product(case=list(CASES), unknown=("absent", "ignore"))
class EveryLossTest(parameterized.TestCase, tf.test.TestCase):
    def tearDown(self):
        keras.config.set_dtype_policy("float32")
        super().tearDown()

    def test_matches_reference(self, case, unknown):
        targets, logits = random_problem()
        targets[1:4] = [[0] * 5, [1] * 5, [1, -1, 1, -1, -1]]
        losses = expected(case, targets, logits, unknown)
        loss = make(case, unknown, reduction=None)
        self.assertAllClose(loss(targets, logits), losses, 1e-5)
        loss = make(case, unknown)
        self.assertAllClose(loss(targets, logits), np.mean(losses), 1e-5)
        if unknown == "absent":
            zeros = np.maximum(targets, 0)
            self.assertAllEqual(loss(targets, logits), loss(zeros, logits))

    def test_takes_soft_targets(self, case, unknown):
        if case == "balanced":
            self.skipTest("No recipe that has this loss mixes images.")
        targets, logits = random_problem()
        rng = np.random.default_rng(1)
        soft = rng.uniform(size=targets.shape).astype("float32")
        soft[1] *= 0.1  # a sum below one label
        targets = np.where(targets == -1, -1, soft)
        losses = expected(case, targets, logits, unknown)
        loss = make(case, unknown, reduction=None)
        self.assertAllClose(loss(targets, logits), losses, 1e-5)

    def test_steps_share_the_targets_and_are_averaged(self, case, unknown):
        targets, logits = random_problem()
        targets[1] = [1, 1, 0, 0, 1]
        steps = np.stack([logits, 2 * logits, -logits], axis=1)  # (B, T, K)
        losses = np.mean(
            [expected(case, targets, steps[:, t], unknown) for t in range(3)],
            axis=0,
        )
        loss = make(case, unknown, reduction=None)
        self.assertAllClose(loss(targets, steps), losses, 1e-5)
        # Each step may have targets of its own.
        own = np.stack([targets, targets, 1 - np.abs(targets)], axis=1)
        losses = np.mean(
            [expected(case, own[:, t], steps[:, t], unknown) for t in range(3)],
            axis=0,
        )
        self.assertAllClose(loss(own, steps), losses, 1e-5)

    def test_extreme_logits_are_finite(self, case, unknown):
        targets = np.array([[1, 0, -1, 1, 0], [-1] * 5, [0.5] * 5], "float32")
        logits = tf.Variable([[1e4, 1e4, 1e4, -1e4, -1e4]] * 3)
        with tf.GradientTape() as tape:
            value = make(case, unknown)(targets, logits)
        self.assertAllInRange(value, 1e-3, 2e4)
        gradient = tape.gradient(value, logits)
        self.assertAllInRange(gradient, -1, 1)

    def test_ignored_entries_have_no_gradient(self, case, unknown):
        targets = np.array(
            [[1, 0, -1, 1, 0], [-1] * 5, [0, 1, 0, 0, 0]], "float32"
        )
        logits = tf.Variable(np.arange(15, dtype="float32").reshape(3, 5) / 9)
        with tf.GradientTape() as tape:
            value = make(case, unknown)(targets, logits)
        ignored = targets == -1 if unknown == "ignore" else np.zeros((3, 5))
        if case == "softmax":  # an image without labels
            ignored = ignored + [[0], [1], [0]]
        if case == "weighed":
            ignored = ignored + np.equal(WEIGHTS, 0)
        self.assertAllEqual(tape.gradient(value, logits) == 0, ignored > 0)

    def test_is_float32_under_mixed_precision(self, case, unknown):
        keras.config.set_dtype_policy("mixed_bfloat16")
        targets, logits = random_problem()
        half = tf.cast(logits, "bfloat16")
        value = make(case, unknown, reduction="sum")(targets, half)
        self.assertEqual(value.dtype, "float32")
        exact = tf.cast(half, "float32").numpy()
        losses = expected(case, targets, exact, unknown)
        self.assertAllClose(value, np.sum(losses), 1e-5)

    def test_config_round_trip(self, case, unknown):
        loss = make(case, unknown, name="x", reduction="sum", dtype="float64")
        config = keras.losses.serialize(loss)
        kind = type(loss)
        self.assertEqual(config["registered_name"], f"zoo>{kind.__name__}")
        loaded = keras.losses.deserialize(config)
        self.assertIsInstance(loaded, kind)
        self.assertEqual(loaded.get_config(), loss.get_config())
        arguments = set(inspect.signature(kind).parameters) - {"kwargs"}
        arguments |= {"name", "reduction", "dtype"}
        self.assertEqual(set(loaded.get_config()), arguments)
        targets, logits = random_problem()
        self.assertAllEqual(loaded(targets, logits), loss(targets, logits))

    def test_names_a_bad_unknown(self, case, unknown):
        with self.assertRaisesRegex(ValueError, "Received: unknown=present"):
            make(case, "present")


class ArgumentsTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        (BinaryCrossentropy, {"label_smoothing": -0.1}),
        (BinaryCrossentropy, {"label_smoothing": 1.0}),
        (BinaryCrossentropy, {"class_weights": [1.0, -1.0]}),
        (BinaryCrossentropy, {"class_weights": [1.0, float("nan")]}),
        (AsymmetricLoss, {"gamma_pos": 0.5, "gamma_neg": 4.0}),
        (AsymmetricLoss, {"gamma_pos": 0.0, "gamma_neg": -1.0}),
        (AsymmetricLoss, {"margin": 1.0}),
        (AsymmetricLoss, {"margin": -0.1}),
        (FocalLoss, {"gamma": 0.0}),
        (FocalLoss, {"alpha": 0.0}),
        (FocalLoss, {"alpha": 1.0}),
    )
    def test_names_a_bad_argument(self, kind, arguments):
        received = ", ".join(f"{k}={v}" for k, v in arguments.items())
        with self.assertRaisesRegex(
            ValueError, re.escape(f"Received: {received}")
        ):
            kind(**arguments)

    def test_names_weights_of_another_number_of_classes(self):
        targets, logits = random_problem()
        with self.assertRaisesRegex(ValueError, "2 weights, 5 classes"):
            BinaryCrossentropy(class_weights=[1, 2])(targets, logits)

    def test_without_focus_and_margin_it_is_the_cross_entropy(self):
        targets, logits = random_problem()
        loss = AsymmetricLoss(0, 0, margin=0, unknown="absent")
        self.assertAllClose(
            loss(targets, logits), BinaryCrossentropy()(targets, logits)
        )

    def test_focus_leaves_easy_answers_alone(self):
        targets, logits = np.array([[0.0, 1.0]]), tf.Variable([[-2.0, 2.0]])
        share = {}
        for kind in (BinaryCrossentropy, FocalLoss, AsymmetricLoss):
            with tf.GradientTape() as tape:
                value = kind()(targets, logits)
            absent, present = np.abs(tape.gradient(value, logits)[0])
            share[kind] = absent / present
        self.assertAllClose(share[BinaryCrossentropy], 1)
        self.assertAllClose(share[FocalLoss], 3)  # (1 - alpha) / alpha
        self.assertLess(share[AsymmetricLoss], 0.01)


class ClassBalancedWeightsTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(0.0, 0.9, 0.999, 0.9999)
    def test_matches_paper(self, beta):
        positives = [3, 40, 500, 6000, 1]
        # The effective number, by its sum, as in the proof of Proposition 1.
        effective = [sum(beta**i for i in range(n)) for n in positives]
        weights = [1 / number for number in effective]
        weights = np.array(weights) * len(weights) / sum(weights)
        found = class_balanced_weights(positives, beta)
        self.assertAllClose(found, weights, 1e-9)
        self.assertAllClose(sum(found), 5)

    def test_a_class_without_images_leaves_the_others_as_they_are(self):
        found = class_balanced_weights([0, 5000, 10])
        self.assertEqual(found[0], 1)
        self.assertAllEqual(found[1:], class_balanced_weights([5000, 10]))
        self.assertAllEqual(class_balanced_weights([0, 0]), [1, 1])

    @parameterized.parameters(
        ([[1, 2]], 0.9, "positives="),
        ([], 0.9, "positives="),
        ([1, -2], 0.9, "positives="),
        ([1, 2], 1.0, "beta=1.0"),
        ([1, 2], -0.1, "beta=-0.1"),
    )
    def test_names_a_bad_argument(self, positives, beta, received):
        with self.assertRaisesRegex(ValueError, f"Received: {received}"):
            class_balanced_weights(positives, beta)


class NoPapersLossTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(AsymmetricLoss, FocalLoss)
    def test_leaves_out_the_unknown_where_nothing_is_said(self, kind):
        logits = tf.constant([[3.0, 3.0]])
        self.assertAllEqual(
            kind()([[1.0, -1.0]], logits), kind()([[1.0]], logits[:, :1])
        )


class FocalLossTest(tf.test.TestCase):
    def test_the_worst_answers_teach(self):
        logits = tf.Variable([[-90.0, -30.0, 30.0]])
        with tf.GradientTape() as tape:
            value = FocalLoss(alpha=0.5)([[1.0, 1.0, 0.0]], logits)
        gradient = tape.gradient(value, logits)
        self.assertAllClose(gradient, [[-1 / 6, -1 / 6, 1 / 6]])
