import keras
import numpy as np
import tensorflow as tf

from zoo.models.learner import Learner


class Squares(Learner):
    """Learns one weight, by a loss that is no comparison."""

    def image_losses(self, y, y_pred):
        self.track("targets", y)
        self.track("weighed", y, y)
        return self.loss.call(y, y_pred)


class LearnerTest(tf.test.TestCase):
    def build(self):
        inputs = keras.Input((1,))
        layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
        model = Squares(inputs, layer(inputs), ["targets", "weighed"])
        model.compile(
            keras.optimizers.SGD(0.5),
            keras.losses.MeanSquaredError(),
            jit_compile=False,
        )
        return model

    def test_learns_and_tracks(self):
        model = self.build()
        x, y = np.array([[1.0], [2.0]]), np.array([[3.0], [0.0]])
        logs = model.train_on_batch(x, y, return_dict=True)
        self.assertAllClose(logs["loss"], (4 + 4) / 2)
        self.assertAllClose(logs["targets"], 1.5)
        self.assertAllClose(logs["weighed"], 3.0)
        # d loss / d w = mean of 2 (w x - y) x = (-4 + 8) / 2
        self.assertAllClose(model.layers[1].kernel, [[1 - 0.5 * 2]])

    def test_takes_whole_numbers_and_weights_of_images(self):
        model = self.build()
        x, y = np.array([[1.0], [2.0]]), np.array([[3], [0]])
        logs = model.test_on_batch(
            x, y, sample_weight=np.array([0.0, 1.0]), return_dict=True
        )
        self.assertAllClose(logs["loss"], (0 + 4) / 2)

    def test_names_a_loss_that_cannot_compare_images(self):
        with self.assertRaisesRegex(ValueError, "Received: loss='mse'"):
            self.build().compile("adam", "mse")

    def test_adds_what_the_layers_add(self):
        inputs = keras.Input((1,))
        layer = keras.layers.Dense(
            1,
            use_bias=False,
            kernel_initializer="ones",
            kernel_regularizer=keras.regularizers.L2(0.5),
        )
        model = Squares(inputs, layer(inputs), ["targets", "weighed"])
        model.compile("sgd", keras.losses.MeanSquaredError(), jit_compile=False)
        logs = model.test_on_batch(
            np.ones((2, 1)), np.ones((2, 1)), return_dict=True
        )
        self.assertAllClose(logs["loss"], 0.5)
