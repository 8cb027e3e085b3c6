import pathlib
from unittest import mock

import keras
import pytest
import tensorflow as tf

from recipes import train_order_free_rnn
from tests.recipes.command import run, stopping_at
from tests.tensorboard_test import traced_steps
from zoo.data import scenes


class Interrupt(keras.callbacks.Callback):
    """Interrupts a training within its third step."""

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 2:
            raise KeyboardInterrupt


class ProfileTest(tf.test.TestCase):
    @pytest.mark.by_hand
    def test_every_phase_is_traced_also_when_it_is_resumed(self):
        home = pathlib.Path(self.get_temp_dir())
        scenes.write(home / "scenes", num_trainval=36, num_test=6)
        fit = keras.Model.fit

        def train(*more):  # in epochs of four steps
            return run(
                *(train_order_free_rnn.main, "--data_dir", home / "scenes"),
                *("--output_dir", home / "run", "--resume"),
                *("--image_size", 64, "--batch_size", 8, "--units", 16),
                *("--preliminary_epochs", 1, "--epochs", 3, *more),
            )

        def traces(phase):
            return traced_steps(home / "run" / phase / "tensorboard")

        def interrupted(model, *arguments, callbacks, **options):
            callbacks = [*callbacks, Interrupt()]
            fit(model, *arguments, callbacks=callbacks, **options)

        with (
            mock.patch.object(keras.Model, "fit", interrupted),
            self.assertRaises(KeyboardInterrupt),
        ):
            train("--profile", 3)
        with self.assertRaises(tf.errors.UnavailableError):
            tf.profiler.experimental.stop()
        self.assertEqual(traces("preliminary"), [[2]])

        with stopping_at(3), self.assertRaises(KeyboardInterrupt):
            train("--profile", 2)
        self.assertEqual(traces("preliminary"), [[2], [3, 4]])
        self.assertEqual(traces(""), [[3, 4]])
