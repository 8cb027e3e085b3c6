import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from matplotlib.colors import to_hex

from zoo import pictures
from zoo.pictures.canvas import GREEN, RED

CLASSES = ("ant", "bee", "cat", "dog")
BLACK = np.zeros((8, 8, 3))
REGIONS = np.array(
    [
        [0.0, 0.0, 0.5, 0.5],
        [0.1, 0.5, 0.4, 0.9],
        [0.2, 0.2, 0.8, 0.6],
        [0.5, 0.6, 1.0, 1.0],
    ]
)


def random_regions(shape):
    """Gives regions with their sides in order, at least a tenth long."""
    starts = np.random.default_rng(0).uniform(0, 0.9, (*shape, 2))
    ends = np.random.default_rng(1).uniform(starts + 0.1, 1)
    return np.concatenate([starts, ends], axis=-1)


def outlined(axis):
    """Lists the colour of each box, and its ymin, xmin, ymax and xmax."""
    return [
        (to_hex(box.get_edgecolor()), box.get_bbox().get_points()[:, ::-1])
        for box in axis.patches
    ]


class RegionsTest(parameterized.TestCase, tf.test.TestCase):
    def assert_outlined(self, axis, colors, regions):
        expected = [to_hex(color) for color in colors]
        self.assertEqual([color for color, _ in outlined(axis)], expected)
        for (_, corners), region in zip(outlined(axis), regions, strict=True):
            self.assertAllClose(corners.ravel(), region)


