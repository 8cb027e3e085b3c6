import json
import pathlib
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from tests import small
from zoo import runs
from zoo.models import csra


class RunsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id()

    def write(self, name, value):
        runs.write_json(self.directory / name, value)

    def test_a_new_folder_is_free(self):
        runs.check(self.directory, {"seed": 0}, resume=False)
        self.assertFalse(self.directory.exists())

    def test_a_finished_run_is_never_overwritten(self):
        self.write(runs.CARD, {})
        self.write(runs.RECIPE, {"seed": 0})
        with self.assertRaisesRegex(FileExistsError, "--output_dir"):
            runs.check(self.directory, {"seed": 0}, resume=False)
        with self.assertRaisesRegex(ValueError, "seed: 0 then, 1 now$"):
            runs.check(self.directory, {"seed": 1}, resume=True)

    def test_of_a_finished_run_nothing_is_left_to_do(self):
        self.write(runs.RECIPE, {"seed": 0})
        self.assertFalse(runs.check(self.directory, {"seed": 0}, resume=True))
        self.write(runs.CARD, {})
        self.assertTrue(runs.check(self.directory, {"seed": 0}, resume=True))

    def test_a_converted_run_was_not_trained_here(self):
        self.write(runs.CARD, {})  # and no recipe
        with self.assertRaisesRegex(FileExistsError, "never overwritten"):
            runs.check(self.directory, {"seed": 0}, resume=True)

    def test_a_stopped_run_wants_resume(self):
        self.write(runs.RECIPE, {"seed": 0})
        with self.assertRaisesRegex(FileExistsError, "--resume"):
            runs.check(self.directory, {"seed": 0}, resume=False)
        runs.check(self.directory, {"seed": 0}, resume=True)

    def test_without_a_run_there_resume_begins_one(self):
        self.assertFalse(runs.check(self.directory, {"seed": 0}, resume=True))
        self.assertFalse(self.directory.exists())

    def test_resume_wants_the_same_recipe(self):
        self.write(runs.RECIPE, {"seed": 0, "lr": 0.1, "sizes": [1, 2]})
        recipe = {"seed": 1, "lr": 0.1, "sizes": (1, 2)}
        with self.assertRaisesRegex(ValueError, "seed: 0 then, 1 now$"):
            runs.check(self.directory, recipe, resume=True)

    def test_one_process_at_a_time(self):
        recipe = {"seed": 0}
        starts, lock = runs.begin(self.directory, recipe, {"commit": "a"}, True)
        self.assertEqual(starts, [{"commit": "a"}])
        with self.assertRaisesRegex(
            FileExistsError, f"Another process is writing into {self.directory}"
        ):
            runs.begin(self.directory, recipe, {"commit": "b"}, True)
        lock.close()
        starts, lock = runs.begin(self.directory, recipe, {"commit": "b"}, True)
        lock.close()
        self.assertEqual(starts, [{"commit": "a"}, {"commit": "b"}])
        # The starts are no part of the recipe.
        self.assertFalse(runs.check(self.directory, recipe, resume=True))

    def test_a_claim_on_a_file_that_is_gone_is_none(self):
        self.directory.mkdir()
        path = self.directory / runs.LOCK
        flock = runs.fcntl.flock

        def late(lock, flags):
            path.unlink()  # by the process that had it until now
            path.touch()  # by a third one, which claims it next
            flock(lock, flags)

        with (
            mock.patch.object(runs.fcntl, "flock", late),
            self.assertRaisesRegex(FileExistsError, "Another process"),
            runs.claim(self.directory),
        ):
            pass
        with runs.claim(self.directory):
            self.assertTrue(path.exists())
        self.assertFalse(path.exists())

    def test_a_run_that_ended_meanwhile_is_not_begun_again(self):
        self.write(runs.RECIPE, {"seed": 0})
        self.write(runs.CARD, {})
        with self.assertRaisesRegex(FileExistsError, "has ended the run in"):
            runs.begin(self.directory, {"seed": 0}, {}, resume=True)
        with self.assertRaisesRegex(FileExistsError, "never overwritten"):
            runs.begin(self.directory, {"seed": 0}, {}, resume=False)

    def test_finished(self):
        with self.assertRaisesRegex(FileNotFoundError, "card.json"):
            runs.finished(self.directory)
        self.write(runs.CARD, {"method": "csra"})
        self.assertEqual(runs.finished(self.directory), {"method": "csra"})

    def test_a_failed_write_keeps_the_old_file(self):
        self.write("a.json", {"old": 1})
        with self.assertRaises(TypeError):
            self.write("a.json", {"new": object()})
        stored = json.loads((self.directory / "a.json").read_text())
        self.assertEqual(stored, {"old": 1})

        def write_half(temporary):
            temporary.write_text("half")
            raise OSError("no space left on device")

        path = self.directory / "a.json"
        with self.assertRaisesRegex(OSError, "a.json could not .*: no space"):
            runs.write_beside(path, write_half)
        self.assertEqual(json.loads(path.read_text()), {"old": 1})
        self.assertEqual(list(self.directory.iterdir()), [path])

    def test_predictions(self):
        path = self.directory / runs.PREDICTIONS

        class Named:
            image_id = "x"

        runs.save_predictions(
            path, [Named], np.ones((1, 2)), np.zeros((1, 2)), np.eye(2)[:1]
        )
        stored = np.load(path)
        self.assertEqual(stored["image_ids"].tolist(), ["x"])
        self.assertAllEqual(stored["probabilities"], [[1, 0]])
        self.assertEqual(set(stored), {"image_ids", "targets", "probabilities"})
        self.assertEqual(
            [p.name for p in self.directory.iterdir()], [path.name]
        )
        found = {"sequence": [[1, -1]], "sequence_probabilities": [[0.5, 0]]}
        runs.save_predictions(
            *(path, [Named], np.ones((1, 2))),
            {"logits": np.zeros((1, 2)), **found},
            *(np.eye(2)[:1], np.array([[False, True]]), "a rule"),
            {"mean_over_steps": np.full((1, 2), 0.25)},
        )
        more = np.load(path)
        self.assertEqual(
            set(more) - set(stored),
            {"predicted", "labels", "mean_over_steps", *found},
        )
        for name, array in found.items():
            self.assertAllEqual(more[name], array)
        self.assertAllEqual(more["predicted"], [[False, True]])
        self.assertEqual(more["labels"], "a rule")
        self.assertAllEqual(more["mean_over_steps"], [[0.25, 0.25]])

    def test_model_is_saved_without_its_optimizer(self):
        model = csra(small.backbone(), 2)
        model.compile("adam", "mse", jit_compile=False)
        model.fit(np.zeros((2, 32, 32, 3)), np.zeros((2, 2)), verbose=0)
        path = self.directory / runs.MODEL
        runs.save_model(path, model)
        loaded = keras.saving.load_model(path)
        self.assertFalse(loaded.compiled)
        self.assertAllClose(
            loaded(np.ones((1, 32, 32, 3))), model(np.ones((1, 32, 32, 3)))
        )

    def test_versions_and_commit(self):
        self.assertStartsWith(runs.versions()["keras"], "3.")
        with mock.patch.dict("os.environ", {"TF_ENABLE_ONEDNN_OPTS": "0"}):
            self.assertEqual(runs.versions()["onednn"], "0")
        commit = runs.commit()
        if commit is not None:
            self.assertRegex(commit, r"^[0-9a-f]{40}(-dirty)?$")
