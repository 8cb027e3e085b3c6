import numpy as np
import tensorflow as tf

from zoo import pictures

CLASSES = ("ant", "bee", "cat", "dog")


class EvidenceTest(tf.test.TestCase):
    def draw(self, targets=(1, 0, -1, 0), num_maps=3):
        image = np.full((60, 80, 3), 40.0)
        image[:30] = 200  # the upper half is bright
        maps = np.zeros((3, 4, 4))
        maps[0, 0, :] = 1  # all look at the upper left
        probabilities = np.array([0.2, 0.9, 0.5, 0.1])
        return pictures.evidence(
            image, maps, probabilities, CLASSES, np.array(targets), num_maps
        )

    def test_titles(self):
        titles = [axis.get_title() for axis in self.draw().axes]
        expected = ["ant", "bee 0.90 (absent)", "cat 0.50", "ant 0.20"]
        self.assertEqual(titles, expected)

    def test_fewer_classes_than_maps(self):
        self.assertLen(self.draw(num_maps=9).axes, 5)

    def test_the_map_lies_over_its_place(self):
        figure = self.draw()
        pixels = pictures.pixels(figure)
        self.assertEqual((pixels.dtype, pixels.ndim), ("uint8", 3))
        attention = figure.axes[1].images[1].get_array()
        self.assertEqual(attention.shape, (3, 4))
        box = figure.axes[1].get_window_extent()
        height = pixels.shape[0]
        left, right = int(box.x0) + 4, int(box.x1) - 4
        top, bottom = height - int(box.y1) + 4, height - int(box.y0) - 4
        corners = pixels[[top, bottom]][:, [left, right]].astype(int).sum(-1)
        (lit, upper), (lower, lower_right) = corners
        self.assertGreater(np.abs(lit - upper), 60)
        self.assertGreater(upper, lower + 60)
        self.assertEqual(lower, lower_right)

    def test_many_true_labels_leave_room_for_the_image(self):
        names = [f"a rather long name, {k}" for k in range(40)]
        figure = pictures.evidence(
            np.zeros((4, 4, 3)),
            np.zeros((2, 2, 40)),
            np.linspace(1, 0, 40),
            names,
            np.ones(40),
        )
        title = figure.axes[0].title
        self.assertEndsWith(title.get_text(), " …")
        height = len(pictures.pixels(figure))
        self.assertLessEqual(title.get_window_extent().y1, height)
        for axis in figure.axes:
            self.assertGreater(axis.get_window_extent().height, 160)

    def test_a_dollar_is_no_formula(self):
        figure = pictures.evidence(
            np.zeros((4, 4, 3)), np.zeros((2, 2, 1)), [0.5], ["$_$"], [1]
        )
        self.assertEqual(pictures.pixels(figure).ndim, 3)


class SequenceTest(tf.test.TestCase):
    def draw(self, labels, names=CLASSES):
        rng = np.random.default_rng(0)
        self.maps = rng.random((len(labels), 3, 4))
        return pictures.sequence(
            np.full((60, 60, 3), 40.0),
            self.maps,
            np.array(labels),
            np.linspace(0.93, 0.2, len(labels)),
            names,
            np.array([1, 0, -1] + [1] * (len(names) - 3)),
        )

    def test_one_map_a_label_in_the_order_found(self):
        figure = self.draw([3, 1, 2, -1])
        self.assertEqual(
            [axis.get_title() for axis in figure.axes],
            ["ant, dog", "1. dog 0.93", "2. bee 0.69 (absent)", "3. cat 0.44"],
        )
        for axis, attention in zip(figure.axes[1:], self.maps, strict=False):
            self.assertAllEqual(axis.images[1].get_array(), attention)

    def test_no_label(self):
        figure = self.draw([-1, -1])
        (axis,) = figure.axes
        self.assertLen(axis.images, 1)
        self.assertEqual(axis.get_title(), "ant, dog")
        self.assertEqual(figure.get_supxlabel(), "no label found")

    def test_long_titles_in_rows_are_apart(self):
        names = [f"a rather long name of a class, {k}" for k in range(20)]
        figure = self.draw([*range(12), -1], names)
        height, width, _ = pictures.pixels(figure).shape
        self.assertGreater(height, 2 * width / 3)  # three rows of five
        boxes = [axis.title.get_window_extent() for axis in figure.axes[:13]]
        for left, right in zip(boxes[:-1], boxes[1:], strict=True):
            self.assertTrue(left.x1 < right.x0 or left.y0 > right.y1)
        for box in boxes:
            self.assertBetween(box.x0, 0, width)
            self.assertBetween(box.x1, 0, width)
            self.assertBetween(box.y1, 0, height)
        for axis in figure.axes[13:]:
            self.assertFalse(axis.axison)