class GlimpsesTest(RegionsTest):
    def draw(self, regions, scores, image=BLACK, **arguments):
        targets = np.array([1, 0, -1, 1])
        return pictures.glimpses(
            image, regions, np.array(scores), CLASSES, targets, **arguments
        )

    def test_a_class_is_named_at_the_region_of_its_highest_score(self):
        a, b, c, d = REGIONS
        scores = [  # bee is the most likely, then ant, then cat
            [[0.1, 0.5, -2.0, -9], [0.2, 0.8, -1.0, -8]],
            [[0.3, 0.7, -3.0, -7], [0.6, 0.1, -2.0, -9]],
        ]
        figure = self.draw([[a, b], [c, d]], scores)
        self.assertEqual(
            [axis.get_title() for axis in figure.axes],
            ["ant, dog", "step 1", "step 2"],
        )
        plain, first, second = figure.axes
        self.assertEmpty(plain.patches)
        self.assert_outlined(
            first, ["white", "white", "C2", "C0"], [a, b, b, b]
        )
        self.assert_outlined(second, ["white", "white", "C1"], [c, d, d])
        labels = [
            [
                (text.get_text(), to_hex(text.get_bbox_patch().get_fc()))
                for text in axis.texts
            ]
            for axis in figure.axes
        ]
        self.assertEqual(
            labels,
            [
                [],
                [("bee (absent)", to_hex("C0")), ("cat", to_hex("C2"))],
                [("ant", to_hex("C1"))],
            ],
        )

    def test_number_of_labels(self):
        scores = np.random.default_rng(0).random((2, 2, 4))
        for num_labels in (0, 1, 4, 9):
            figure = self.draw(
                REGIONS.reshape(2, 2, 4), scores, num_labels=num_labels
            )
            labels = sum(len(axis.texts) for axis in figure.axes)
            self.assertEqual(labels, min(num_labels, 4))

    def test_padding_is_not_there(self):
        regions = np.stack([REGIONS[:2], np.zeros((2, 4))])
        scores = np.zeros((2, 2, 4))
        scores[0, 1] = 1
        scores[1] = 9
        _, first, second = self.draw(regions, scores).axes
        self.assertLen(first.texts, 3)
        self.assertEmpty([*second.texts, *second.patches])

    def test_no_region_at_all(self):
        figure = self.draw(np.zeros((1, 2, 4)), np.zeros((1, 2, 4)))
        self.assertEmpty([*figure.axes[1].texts, *figure.axes[1].patches])

    def test_a_region_lies_over_its_place(self):
        image = np.zeros((40, 80, 3))
        image[4:16, 40:72] = 255  # REGIONS[1]
        figure = self.draw(
            REGIONS[None, 1:2], np.zeros((1, 1, 4)), image, num_labels=0
        )
        pixels = pictures.pixels(figure)
        box = figure.axes[1].patches[0].get_window_extent()
        x, y = round(box.x0), len(pixels) - round(box.y0)
        plain = figure.axes[0].get_window_extent()
        self.assertAllClose(plain.width, 2 * plain.height, rtol=0.02)
        for dx, dy, light in ((8, -8, 255), (-8, -8, 0), (8, 8, 0)):
            self.assertAllEqual(pixels[y + dy, x + dx], [light] * 3)

    @parameterized.parameters(
        (0.0, 0.0, 0.1, 0.1),
        (0.9, 0.0, 1.0, 0.1),
        (0.0, 0.9, 0.1, 1.0),
        (0.9, 0.9, 1.0, 1.0),
        (0.4, 0.44, 0.6, 0.56),
        (0.0, 0.0, 1.0, 1.0),
    )
    def test_labels_of_one_region_are_apart_and_in_the_image(self, *region):
        names = [f"a rather long name, {k}" for k in range(3)]
        for size in ((448, 448), (300, 500), (500, 300)):
            figure = pictures.glimpses(
                np.zeros((*size, 3)),
                np.array([[region]]),
                np.zeros((1, 1, 3)),
                names,
                np.zeros(3),
            )
            pictures.pixels(figure)
            axis = figure.axes[1]
            image = axis.get_window_extent()
            extents = [
                text.get_bbox_patch().get_window_extent() for text in axis.texts
            ]
            self.assertLen(extents, 3)
            for upper, lower in zip(extents[:-1], extents[1:], strict=True):
                self.assertGreater(upper.y0, lower.y1)
            for extent in extents:
                self.assertBetween(extent.x0, image.x0 - 2, image.x1)
                self.assertBetween(extent.x1, image.x0, image.x1 + 2)
                self.assertBetween(extent.y0, image.y0 - 2, image.y1)
                self.assertBetween(extent.y1, image.y0, image.y1 + 2)

    def test_six_panels_are_two_rows_of_three(self):
        regions = random_regions((5, 9))
        scores = np.random.default_rng(0).random((5, 9, 4))
        figure = self.draw(regions, scores)
        self.assertLen(figure.axes, 6)
        pictures.pixels(figure)
        tops = {round(axis.get_window_extent().y0) for axis in figure.axes}
        self.assertLen(tops, 2)


