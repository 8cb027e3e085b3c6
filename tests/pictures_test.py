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
        box = figure.axes[1].get_window_extent()
        height = pixels.shape[0]
        left, right = int(box.x0) + 4, int(box.x1) - 4
        top, bottom = height - int(box.y1) + 4, height - int(box.y0) - 4
        corners = pixels[[top, bottom]][:, [left, right]].astype(int).sum(-1)
        (lit, upper), (lower, lower_right) = corners
        self.assertGreater(np.abs(lit - upper), 60)
        self.assertGreater(upper, lower + 60)
        self.assertEqual(lower, lower_right)
