import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from zoo.data import scenes

KILL = """
    import os, signal, sys
    import keras
    from recipes import train_csra

    fit = keras.Model.fit

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # In the middle of the second epoch, of four steps.
            if self.model.optimizer.iterations == 4 + 2:
                os.kill(os.getpid(), signal.SIGKILL)

    def fit_and_die(model, *arguments, callbacks, **options):
        return fit(model, *arguments, callbacks=[*callbacks, Kill()], **options)

    keras.Model.fit = fit_and_die
    train_csra.main(sys.argv[1:])
"""
SWITCHES = (
    *("--rand_augment", "2", "--ema_momentum", "0.9"),
    *("--mixup", "0.4", "--cutmix", "1"),
    *("--label_smoothing", "0.1", "--precision", "mixed_bfloat16"),
)


class ResumeTest(tf.test.TestCase):
    @pytest.mark.heavy
    def test_a_killed_run_resumes_and_ends_the_same(self):
        home = pathlib.Path(self.get_temp_dir())
        scenes.write(home / "scenes", num_trainval=36, num_test=8)
        flags = ["--data_dir", str(home / "scenes"), "--batch_size", "8"]
        flags += ["--epochs", "3", "--devices", "one", *SWITCHES]
        # The order in which threads add is free otherwise.
        environment = {**os.environ, "TF_DETERMINISTIC_OPS": "1"}

        def train(name, *more, program=("-m", "recipes.train_csra")):
            command = [sys.executable, *program, *flags, *more]
            command += ["--output_dir", str(home / name)]
            return subprocess.run(command, env=environment).returncode

        self.assertEqual(train("whole"), 0)
        kill = ("-c", textwrap.dedent(KILL))
        self.assertEqual(train("killed", program=kill), -signal.SIGKILL)
        self.assertFalse((home / "killed/card.json").exists())
        checkpoints = list((home / "killed/checkpoints").iterdir())
        self.assertEqual([path.name for path in checkpoints], ["epoch_0001"])
        self.assertEqual(train("killed", "--resume"), 0)
        first, second = (
            np.load(home / name / "predictions.npz")["probabilities"]
            for name in ("whole", "killed")
        )
        self.assertAllClose(first, second, atol=1e-5)
        first, second = (
            json.loads((home / name / "metrics.json").read_text())
            for name in ("whole", "killed")
        )
        self.assertEqual(first, second)
