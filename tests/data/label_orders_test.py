import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo.data import label_orders

TARGETS = np.array([[1, -1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]], "float32")


class LabelOrdersTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        ("frequency", [[2, 0, -1], [2, -1, -1], [2, 0, 1]]),
        ("rare", [[0, 2, -1], [2, -1, -1], [1, 0, 2]]),
    )
    def test_each_step_learns_the_next_label(self, order, expected):
        batches = tf.data.Dataset.from_tensors((np.zeros((3, 5)), TARGETS))
        places = label_orders.ranks(TARGETS, order)
        taught = label_orders.teach(batches, places, max_labels=3)
        [((_, labels), steps)] = taught.as_numpy_iterator()
        self.assertAllEqual(labels, expected)
        self.assertEqual(steps.shape, (3, 3, 4))
        for i, wanted in enumerate(expected):
            for t, label in enumerate(wanted):
                # After the last label no class is the next one.
                expected_step = (np.arange(4) == label).astype(float)
                expected_step[TARGETS[i] == -1] = -1
                self.assertAllEqual(steps[i, t], expected_step)

    def test_several_inputs_stay_before_the_labels(self):
        inputs = (np.zeros((3, 5)), np.ones((3, 2)))
        batches = tf.data.Dataset.from_tensors((inputs, TARGETS))
        places = label_orders.ranks(TARGETS, "rare")
        taught = label_orders.teach(batches, places, max_labels=2)
        [((first, second, labels), _)] = taught.as_numpy_iterator()
        self.assertAllEqual(first, inputs[0])
        self.assertAllEqual(second, inputs[1])
        self.assertEqual(labels.shape, (3, 2))

    def test_names_a_bad_order(self):
        with self.assertRaisesRegex(ValueError, "order='alphabetical'"):
            label_orders.ranks(TARGETS, "alphabetical")
