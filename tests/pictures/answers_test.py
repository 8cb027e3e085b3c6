import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo import metrics, pictures

CLASSES = ("ant", "bee", "cat", "dog")


def answers(num_classes=4, num_examples=60):
    """Targets with unknown ones, a class without positives, and ties."""
    rng = np.random.default_rng(0)
    shape = (num_examples, num_classes)
    targets = (rng.random(shape) < 0.4).astype("float32")
    probabilities = 0.3 * targets + 0.7 * rng.random(shape)
    targets[rng.random(shape) < 0.1] = -1
    targets[:, -1] = np.minimum(targets[:, -1], 0)
    return targets, probabilities.round(1).astype("float32")


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def tick_labels(axis):
    return [tick.get_text() for tick in axis.get_yticklabels()]


class APBarsTest(parameterized.TestCase, tf.test.TestCase):
    def test_the_best_is_first_and_a_class_without_positives_last(self):
        ap = [0.25, np.nan, 1.0, 0.5]
        (axis,) = pictures.ap_bars(ap, CLASSES, "11point").axes
        self.assertEqual(tick_labels(axis), ["cat", "dog", "ant", "bee"])
        widths = [bar.get_width() for bar in axis.patches]
        self.assertAllEqual(widths[:3], [100, 50, 25])
        self.assertEqual(
            texts(axis.figure), ["100.0", "50.0", "25.0", "no positives"]
        )

    def test_mean_and_mode(self):
        figure = pictures.ap_bars([0.25, np.nan, 1.0], "abc", "11point")
        self.assertIn("(11point)", figure.get_suptitle())
        self.assertIn("mean 62.5", figure.get_suptitle())
        (line,) = figure.axes[0].lines
        self.assertAllEqual(line.get_xdata(), [62.5, 62.5])

    def test_no_positives_at_all(self):
        figure = pictures.ap_bars([np.nan, np.nan], "ab", "continuous")
        self.assertIn("mean none", figure.get_suptitle())
        self.assertEmpty(figure.axes[0].lines)

    @parameterized.parameters((14, 1), (20, 1), (80, 2), (312, 8), (400, 8))
    def test_columns(self, num_classes, columns):
        ap = np.linspace(0, 1, num_classes)
        figure = pictures.ap_bars(ap, ["name"] * num_classes, "continuous")
        self.assertLen(figure.axes, columns)
        self.assertLen(texts(figure), num_classes)

    @parameterized.parameters(14, 80)
    def test_names_are_apart_and_within_the_figure(self, num_classes):
        names = [f"a rather long name, {k}" for k in range(num_classes)]
        figure = pictures.ap_bars(
            np.linspace(0, 1, num_classes), names, "continuous"
        )
        height, width, _ = pictures.pixels(figure).shape
        for axis in figure.axes:
            boxes = [
                label.get_window_extent() for label in axis.get_yticklabels()
            ]
            for upper, lower in zip(boxes[:-1], boxes[1:], strict=True):
                self.assertGreaterEqual(upper.y0, lower.y1)
            for box in (*boxes, figure._suptitle.get_window_extent()):
                self.assertBetween(box.x0, 0, width)
                self.assertBetween(box.x1, 0, width)
                self.assertBetween(box.y0, 0, height)

    def test_long_names_and_dollars(self):
        names = ["x" * 60, "$_$"]
        figure = pictures.ap_bars([0.5, 0.4], names, "continuous")
        pictures.pixels(figure)
        long, dollars = tick_labels(figure.axes[0])
        self.assertEqual(long, "x" * 27 + "…")
        self.assertEqual(dollars, r"\$_\$")


