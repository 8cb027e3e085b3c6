import json

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo import metrics, reports

CLASSES = ("ant", "bee", "cat", "dog", "eel")


def answers():
    rng = np.random.default_rng(0)
    targets = (rng.random((40, 5)) < 0.4).astype("float32")
    probabilities = np.clip(0.4 * targets + 0.6 * rng.random((40, 5)), 0, 1)
    targets[:, 4] = 0  # no positive example
    targets[0, :2] = -1
    return targets, probabilities


class ReportsTest(parameterized.TestCase, tf.test.TestCase):
    def test_measures_what_the_metrics_say(self):
        targets, probabilities = answers()
        report = reports.measure(targets, probabilities, CLASSES)
        self.assertAlmostEqual(
            report["mAP"],
            metrics.mean_average_precision(targets, probabilities),
        )
        self.assertEqual(report["mAP_mode"], "continuous")
        self.assertBetween(report["mAP"], 0.5, 1)
        self.assertEqual(report["num_examples"], 40)
        self.assertIsNone(report["AP"]["eel"])
        counts = [sum(target == 1 for target in row) for row in targets.T]
        self.assertEqual(list(report["num_positives"].values()), counts)
        top3 = metrics.precision_recall_f1(targets, probabilities, top_k=3)
        self.assertEqual(report["top3"], top3)
        self.assertNotEqual(report["top3"], report["all"])
        self.assertEqual(json.loads(json.dumps(report)), report)

    def test_table_shows_every_number_with_its_mode(self):
        targets, probabilities = answers()
        report = reports.measure(targets, probabilities, CLASSES)
        text = reports.table(report, "csra on scenes test")
        self.assertStartsWith(text, "csra on scenes test\n")
        self.assertIn(f"mAP (continuous)  {100 * report['mAP']:.2f}", text)
        self.assertIn("over 40 images", text)
        for protocol in ("all", "top3"):
            for value in report[protocol].values():
                self.assertIn(f"{100 * value:.2f}", text)
        for name in CLASSES:
            self.assertIn(name, text)
        self.assertIn("eel   none", text)
        self.assertIn("left out of the mean", text)
        self.assertLess(max(map(len, text.splitlines())), 80)
        self.assertIn("labels: probability above 0.5", text)
        self.assertNotIn("rarest", text)

    def test_labels_that_the_model_gives_by_itself(self):
        targets, probabilities = answers()
        rng = np.random.default_rng(1)
        predicted = rng.random(targets.shape) < 0.7
        # Not even a probability of 0 takes a given label back.
        probabilities[rng.random(targets.shape) < 0.3] = 0
        report = reports.measure(
            targets, probabilities, CLASSES, predicted, "a rule"
        )
        most_probable = np.zeros_like(predicted)
        for i, row in enumerate(predicted):
            order = sorted(
                np.flatnonzero(row), key=lambda k: -probabilities[i, k]
            )
            most_probable[i, order[:3]] = True
        self.assertEqual(
            report["above_threshold"],
            metrics.precision_recall_f1(targets, probabilities, 0.5),
        )
        self.assertIn("  > 0.5 ", reports.table(report, "a title"))
        for protocol, given in (("all", predicted), ("top3", most_probable)):
            known = given & (targets != -1)
            correct = (known & (targets == 1)).sum()
            self.assertAlmostEqual(
                report[protocol]["OP"], correct / known.sum()
            )
            self.assertAlmostEqual(
                report[protocol]["OR"], correct / (targets == 1).sum()
            )
        self.assertIn("labels: a rule", reports.table(report, "rnn"))
        self.assertEqual(
            report["mAP"],
            reports.measure(targets, probabilities, CLASSES)["mAP"],
        )

    @parameterized.parameters(
        (np.zeros((40, 4), bool), "bool and shape \\(40, 4\\)"),
        (np.zeros((40, 5)), "float64 and shape \\(40, 5\\)"),
    )
    def test_refuses_labels_that_do_not_fit(self, predicted, received):
        with self.assertRaisesRegex(ValueError, f"Received: .*{received}"):
            reports.measure(*answers(), CLASSES, predicted)

    def test_other_scores_have_their_own_map(self):
        targets, probabilities = answers()
        other = probabilities[:, ::-1]
        report = reports.measure(
            targets, probabilities, CLASSES, other_scores={"left_right": other}
        )
        expected = metrics.mean_average_precision(targets, other)
        self.assertEqual(report["other_mAP"], {"left_right": expected})
        self.assertNotAlmostEqual(expected, report["mAP"])
        lines = reports.table(report, "rnn").splitlines()
        self.assertStartsWith(lines[1], "  mAP (continuous)")
        self.assertEqual(
            lines[2], f"  mAP (continuous), left right  {100 * expected:.2f}"
        )

    def test_rarest(self):
        targets = np.array(
            [[1, 1, 0, 1, 1], [1, 1, 0, -1, 0], [1, 0, -1, 0, 0]]
        )
        rarest = reports.rarest(targets, CLASSES, k=5)
        self.assertEqual(
            list(rarest.items()),  # no "cat", which has no positive
            [("dog", 1), ("eel", 1), ("bee", 2), ("ant", 3)],
        )
        self.assertEqual(
            list(reports.rarest(targets, CLASSES, k=2)), ["dog", "eel"]
        )

    def test_smallest(self):
        rng = np.random.default_rng(1)
        corners = np.sort(rng.random((60, 2, 2)), axis=1)
        boxes = corners.reshape(60, 4).astype("float32")
        box_classes = rng.integers(0, 4, 60)  # no box of "eel"
        found = reports.smallest(boxes, box_classes, CLASSES, k=5)
        expected = {}
        for k, name in enumerate(CLASSES[:4]):
            areas = [
                (ymax - ymin) * (xmax - xmin)
                for ymin, xmin, ymax, xmax in boxes[box_classes == k]
            ]
            expected[name] = sum(areas) / len(areas)
        self.assertEqual(list(found), sorted(expected, key=expected.get))
        self.assertNotEqual(list(found), list(CLASSES[:4]))
        for name, area in found.items():
            self.assertAlmostEqual(area, expected[name], places=6)

    @parameterized.parameters(0, 6)
    def test_refuses_a_number_of_classes_that_there_is_not(self, k):
        box = [[0, 0, 1, 1]]
        for word, find in (
            ("rarest", lambda: reports.rarest(np.ones((1, 5)), CLASSES, k)),
            ("smallest", lambda: reports.smallest(box, [0], CLASSES, k)),
        ):
            with self.assertRaisesRegex(
                ValueError, f"{word} classes .* 1 to 5. Received: k={k}"
            ):
                find()

    def test_table_shows_the_tail_and_the_small(self):
        targets, probabilities = answers()
        report = reports.measure(targets, probabilities, CLASSES)
        rarest, smallest = {"bee": 7, "dog": 9}, {"cat": 0.0125}
        report["rarest"] = {
            **reports.group(report, rarest),
            "num_positives": rarest,
        }
        report["smallest"] = {
            **reports.group(report, smallest),
            "mean_area": smallest,
        }
        ap = report["AP"]
        mean = (ap["bee"] + ap["dog"]) / 2
        self.assertAlmostEqual(report["rarest"]["mAP"], mean)
        self.assertEqual(json.loads(json.dumps(report)), report)
        bee, dog, cat = (f"{100 * ap[k]:6.2f}" for k in ("bee", "dog", "cat"))
        self.assertEqual(
            reports.table(report, "fan").splitlines()[-5:],
            [
                "  Rarest classes with positives: mean AP (continuous) "
                f"{100 * mean:.2f}",
                f"  bee {bee}   positives: 7",
                f"  dog {dog}   positives: 9",
                f"  Smallest classes with boxes: mean AP (continuous){cat}",
                f"  cat {cat}   mean box: 1.25% of the image",
            ],
        )

    def test_nothing_is_rare_where_nothing_is(self):
        targets = np.zeros((2, 5))
        report = reports.measure(targets, targets, CLASSES)
        rarest = reports.rarest(targets, CLASSES, k=2)
        found = reports.group(report, rarest)
        self.assertEqual(found, {"mAP": None, "AP": {}})
