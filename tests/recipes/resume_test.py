import json
import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo.data import scenes

# Ends the process by SIGKILL, while it writes the second checkpoint or after a
# step of the first epoch that it trains.
KILL = """
    import os, signal, sys
    import keras
    from recipes import train_csra

    moment, *arguments = sys.argv[1:]
    fit, save = keras.Model.fit, keras.Model.save_weights

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def save_half_and_die(model, path):
        save(model, path)
        if moment == "checkpoint" and "epoch_0002" in str(path):
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    class Die(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if moment == str(batch):
                die()

    def fit_and_die(model, *a, callbacks, **k):
        fit(model, *a, callbacks=[*callbacks, Die()], **k)

    keras.Model.fit, keras.Model.save_weights = fit_and_die, save_half_and_die
    train_csra.main(arguments)
"""
SWITCHES = (
    *("--rand_augment", "2", "--ema_momentum", "0.9"),
    *("--mixup", "0.4", "--cutmix", "1"),
    *("--label_smoothing", "0.1", "--precision", "mixed_bfloat16"),
)


@pytest.mark.heavy
class ResumeTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.home = pathlib.Path(self.get_temp_dir())
        scenes.write(self.home / "scenes", num_trainval=36, num_test=3)

    def command(self, name, *more, program=("-m", "recipes.train_csra")):
        flags = ["--data_dir", str(self.home / "scenes"), "--batch_size", "8"]
        flags += ["--image_size", "64", "--epochs", "3", "--devices", "one"]
        flags += [*SWITCHES, *more]
        flags += ["--output_dir", str(self.home / name)]
        return [sys.executable, *program, *flags]

    def train(self, name, *more, **options):
        return subprocess.run(self.command(name, *more, **options)).returncode

    def checkpoints(self, name):
        folders = (self.home / name / "checkpoints").glob("epoch_*")
        return sorted(path.name for path in folders)

    def check_equal(self, name):
        """Compares a run with the one that was never killed, bit by bit."""
        models = [
            keras.saving.load_model(self.home / run / "model.keras")
            for run in ("whole", name)
        ]
        for expected, weight in zip(*(m.weights for m in models), strict=True):
            self.assertAllEqual(weight.numpy(), expected.numpy(), weight.path)
        first, second = (
            np.load(self.home / run / "predictions.npz")["probabilities"]
            for run in ("whole", name)
        )
        self.assertAllEqual(first, second)
        for file in ("metrics.json", "history.csv"):
            texts = [
                (self.home / r / file).read_text() for r in ("whole", name)
            ]
            self.assertEqual(*texts, file)

    def test_a_run_killed_at_any_moment_ends_the_same(self):
        begun = time.monotonic()
        self.assertEqual(self.train("whole"), 0)
        seconds = time.monotonic() - begun
        kill = ("-c", textwrap.dedent(KILL))
        status = self.train("killed", program=(*kill, "checkpoint"))
        self.assertEqual(status, -signal.SIGKILL)
        self.assertEqual(
            self.checkpoints("killed"), ["epoch_0001", "epoch_0002.tmp"]
        )
        step = str(random.randrange(4))
        print(f"kill after step {step}")
        status = self.train("killed", "--resume", program=(*kill, step))
        self.assertEqual(status, -signal.SIGKILL)
        moment = random.uniform(0, 0.7) * seconds
        print(f"kill after {moment:.2f} of {seconds:.2f} seconds")
        process = subprocess.Popen(self.command("killed", "--resume"))
        try:  # it may have ended by then
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self.assertEqual(self.train("killed", "--resume"), 0)
        self.check_equal("killed")
        card = json.loads((self.home / "killed/card.json").read_text())
        self.assertIn("--resume", card["command"])
