import csv
import pathlib
import resource
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from zoo import checkpoints


def built():
    keras.utils.set_random_seed(0)
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.Dense(2**14)(image))
    model.compile("adam", "mse")
    model.fit(np.ones((1, 4)), np.ones((1, 2**14)), verbose=0)
    return model


def end_epoch(callback, model, epoch, **logs):
    callback.set_model(model)
    callback.on_epoch_end(epoch, logs)


class FullDiskTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id()

    def test_the_last_checkpoint_stays_and_is_named(self):
        model, history = built(), []
        callback = checkpoints.Checkpoint(self.directory, "x", history)
        end_epoch(callback, model, 0, x=1.0)
        expected = [w.numpy() for w in model.weights]
        model.fit(np.ones((1, 4)), np.ones((1, 2**14)), verbose=0)
        # A file cannot grow beyond this, as on a disk without room: there is
        # enough for the weights, not for what the optimizer knows beside them.
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        of_weights = 4 * model.count_params()
        self.assertEqual(of_weights, 4 * 5 * 2**14)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * of_weights, hard))
        try:
            with self.assertRaisesRegex(
                OSError, "of epoch 2 could not be written.*epoch_0001; --resume"
            ):
                end_epoch(callback, model, 1, x=2.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        names = [path.name for path in self.directory.iterdir()]
        self.assertEqual(names, ["epoch_0001"])
        names = [path.name for path in (self.directory / names[0]).iterdir()]
        self.assertCountEqual(names, ["state.weights.h5", "state.json"])
        # What a run leaves that is killed within a checkpoint.
        half = self.directory / "epoch_0002.tmp"
        half.mkdir()
        (half / "state.json").write_text("{")
        again = built()
        again.set_weights([0 * w for w in expected])
        self.assertEqual(
            checkpoints.resume(again, self.directory), [{"x": 1.0}]
        )
        self.assertFalse(half.exists())
        for weight, value in zip(again.weights, expected, strict=True):
            self.assertAllEqual(weight.numpy(), value)

    def test_without_any_checkpoint_it_says_so(self):
        callback = checkpoints.Checkpoint(self.directory, "x", [])
        with (
            mock.patch.object(
                keras.Model, "save_weights", side_effect=OSError("no room")
            ),
            self.assertRaisesRegex(OSError, "no room. The last .* is none"),
        ):
            end_epoch(callback, built(), 0, x=1.0)


class KilledTest(tf.test.TestCase):
    def test_one_killed_while_it_removes_leaves_no_half_checkpoint(self):
        directory = pathlib.Path(self.get_temp_dir()) / self.id()
        model, history = built(), []
        callback = checkpoints.Checkpoint(directory, "x", history)
        end_epoch(callback, model, 0, x=1.0)

        def remove_half(folder, ignore_errors=False):
            if folder.exists() and not ignore_errors:
                (folder / "state.json").unlink()
                raise KeyboardInterrupt

        with (
            mock.patch.object(checkpoints.shutil, "rmtree", remove_half),
            self.assertRaises(KeyboardInterrupt),
        ):
            end_epoch(callback, model, 1, x=2.0)
        self.assertEqual(checkpoints.best(directory, "x").name, "epoch_0002")
        self.assertLen(checkpoints.resume(model, directory), 2)
        names = [path.name for path in directory.iterdir()]
        self.assertEqual(names, ["epoch_0002"])

    def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(self):
        directory = pathlib.Path(self.get_temp_dir()) / self.id()
        done = []
        replace = checkpoints.os.replace
        with (
            mock.patch.object(
                checkpoints.runs,
                "to_disk",
                lambda path: done.append(pathlib.Path(path).name),
            ),
            mock.patch.object(
                checkpoints.os,
                "replace",
                lambda a, b: (done.append("rename"), replace(a, b)),
            ),
        ):
            callback = checkpoints.Checkpoint(directory, "x", [])
            end_epoch(callback, built(), 0, x=1.0)
        self.assertCountEqual(
            done[:3], ["state.weights.h5", "state.json", "epoch_0001.tmp"]
        )
        self.assertEqual(done[3:], ["rename", directory.name])


class HistoryFileTest(tf.test.TestCase):
    def test_has_a_row_an_epoch_also_after_a_kill_beside_it(self):
        path = pathlib.Path(self.get_temp_dir()) / "history.csv"
        history = [{"b": 1.5, "a": float("nan")}]
        checkpoints.HistoryFile(path, history).on_epoch_end(0)
        # The checkpoint of the second epoch was written, the row was not.
        history = [*history, {"b": 0.1 + 0.2, "a": 3.0}]
        checkpoints.write_history(path, history)
        with open(path) as file:
            rows = list(csv.DictReader(file))
        self.assertEqual(list(rows[0]), ["epoch", "a", "b"])
        self.assertEqual([row["epoch"] for row in rows], ["0", "1"])
        self.assertEqual(rows[0]["a"], "nan")
        self.assertEqual(float(rows[1]["b"]), 0.1 + 0.2)

    def test_writes_nothing_before_the_first_epoch(self):
        path = pathlib.Path(self.get_temp_dir()) / "none.csv"
        checkpoints.write_history(path, [])
        self.assertFalse(path.exists())