class GatesTest(RegionsTest):
    def draw(self, regions, gates, image=BLACK):
        return pictures.gates(
            image,
            np.array(regions),
            np.array(gates),
            CLASSES,
            np.array([1, 0, -1, 1]),
            np.array([0.2, 0.9, 0.3, 0.1]),
        )

    def test_highest_and_lowest(self):
        regions = random_regions([30])
        gates = np.random.default_rng(2).permutation(30) / 100
        figure = self.draw(regions, gates)
        plain, highest, lowest, covering = figure.axes
        order = np.argsort(-gates)
        self.assertEmpty([*plain.patches, *covering.patches])
        self.assert_outlined(highest, [RED] * 5, regions[order[:5]])
        self.assert_outlined(lowest, [GREEN] * 5, regions[order[-5:]])
        self.assertEqual(
            [axis.get_title() for axis in figure.axes[:3]],
            [
                "ant, dog",
                "highest 5 of 30 gates: 0.25 to 0.29",
                "lowest 5 of 30 gates: 0.00 to 0.04",
            ],
        )
        self.assertEqual(
            figure.get_suptitle(),
            "most probable: bee 0.90 (absent), cat 0.30, ant 0.20",
        )

    def test_padding_is_not_there(self):
        regions = random_regions([12])
        gates = np.linspace(0.3, 0.7, 12)
        expected = self.draw(regions, gates)
        padded = self.draw(
            np.concatenate([np.zeros((3, 4)), regions, np.zeros((9, 4))]),
            np.concatenate([np.ones(3), gates, np.zeros(9)]),
        )
        self.assertAllEqual(pictures.pixels(padded), pictures.pixels(expected))

    @parameterized.parameters((9, 5, 4), (4, 2, 2), (3, 2, 1), (1, 1, 0))
    def test_fewer_than_ten_regions(self, count, num_highest, num_lowest):
        regions = random_regions([count])
        _, highest, lowest, _ = self.draw(regions, -np.arange(count)).axes
        self.assert_outlined(
            highest, [RED] * num_highest, regions[:num_highest]
        )
        self.assert_outlined(
            lowest, [GREEN] * num_lowest, regions[num_highest:]
        )

    def test_no_region_at_all(self):
        figure = self.draw(np.zeros((2, 4)), [0.5, 0.5])
        self.assertEqual(
            [axis.get_title() for axis in figure.axes[1:]],
            ["highest 0 of 0 gates", "lowest 0 of 0 gates", "mean gate"],
        )
        for axis in figure.axes:
            self.assertEmpty(axis.patches)
            self.assertLen(axis.images, 1)

    def test_map_is_the_mean_gate_of_what_covers_a_pixel(self):
        regions = random_regions([6]) * [0.5, 1, 0.5, 1]  # the upper half
        gates = np.random.default_rng(2).random(6)
        figure = self.draw(regions, gates, np.zeros((24, 16, 3)))
        self.assertEqual(figure.axes[3].get_aspect(), 24 / 16)
        covering = figure.axes[3].images[1].get_array()
        self.assertEqual(covering.shape, (24, 16))
        expected = np.full((24, 16), np.nan)
        for i in range(24):
            for j in range(16):
                y, x = (i + 0.5) / 24, (j + 0.5) / 16
                here = [
                    gate
                    for (ymin, xmin, ymax, xmax), gate in zip(
                        regions, gates, strict=True
                    )
                    if ymin <= y < ymax and xmin <= x < xmax
                ]
                if here:
                    expected[i, j] = np.mean(here)
        self.assertAllClose(np.ma.filled(covering, np.nan), expected)
        self.assertAllEqual(np.isnan(expected[12:]), np.ones((12, 16), bool))
        low, high = np.nanmin(expected), np.nanmax(expected)
        self.assertEqual(
            figure.axes[3].get_title(), f"mean gate: {low:.2f} to {high:.2f}"
        )

    def test_a_position_that_no_region_covers_is_plain(self):
        image = np.full((8, 8, 3), 77)
        figure = self.draw([[0, 0, 0.5, 1], [0, 0, 0.5, 0.5]], [0, 1], image)
        pixels = pictures.pixels(figure)
        box = figure.axes[3].get_window_extent()
        x, height = int(box.x0 + box.x1) // 2, len(pixels)
        self.assertAllEqual(pixels[height - int(box.y0) - 20, x], [77] * 3)
        self.assertNotAllEqual(pixels[height - int(box.y1) + 20, x], [77] * 3)

    def test_long_names_are_apart_and_in_the_figure(self):
        names = [f"a rather long name, {k}" for k in range(9)]
        figure = pictures.gates(
            BLACK,
            random_regions([12]),
            np.linspace(0, 1, 12),
            names,
            np.array([1] * 6 + [0] * 3),
            np.linspace(0.1, 0.9, 9),
        )
        height, width, _ = pictures.pixels(figure).shape
        top = figure._suptitle.get_window_extent()
        extents = [axis.title.get_window_extent() for axis in figure.axes]
        for left, right in zip(extents[:-1], extents[1:], strict=True):
            self.assertLess(left.x1, right.x0)
        for extent in extents:
            self.assertLess(extent.y1, top.y0)
        self.assertBetween(top.x1, 0, width)
        self.assertBetween(top.y1, 0, height)
