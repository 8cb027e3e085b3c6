import numpy as np
import tensorflow as tf

from zoo.data.boxes import iou


def reference(regions, boxes):
    """Intersection over union, one pair at a time."""
    result = np.zeros((len(regions), len(boxes)))
    for i, (top, left, bottom, right) in enumerate(regions):
        for j, (y, x, end_y, end_x) in enumerate(boxes):
            height = min(bottom, end_y) - max(top, y)
            width = min(right, end_x) - max(left, x)
            if height > 0 and width > 0:
                areas = (bottom - top) * (right - left)
                areas += (end_y - y) * (end_x - x)
                result[i, j] = height * width / (areas - height * width)
    return result


def random_boxes(seed, count):
    corners = np.random.default_rng(seed).random((count, 2, 2))
    return np.sort(corners, axis=1).reshape(count, 4).astype("float32")


class IouTest(tf.test.TestCase):
    def test_matches_loops(self):
        regions, boxes = random_boxes(0, 50), random_boxes(1, 30)
        regions[:5] = boxes[:5]
        regions[5:8] = 0
        found = iou(regions, boxes)
        self.assertEqual(found.dtype, "float32")
        expected = reference(regions.astype("float64"), boxes.astype("float64"))
        self.assertAllClose(found, expected, rtol=1e-6, atol=0)
        self.assertAllEqual(np.diag(found)[:5], np.ones(5))

    def test_no_area_and_no_overlap(self):
        box = np.array([[0.1, 0.3, 0.3, 0.7]], "float32")
        others = np.array(
            [
                [0, 0, 0, 0],  # padding
                [0.2, 0.4, 0.2, 0.6],  # a line inside
                [0.1, 0.7, 0.3, 0.9],  # touches on the right
                [0.3, 0.3, 0.4, 0.7],  # touches below
                [0.3, 0.7, 0.9, 0.9],  # touches at a corner
            ],
            "float32",
        )
        self.assertAllEqual(iou(others, box), np.zeros((5, 1)))
        self.assertAllEqual(iou(others[:2], others[:2]), np.zeros((2, 2)))

    def test_none(self):
        boxes, none = random_boxes(0, 3), np.zeros((0, 4), "float32")
        self.assertEqual(iou(boxes, none).shape, (3, 0))
        self.assertEqual(iou(none, boxes).shape, (0, 3))
        self.assertEqual(iou(none, none).shape, (0, 0))