class PrecisionRecallTest(parameterized.TestCase, tf.test.TestCase):
    def test_curve_is_that_of_the_definition(self):
        targets, scores = (values[:, 0] for values in answers())
        recall, precision = metrics.precision_recall_curve(targets, scores)
        expected = []
        for threshold in scores[targets == 1]:
            predicted = (scores >= threshold) & (targets != -1)
            correct = (targets[predicted] == 1).sum()
            expected.append(
                (correct / (targets == 1).sum(), correct / predicted.sum())
            )
        expected.sort(key=lambda point: point[0])
        self.assertAllClose(np.stack([recall, precision], 1), expected)

    def test_its_mean_is_average_precision(self):
        targets, scores = answers()
        expected = metrics.average_precision(targets, scores)
        for k in range(3):
            _, precision = metrics.precision_recall_curve(
                targets[:, k], scores[:, k]
            )
            self.assertAlmostEqual(precision.mean(), expected[k])

    def test_few_classes_have_a_panel_each(self):
        targets, probabilities = answers()
        figure = pictures.precision_recall(targets, probabilities, CLASSES)
        ap = 100 * metrics.average_precision(targets, probabilities)
        self.assertEqual(
            [axis.get_title() for axis in figure.axes],
            [
                *(f"{CLASSES[k]} {ap[k]:.1f}" for k in range(3)),
                "dog no positives",
            ],
        )
        pooled, curve = figure.axes[1].lines
        x, y = curve.get_data()
        area = (np.diff(x) * y[1:]).sum() / 100
        self.assertAlmostEqual(area, ap[1])
        self.assertEqual(curve.get_drawstyle(), "steps-pre")
        _, precision = metrics.precision_recall_curve(targets, probabilities)
        self.assertAllClose(pooled.get_ydata()[1:], 100 * precision)
        self.assertIn(
            f"pooled {100 * precision.mean():.1f}", figure.get_suptitle()
        )

    def test_titles_of_panels_are_apart_and_within_the_figure(self):
        targets, probabilities = answers(num_classes=20)
        names = [f"a rather long name of class {k}" for k in range(20)]
        figure = pictures.precision_recall(targets, probabilities, names)
        _, width, _ = pictures.pixels(figure).shape
        boxes = [axis.title.get_window_extent() for axis in figure.axes]
        self.assertBetween(boxes[0].x0, 0, width)
        self.assertBetween(boxes[4].x1, 0, width)
        for left, right in zip(boxes[:4], boxes[1:5], strict=True):
            self.assertLess(left.x1, right.x0)

    def test_of_many_classes_three_are_named(self):
        targets, probabilities = answers(num_classes=22)
        names = [f"class {k}" for k in range(22)]
        figure = pictures.precision_recall(targets, probabilities, names)
        (axis,) = figure.axes
        self.assertLen(axis.lines, 21 + 3 + 1)
        ap = metrics.average_precision(targets, probabilities)
        order = np.argsort(-ap[:21])
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        expected = [
            f"{word}: class {k} {100 * ap[k]:.1f}"
            for word, k in zip(
                ("best", "median", "worst"), order[[0, 10, 20]], strict=True
            )
        ]
        self.assertEqual(labels[:3], expected)
        self.assertStartsWith(labels[3], "all classes pooled")

    @parameterized.parameters(2, 30)
    def test_no_positives_at_all(self, num_classes):
        zeros = np.zeros((3, num_classes))
        figure = pictures.precision_recall(zeros, zeros, ["a"] * num_classes)
        self.assertEqual(pictures.pixels(figure).ndim, 3)

    def test_a_curve_of_many_points_is_thinned_and_whole(self):
        targets = np.ones((50_000, 1))
        scores = np.random.default_rng(0).random((50_000, 1))
        figure = pictures.precision_recall(targets, scores, ["a"])
        x = figure.axes[0].lines[1].get_xdata()
        self.assertLen(x, 2001)
        self.assertEqual((x[0], x[-1]), (0, 100))


