"""Compares the metrics with loops over examples, and with scikit-learn."""

import importlib.util
import unittest
from fractions import Fraction

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo import metrics

HAS_SKLEARN = importlib.util.find_spec("sklearn") is not None


def precision_recall_points(targets, scores):
    """One class: exact (precision, recall) at each threshold, highest first."""
    known = [(t, s) for t, s in zip(targets, scores, strict=True) if t != -1]
    num_positives = sum(t == 1 for t, _ in known)
    points = []
    for threshold in sorted({s for _, s in known}, reverse=True):
        predicted = [t for t, s in known if s >= threshold]
        num_correct = sum(t == 1 for t in predicted)
        points.append(
            (
                Fraction(num_correct, len(predicted)),
                Fraction(num_correct, num_positives),
            )
        )
    return points


def continuous(targets, scores):
    """Mean of the precision at each positive example."""
    precisions = []
    for target, score in zip(targets, scores, strict=True):
        if target == 1:
            retrieved = [
                t
                for t, s in zip(targets, scores, strict=True)
                if t != -1 and s >= score
            ]
            precisions.append(retrieved.count(1) / len(retrieved))
    return sum(precisions) / len(precisions)


def interpolated(targets, scores):
    """Area under the monotone envelope, as the VOC devkit does from 2010."""
    points = precision_recall_points(targets, scores)
    recalls = [0, *[float(recall) for _, recall in points], 1]
    precisions = [0, *[float(precision) for precision, _ in points], 0]
    for i in reversed(range(len(precisions) - 1)):
        precisions[i] = max(precisions[i], precisions[i + 1])
    return sum(
        (recalls[i] - recalls[i - 1]) * precisions[i]
        for i in range(1, len(recalls))
    )


def eleven_point(targets, scores):
    """The VOC 2007 devkit: best precision at recalls 0, 0.1, ..., 1."""
    points = precision_recall_points(targets, scores)
    total = 0
    for tenths in range(11):
        total += max(
            (p for p, recall in points if recall >= Fraction(tenths, 10)),
            default=0,
        )
    return float(total / 11)


REFERENCES = {
    "continuous": continuous,
    "interpolated": interpolated,
    "11point": eleven_point,
}


def random_problem(rng, num_examples, num_classes, ties=False, unknown=0.0):
    targets = (rng.random((num_examples, num_classes)) < 0.4).astype("float32")
    scores = rng.normal(size=targets.shape)
    if ties:
        scores = scores.round()
    targets[rng.random(targets.shape) < unknown] = -1
    return targets, scores


def reference_f1(targets, predicted):
    """Chen et al. (2018), eq. (11), one class and one image at a time."""
    precisions, recalls = [], []
    sum_correct = sum_predicted = sum_true = 0
    for k in range(targets.shape[1]):
        correct = predicted_ = true = 0
        for i in range(targets.shape[0]):
            if targets[i, k] == -1:
                continue
            correct += bool(predicted[i, k] and targets[i, k] == 1)
            predicted_ += bool(predicted[i, k])
            true += bool(targets[i, k] == 1)
        precisions.append(correct / predicted_ if predicted_ else 0)
        if true:
            recalls.append(correct / true)
        sum_correct += correct
        sum_predicted += predicted_
        sum_true += true
    cp, cr = np.mean(precisions), np.mean(recalls)
    op = sum_correct / sum_predicted if sum_predicted else 0
    overall_recall = sum_correct / sum_true
    return {
        "CP": cp,
        "CR": cr,
        "CF1": 2 * cp * cr / (cp + cr) if cp + cr else 0,
        "OP": op,
        "OR": overall_recall,
        "OF1": 2 * op * overall_recall / (op + overall_recall)
        if op + overall_recall
        else 0,
    }


class AveragePrecisionTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.product(
        mode=metrics.MODES, ties=(False, True), unknown=(0.0, 0.3)
    )
    def test_matches_reference(self, mode, ties, unknown):
        rng = np.random.default_rng(0)
        for _ in range(50):
            targets, scores = random_problem(
                rng, rng.integers(1, 30), rng.integers(1, 6), ties, unknown
            )
            result = metrics.average_precision(targets, scores, mode)
            self.assertEqual(result.dtype, np.float64)
            self.assertEqual(result.shape, targets.shape[1:])
            for k, value in enumerate(result):
                if (targets[:, k] == 1).any():
                    expected = REFERENCES[mode](targets[:, k], scores[:, k])
                    self.assertAllClose(value, expected, rtol=1e-12, atol=0)
                else:
                    self.assertTrue(np.isnan(value))

    @unittest.skipUnless(HAS_SKLEARN, "scikit-learn is not installed")
    @parameterized.parameters(False, True)
    def test_matches_scikit_learn(self, ties):
        from sklearn.metrics import average_precision_score

        targets, scores = random_problem(
            np.random.default_rng(1), 500, 7, ties=ties
        )
        expected = average_precision_score(targets, scores, average=None)
        result = metrics.average_precision(targets, scores)
        self.assertAllClose(result, expected, rtol=1e-12, atol=0)

    @parameterized.parameters(
        ("continuous", (1 + 2 / 3 + 3 / 6) / 3),
        ("interpolated", (1 + 2 / 3 + 3 / 6) / 3),
        ("11point", (4 * 1 + 3 * 2 / 3 + 4 * 3 / 6) / 11),
    )
    def test_known_ranking(self, mode, expected):
        targets = np.array([[1, 0, 1, 0, 0, 1]]).T
        scores = np.array([[6, 5, 4, 3, 2, 1]]).T
        result = metrics.average_precision(targets, scores, mode)
        self.assertAllClose(result, [expected], rtol=1e-12)

    def test_envelope_lifts_a_low_start(self):
        targets = np.array([[0, 1, 1]]).T  # precisions 1/2, 2/3
        scores = np.array([[3, 2, 1]]).T
        for mode, expected in (
            ("continuous", 7 / 12),
            ("interpolated", 2 / 3),
            ("11point", 2 / 3),
        ):
            result = metrics.average_precision(targets, scores, mode)
            self.assertAllClose(result, [expected], rtol=1e-12)

    def test_recall_of_three_tenths_reaches_the_level(self):
        # 3 of 10 positives come first, then 10 negatives, then the others.
        targets = np.array([[1] * 3 + [0] * 10 + [1] * 7]).T
        scores = np.arange(20.0)[::-1, None]
        result = metrics.average_precision(targets, scores, "11point")
        self.assertAllClose(result, [(4 * 1 + 7 * 10 / 20) / 11], rtol=1e-12)

    @parameterized.parameters(*metrics.MODES)
    def test_order_of_examples_does_not_matter(self, mode):
        rng = np.random.default_rng(2)
        targets, scores = random_problem(rng, 60, 5, ties=True, unknown=0.2)
        expected = metrics.average_precision(targets, scores, mode)
        for _ in range(10):
            order = rng.permutation(len(targets))
            result = metrics.average_precision(
                targets[order], scores[order], mode
            )
            self.assertAllEqual(result, expected)

    @parameterized.parameters(*metrics.MODES)
    def test_equal_scores_give_the_share_of_positives(self, mode):
        targets = np.array([[1, 0, 0, 1, 0, -1, -1]]).T
        result = metrics.average_precision(targets, np.zeros((7, 1)), mode)
        self.assertAllClose(result, [2 / 5], rtol=1e-12)

    @parameterized.parameters(*metrics.MODES)
    def test_unknown_is_the_same_as_removed(self, mode):
        rng = np.random.default_rng(3)
        targets, scores = random_problem(rng, 40, 1, ties=True, unknown=0.5)
        known = targets[:, 0] != -1
        self.assertAllEqual(
            metrics.average_precision(targets, scores, mode),
            metrics.average_precision(targets[known], scores[known], mode),
        )

    @parameterized.parameters(*metrics.MODES)
    def test_perfect_ranking_and_single_example(self, mode):
        targets = np.array([[1, 1, 0, 0]]).T
        scores = np.array([[np.inf, 2.0, 1.0, -np.inf]]).T
        result = metrics.average_precision(targets, scores, mode)
        self.assertAllEqual(result, [1.0])
        result = metrics.average_precision([[1, 0, -1]], [[0.0] * 3], mode)
        self.assertAllEqual(np.isnan(result), [False, True, True])
        self.assertEqual(result[0], 1.0)

    def test_only_the_order_of_scores_matters(self):
        targets, logits = random_problem(np.random.default_rng(4), 50, 4)
        probabilities = 1 / (1 + np.exp(-logits))
        self.assertAllEqual(
            metrics.average_precision(targets, logits),
            metrics.average_precision(targets, probabilities),
        )

    @parameterized.parameters("float16", "float32", "int32", "bool")
    def test_type_of_scores_does_not_matter(self, dtype):
        targets, scores = random_problem(np.random.default_rng(7), 50, 4)
        scores = scores.astype(dtype)
        result = metrics.average_precision(targets, scores)
        self.assertEqual(result.dtype, np.float64)
        self.assertAllEqual(
            result, metrics.average_precision(targets, scores.astype("float64"))
        )

    @parameterized.named_parameters(
        ("mode", [[1]], [[1.0]], "voc", "Received: mode='voc'"),
        ("shapes", [[1, 0]], [[1.0]], "continuous", r"scores.shape=\(1, 1\)"),
        ("rank", [1, 0], [1.0, 0.0], "continuous", r"targets.shape=\(2,\)"),
        ("empty", np.ones((0, 2)), np.ones((0, 2)), "continuous", r"\(0, 2\)"),
        ("nan", [[1, 0]], [[1, np.nan]], "continuous", r"NaN at \(0, 1\)"),
        ("target", [[1, 2]], [[1, 0]], "continuous", r"2 at \(0, 1\)"),
        ("half", [[0.5, 1]], [[1, 0]], "continuous", r"0.5 at \(0, 0\)"),
    )
    def test_names_bad_input(self, targets, scores, mode, message):
        with self.assertRaisesRegex(ValueError, message):
            metrics.average_precision(targets, scores, mode)


class MeanAveragePrecisionTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(*metrics.MODES)
    def test_leaves_out_classes_without_positives(self, mode):
        targets = np.array([[0, 1, 0], [1, 0, 0], [1, 1, -1]])
        scores = np.array([[0.3, 0.2, 0.9], [0.2, 0.4, 0.1], [0.1, 0.3, 0.2]])
        per_class = metrics.average_precision(targets, scores, mode)
        result = metrics.mean_average_precision(targets, scores, mode)
        self.assertIsInstance(result, float)
        self.assertAllClose(result, per_class[:2].mean(), rtol=1e-12)

    def test_is_nan_without_any_positive(self):
        result = metrics.mean_average_precision([[0, -1]], [[0.5, 0.5]])
        self.assertTrue(np.isnan(result))


class PrecisionRecallF1Test(parameterized.TestCase, tf.test.TestCase):
    def assert_same(self, result, expected):
        self.assertEqual(list(result), ["CP", "CR", "CF1", "OP", "OR", "OF1"])
        for name, value in expected.items():
            self.assertIsInstance(result[name], float)
            self.assertAllClose(result[name], value, rtol=1e-12, msg=name)

    @parameterized.product(
        threshold=(0.3, 0.5, 0.95),
        top=((None, None), (1, None), (3, None), (1, 0.0), (3, 0.1), (3, 0.6)),
        unknown=(0.0, 0.3),
    )
    def test_matches_reference(self, threshold, top, unknown):
        top_k, min_probability = top
        rng = np.random.default_rng(5)
        for _ in range(20):
            targets, scores = random_problem(
                rng, rng.integers(1, 30), rng.integers(1, 6), unknown=unknown
            )
            targets[0, 0] = 1
            probabilities = (1 / (1 + np.exp(-scores))).round(1)
            predicted = np.zeros(targets.shape, dtype=bool)
            for i, row in enumerate(probabilities):
                ranked = sorted((-p, k) for k, p in enumerate(row))
                for p, k in ranked[:top_k]:
                    predicted[i, k] = (
                        -p > threshold
                        if min_probability is None
                        else -p >= min_probability
                    )
            result = metrics.precision_recall_f1(
                targets, probabilities, threshold, top_k, min_probability
            )
            self.assert_same(result, reference_f1(targets, predicted))

    @unittest.skipUnless(HAS_SKLEARN, "scikit-learn is not installed")
    def test_matches_scikit_learn(self):
        from sklearn.metrics import precision_recall_fscore_support

        rng = np.random.default_rng(6)
        targets = rng.integers(0, 2, (200, 5))
        probabilities = rng.random((200, 5)) * [1, 1, 1, 1, 0.4]
        result = metrics.precision_recall_f1(targets, probabilities)
        for average, names in (
            ("macro", ("CP", "CR")),
            ("micro", ("OP", "OR", "OF1")),
        ):
            expected = precision_recall_fscore_support(
                targets,
                probabilities > 0.5,
                average=average,
                zero_division=0,
            )
            for name, value in zip(names, expected, strict=False):
                self.assertAllClose(result[name], value, rtol=1e-12)

    def test_f1_of_classes_is_the_harmonic_mean_of_their_means(self):
        # Precisions 1 and 1/4, recalls 1/2 and 1: both classes' F1 would
        # average to 0.533.
        targets = np.array([[1, 1], [1, 0], [0, 0], [0, 0]])
        probabilities = np.array([[0.9, 0.9], [0.1, 0.9], [0, 0.9], [0, 0.9]])
        self.assert_same(
            metrics.precision_recall_f1(targets, probabilities),
            {
                "CP": 5 / 8,
                "CR": 3 / 4,
                "CF1": 2 * 5 / 8 * 3 / 4 / (5 / 8 + 3 / 4),
                "OP": 2 / 5,
                "OR": 2 / 3,
                "OF1": 1 / 2,
            },
        )

    def test_threshold_is_excluded_and_min_probability_included(self):
        targets, probabilities = [[1, 1]], [[0.5, 0.75]]
        result = metrics.precision_recall_f1(targets, probabilities)
        self.assertEqual(result["OR"], 0.5)
        result = metrics.precision_recall_f1(
            targets, probabilities, top_k=2, min_probability=0.5
        )
        self.assertEqual(result["OR"], 1.0)

    def test_threshold_is_excluded_in_float32_too(self):
        probabilities = np.array([[0.3, 0.9]], "float32")
        result = metrics.precision_recall_f1([[1, 1]], probabilities, 0.3)
        self.assertEqual(result["OR"], 0.5)

    def test_top_k_breaks_ties_in_class_order(self):
        probabilities = np.full((1, 40), 0.9)
        for k in (0, 1, 2, 3, 39):
            targets = np.zeros((1, 40))
            targets[0, k] = 1
            result = metrics.precision_recall_f1(
                targets, probabilities, top_k=3
            )
            self.assertEqual(result["OR"], float(k < 3))

    def test_top_k_above_number_of_classes_keeps_all(self):
        targets, probabilities = [[1, 1]], [[0.9, 0.8]]
        result = metrics.precision_recall_f1(targets, probabilities, top_k=3)
        self.assertEqual(result["OF1"], 1.0)

    def test_decisions_are_probabilities_too(self):
        decisions = np.array([[True, False, True]])
        result = metrics.precision_recall_f1([[1, 0, 1]], decisions, top_k=1)
        self.assertEqual((result["OP"], result["OR"]), (1, 1 / 2))

    def test_protocols_of_the_papers(self):
        targets = [[1, 0, 1, 0]]
        probabilities = [[0.9, 0.3, 0.2, 0.05]]

        def counts(**kwargs):
            result = metrics.precision_recall_f1(
                targets, probabilities, **kwargs
            )
            return result["OP"], result["OR"]

        self.assertEqual(counts(), (1, 1 / 2))
        self.assertEqual(counts(top_k=3), (1, 1 / 2))
        self.assertEqual(counts(top_k=3, min_probability=0.1), (2 / 3, 1))
        self.assertEqual(counts(top_k=4, min_probability=0.1), (2 / 3, 1))
        self.assertEqual(counts(top_k=4, min_probability=0), (2 / 4, 1))

    def test_unknown_takes_its_place_among_the_top_k(self):
        result = metrics.precision_recall_f1([[-1, 1]], [[0.9, 0.8]], top_k=1)
        self.assertEqual((result["OP"], result["OR"]), (0, 0))

    def test_nothing_predicted_is_zero(self):
        result = metrics.precision_recall_f1([[1, 0]], [[0.1, 0.1]])
        self.assert_same(result, dict.fromkeys(result, 0.0))

    def test_nothing_true_has_no_recall(self):
        result = metrics.precision_recall_f1([[0, -1]], [[0.9, 0.9]])
        self.assertEqual((result["CP"], result["OP"]), (0, 0))
        for name in ("CR", "CF1", "OR", "OF1"):
            self.assertTrue(np.isnan(result[name]), name)

    @parameterized.named_parameters(
        ("logits", [[1]], [[3.0]], {}, "maximum=3.0"),
        ("negative", [[1]], [[-0.5]], {}, "minimum=-0.5"),
        ("nan", [[1]], [[np.nan]], {}, "`probabilities` must not be NaN"),
        ("shapes", [[1]], [[0, 0]], {}, r"probabilities.shape=\(1, 2\)"),
        ("target", [[3]], [[0]], {}, r"3 at \(0, 0\)"),
        ("threshold", [[1]], [[0]], {"threshold": 2}, "threshold=2"),
        ("top_k", [[1]], [[0]], {"top_k": 0}, "top_k=0"),
        (
            "min_probability",
            [[1]],
            [[0]],
            {"top_k": 1, "min_probability": 2},
            "min_probability=2, top_k=1",
        ),
        (
            "min_probability_alone",
            [[1]],
            [[0]],
            {"min_probability": 0.1},
            "min_probability=0.1, top_k=None",
        ),
    )
    def test_names_bad_input(self, targets, probabilities, kwargs, message):
        with self.assertRaisesRegex(ValueError, message):
            metrics.precision_recall_f1(targets, probabilities, **kwargs)


