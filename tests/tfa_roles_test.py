"""Proves that Keras computes what tensorflow-addons 0.23.0 computed.

tensorflow-addons ended in 2024 and cannot be imported beside Keras 3. Its
numbers were recorded once; what stands in for each of its roles must give the
same.
"""

import pathlib
import unittest

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo.losses import BinaryCrossentropy

GOLDEN = (
    pathlib.Path(__file__).parents[1].parent
    / "shared"
    / "golden"
    / "tfa_0_23_0.npz"
)
NUM_STEPS = 7
WEIGHTS = ("backbone_kernel", "backbone_bias", "head_kernel", "head_bias")


def sgd_momentum(learning_rate):
    return keras.optimizers.SGD(learning_rate, momentum=0.9)


def sgd_nesterov(learning_rate):
    return keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=True)


@unittest.skipUnless(GOLDEN.exists(), f"needs ../shared/golden/{GOLDEN.name}")
class TensorFlowAddonsRolesTest(parameterized.TestCase, tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        with np.load(GOLDEN) as golden:
            cls.golden = dict(golden)

    # Measured: 1e-7 for SGD, 3e-6 for Adam, whose first steps divide small
    # gradients by their own size.
    @parameterized.parameters(
        ("sgd_momentum", sgd_momentum, 1e-6),
        ("sgd_nesterov", sgd_nesterov, 1e-6),
        ("adam", keras.optimizers.Adam, 1e-5),
    )
    def test_learning_rates_of_groups(self, name, optimizer, tolerance):
        """Stands in for `tfa.optimizers.MultiOptimizer`."""
        images, targets = self.golden["multi_x"], self.golden["multi_y"]
        # A functional model: the paths of a Sequential begin with its name.
        inputs = keras.Input(images.shape[2:])
        hidden = keras.layers.Dense(5, "relu", name="backbone")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden))
        model.set_weights([self.golden[f"multi_init_{w}"] for w in WEIGHTS])
        groups = keras.optimizers.OptimizerMap(
            default_optimizer=optimizer(0.1),
            optimizer_map={"backbone/.*": optimizer(0.01)},
        )
        model.compile(
            keras.optimizers.MultiOptimizer(groups),
            BinaryCrossentropy(),
            jit_compile=False,
        )
        for step in range(NUM_STEPS):
            model.reset_metrics()  # or the loss is the mean of all steps
            loss = model.train_on_batch(images[step], targets[step])
            expected = self.golden[f"multi_{name}_loss_{step}"]
            self.assertAllClose(loss, expected, tolerance, atol=0)
            for weight, value in zip(WEIGHTS, model.get_weights(), strict=True):
                expected = self.golden[f"multi_{name}_{weight}_{step}"]
                self.assertAllClose(value, expected, tolerance, tolerance)

    @parameterized.parameters(None, "micro", "macro", "weighted")
    def test_f1_score(self, average):
        """Stands in for `tfa.metrics.F1Score`."""
        targets, probabilities = self.golden["f1_true"], self.golden["f1_pred"]
        metric = keras.metrics.F1Score(average, threshold=0.5)
        metric.update_state(targets[:90], probabilities[:90])
        metric.update_state(targets[90:], probabilities[90:])
        expected = self.golden[f"f1_{average}"]
        self.assertAllClose(metric.result(), expected, rtol=1e-6, atol=0)

    def test_focal_loss(self):
        """Stands in for `tfa.losses.SigmoidFocalCrossEntropy`."""
        loss = keras.losses.BinaryFocalCrossentropy(
            apply_class_balancing=True,
            alpha=0.25,
            gamma=2.0,
            from_logits=True,
            reduction=None,
        )
        targets, logits = self.golden["focal_true"], self.golden["focal_logits"]
        # Keras takes the mean over classes, tensorflow-addons took the sum.
        result = loss(targets, logits) * targets.shape[-1]
        expected = self.golden["focal_sum_last_axis"]
        self.assertAllClose(result, expected, rtol=1e-6, atol=0)