class WorstErrorsTest(parameterized.TestCase, tf.test.TestCase):
    def test_the_images_of_the_highest_loss(self):
        targets, probabilities = answers()
        targets[5] = -1
        losses = []
        for target, row in zip(targets, probabilities, strict=True):
            terms = [
                -np.log(max(p if t == 1 else 1 - p, 1e-7))
                for t, p in zip(target, row, strict=True)
                if t != -1
            ]
            losses.append(np.mean(terms) if terms else 0)
        indices = pictures.worst_images(targets, probabilities, 60)
        self.assertAllClose(
            np.array(losses)[indices], sorted(losses, reverse=True)
        )
        self.assertAllEqual(
            pictures.worst_images(targets, probabilities, 3), indices[:3]
        )

    def test_certain_and_wrong_is_finite(self):
        targets = np.array([[1, 1], [1, 0]])
        probabilities = np.array([[1, 0.4], [0, 1]], "float32")
        indices = pictures.worst_images(targets, probabilities)
        self.assertAllEqual(indices, [1, 0])

    def draw(self, targets, probabilities, **arguments):
        count = len(targets)
        images = np.full((count, 8, 8, 3), 127.0)
        names = [f"c{k}" for k in range(len(targets[0]))]
        return pictures.worst_errors(
            images,
            np.array(targets),
            np.array(probabilities),
            names,
            **arguments,
        ).axes

    def test_missed_above_and_wrong_below(self):
        (axis,) = self.draw(
            [[1, 1, 0, 0, 1, 0, -1]], [[0.3, 0.1, 0.6, 0.9, 0.8, 0.2, 0.9]]
        )
        self.assertEqual(axis.get_title(), "missed c1 0.10\nmissed c0 0.30")
        self.assertEqual(axis.get_xlabel(), "wrong c3 0.90\nwrong c2 0.60")
        self.assertAllEqual(axis.images[0].get_array()[0, 0], [127] * 3)

    def test_where_nothing_is_wrong_the_nearest_to_it_is_named(self):
        (right, alone) = self.draw(
            [[1, 1, 0, 0, -1], [0, -1, -1, -1, -1]],
            [[0.9, 0.6, 0.1, 0.4, 0.45], [0.7, 0.1, 0.2, 0.3, 0.4]],
        )
        self.assertEqual(right.get_title(), "present c1 0.60")
        self.assertEqual(right.get_xlabel(), "absent c3 0.40")
        self.assertEqual(right.title.get_color(), right.xaxis.label.get_color())
        self.assertEqual(alone.get_title(), "")
        self.assertEqual(alone.get_xlabel(), "wrong c0 0.70")

    @parameterized.parameters(1, 4, 8)
    def test_all_that_is_written_fits(self, num_images):
        targets = np.tile([1.0] * 6 + [0.0] * 6, (num_images, 1))
        figure = pictures.worst_errors(
            np.zeros((num_images, 8, 8, 3)),
            targets,
            1 - targets,
            [f"a rather long name of class {k:02}" for k in range(12)],
        )
        height, width, _ = pictures.pixels(figure).shape
        panels = np.reshape(figure.axes, (-1, min(num_images, 4)))
        for axis in panels.flat:
            self.assertLen(axis.get_title().splitlines(), 4)
            image = axis.get_window_extent()
            self.assertGreater(image.width, 200)
            above = axis.title.get_window_extent()
            below = axis.xaxis.label.get_window_extent()
            for box in (above, below):
                self.assertBetween(box.x0, 0, width)
                self.assertBetween(box.x1, 0, width)
                self.assertBetween(box.y0, 0, height)
                self.assertBetween(box.y1, 0, height)
        for left, right in zip(panels[0, :-1], panels[0, 1:], strict=True):
            self.assertLess(
                left.title.get_window_extent().x1,
                right.title.get_window_extent().x0,
            )
        for upper, lower in zip(panels[:-1, 0], panels[1:, 0], strict=True):
            self.assertGreater(
                upper.xaxis.label.get_window_extent().y0,
                lower.title.get_window_extent().y1,
            )

    def test_threshold(self):
        (axis,) = self.draw([[1, 0, 1]], [[0.3, 0.3, 0.2]], threshold=0.2)
        self.assertEqual(axis.get_title(), "missed c2 0.20")
        self.assertEqual(axis.get_xlabel(), "wrong c1 0.30")

    def test_labels_that_the_model_gives_by_itself(self):
        (axis,) = self.draw(
            [[1, 0, 1, 0]],
            [[0.9, 0.1, 0.2, 0.8]],
            predicted=np.array([[False, True, True, False]]),
        )
        self.assertEqual(axis.get_title(), "missed c0 0.90")
        self.assertEqual(axis.get_xlabel(), "wrong c1 0.10")

    def test_many_errors_are_counted(self):
        (axis,) = self.draw([[0] * 5], [[0.9] * 5])
        self.assertEndsWith(axis.get_xlabel(), "wrong c2 0.90\nand 2 more")

    def test_places_without_an_image_are_blank(self):
        axes = self.draw([[1]] * 5, [[0.1]] * 5)
        self.assertLen(axes, 8)
        shown = [axis.axison for axis in axes]
        self.assertEqual(shown, [True] * 5 + [False] * 3)