class ScoreThresholdTest(tf.test.TestCase):
    def test_no_other_border_has_a_better_of1(self):
        rng = np.random.default_rng(0)
        targets = rng.integers(-1, 2, (30, 6))
        # Whole numbers, far from 0 and many alike.
        scores = 50 + rng.integers(0, 12, (30, 6)) + 3 * targets

        def of1(border):
            predicted = (scores > border).astype(float)
            return metrics.precision_recall_f1(targets, predicted)["OF1"]

        best = max(map(of1, np.arange(40, 70, 0.5)))
        border, claimed = metrics.score_threshold(targets, scores)
        self.assertAlmostEqual(claimed, best)
        self.assertAlmostEqual(of1(border), best)
        self.assertGreater(best, of1(-np.inf))  # it can be worse

    def test_every_label_may_be_predicted(self):
        border, of1 = metrics.score_threshold([[1, 1]], [[2.0, 3.0]])
        self.assertLess(border, 2)
        self.assertEqual(of1, 1)

    def test_without_labels_nothing_is_predicted(self):
        found = metrics.score_threshold([[0, 0, -1]], [[2.0, 3.0, 4.0]])
        self.assertEqual(found, (4, 0))


class PathThresholdTest(tf.test.TestCase):
    def test_is_the_one_of_the_best_of1(self):
        rng = np.random.default_rng(0)
        targets = rng.integers(0, 2, (20, 5))
        order = rng.permuted(np.tile(np.arange(5), (20, 1)), axis=1)[:, :3]
        paths = np.where(np.tri(3, dtype=bool), order[:, None], -1)
        probabilities = np.cumprod(rng.random((20, 3)), axis=1)
        threshold, of1 = metrics.path_threshold(targets, paths, probabilities)

        def expected(threshold):
            predicted = np.zeros((20, 5))
            for i in range(20):
                for t in range(3):
                    if probabilities[i, t] >= threshold:
                        predicted[i, order[i, t]] = 1
            return metrics.precision_recall_f1(targets, predicted)["OF1"]

        values = [expected(value) for value in metrics.PATH_THRESHOLDS]
        self.assertAlmostEqual(of1, max(values))
        self.assertAlmostEqual(expected(threshold), max(values))
        self.assertGreater(max(values), min(values))
