import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo import pictures

CLASSES = ("ant", "bee", "cat")
NAN = np.nan


def numbers(num_groups, num_classes):
    """Gives AP, differences to the first group, and their deviations."""
    rng = np.random.default_rng(0)
    ap = rng.random((num_groups, num_classes))
    ap[:, -1] = NAN
    spread = 0.1 * rng.random(ap.shape)
    return ap, spread, ap[1:] - ap[:1], spread[1:]


def spans(container):
    """Gives how far the error bars of a container go from their middles."""
    _, _, (lines,) = container.lines
    segments = [s for s in lines.get_segments() if len(s)]  # NaN has none
    return [(end[0] - begin[0]) / 2 for begin, end in segments]


class DifferencesTest(parameterized.TestCase, tf.test.TestCase):
    def draw(self):
        ap = [[0.5, NAN, 0.4], [0.6, NAN, 0.2], [0.5, NAN, 0.7]]
        deviations = [[0.1, NAN, 0.2], [0, NAN, 0], [NAN, NAN, NAN]]
        gains = [[0.1, NAN, -0.2], [0.0, NAN, 0.3]]
        gain_deviations = [[0.05, NAN, 0.01], [NAN, NAN, NAN]]
        return pictures.differences(
            ["gap", "csra", "gmp"],
            *(ap, deviations, gains, gain_deviations),
            CLASSES,
            "scenes test",
        )

    def test_points_and_bars_are_the_numbers(self):
        left, right = self.draw().axes
        labels = [tick.get_text() for tick in left.get_yticklabels()]
        self.assertEqual(labels, ["ant", "cat", "bee"])
        points = [c.lines[0].get_xdata() for c in left.containers]
        self.assertAllEqual(
            np.nan_to_num(points, nan=-1),
            [[50, 40, -1], [60, 20, -1], [50, 70, -1]],
        )
        self.assertAllClose(spans(left.containers[0]), [10, 20])
        bars = [c for c in right.containers if hasattr(c, "patches")]
        widths = [[bar.get_width() for bar in c] for c in bars]
        self.assertAllClose(
            np.nan_to_num(widths, nan=-1), [[10, -20, -1], [0, 30, -1]]
        )
        self.assertAllClose(spans(bars[0].errorbar), [5, 1])
        self.assertAllClose(spans(bars[1].errorbar), [0, 0])

    def test_bars_and_points_of_a_class_are_beside_its_name(self):
        left, right = self.draw().axes
        bars = [c for c in right.containers if hasattr(c, "patches")]
        for k in range(2):
            ends = []
            for i, container in enumerate(bars):
                low = container[k].get_y()
                ends.append((low, low + container[k].get_height()))
                y = left.containers[1 + i].lines[0].get_ydata()[k]
                self.assertAllClose(y, sum(ends[-1]) / 2)
            self.assertAllClose(ends[0][1], ends[1][0])
            self.assertAllClose((ends[0][0], ends[1][1]), (k - 0.4, k + 0.4))

    def test_titles_say_what_it_is(self):
        figure = self.draw()
        left, right = figure.axes
        self.assertStartsWith(figure.get_suptitle(), "scenes test; ")
        self.assertEqual(right.get_xlabel(), "AP less that of gap")
        (legend,) = figure.legends
        names = [text.get_text() for text in legend.get_texts()]
        self.assertEqual(names, ["gap", "csra", "gmp"])
        (text,) = left.texts
        self.assertEqual(
            (text.get_text(), text.get_position()[1]), ("no positives", 2)
        )

    def test_the_reference_alone_has_no_differences(self):
        ap, spread, *gains = numbers(1, 3)
        figure = pictures.differences(
            ["gap"], ap, spread, *gains, CLASSES, "title"
        )
        (axis,) = figure.axes
        labels = [tick.get_text() for tick in axis.get_yticklabels()]
        order = sorted(range(2), key=lambda k: -ap[0, k])
        self.assertEqual(labels, [*(CLASSES[k] for k in order), "cat"])

    @parameterized.parameters((1, 2, 1), (20, 3, 1), (80, 3, 2), (45, 11, 4))
    def test_is_readable(self, num_classes, num_groups, columns):
        figure = pictures.differences(
            ["a rather long name of a group"] * num_groups,
            *numbers(num_groups, num_classes),
            [f"a long name, {k}" for k in range(num_classes)],
            "title",
        )
        self.assertLen(figure.axes, 2 * columns)
        pixels = pictures.pixels(figure)
        self.assertGreater(pixels.std(), 0)
        height, width, _ = pixels.shape
        self.assertLess(width, 3200)
        limits = {axis.get_xlim() for axis in figure.axes[1::2]}
        self.assertLen(limits, 1)
        for axis in figure.axes:
            boxes = [
                label.get_window_extent() for label in axis.get_yticklabels()
            ]
            for upper, lower in zip(boxes[:-1], boxes[1:], strict=True):
                self.assertGreaterEqual(upper.y0, lower.y1)
            for box in boxes:
                self.assertBetween(box.x0, 0, width)
                self.assertBetween(box.y0, 0, height)

    def test_too_many_groups(self):
        with self.assertRaisesRegex(ValueError, "Received: 12 names"):
            pictures.differences(["x"] * 12, *numbers(12, 1), "a", "title")
