import pathlib
import shlex
from unittest import mock

import pytest
import tensorflow as tf

from recipes import sweep
from tests.recipes.command import run
from zoo import runs
from zoo.data import scenes


class SweepTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.home = pathlib.Path(self.get_temp_dir()) / self.id()

    def test_seeds_must_differ(self):
        _, err, code = run(sweep.main, "csra", "--seeds", 1, 1)
        self.assertEqual(code, 2)
        self.assertIn("--seeds must be different. Received: 1 1", err)

    def test_a_run_that_fails_is_named_and_the_others_go_on(self):
        tried = []

        def train(directory, command):
            tried.append(shlex.join(command))
            return "max" not in command

        with (
            mock.patch.object(sweep, "_train", train),
            mock.patch.object(sweep.compare, "compare") as compared,
        ):
            out, err, _ = run(
                lambda argv: self.assertEqual(sweep.main(argv), 1),
                *("fan", "--seeds", 3, 4, "--output_dir", self.home),
                *("--flags=--epochs=1", "--method_flags=--dim 8"),
            )
        self.assertEqual(
            [line.partition("recipes/")[2] for line in tried[:3]],
            [
                "train_fan.py --dim 8 --epochs=1 --seed 3",
                "train_baseline.py --epochs=1 --seed 3",
                "train_baseline.py --pooling max --epochs=1 --seed 3",
            ],
        )
        self.assertLen(tried, 6)
        self.assertIn("run 6 of 6, about 0 minutes left", out)
        self.assertIn(f"Failed:\n  {self.home}/gmp-seed3", err)
        (done, output), _ = compared.call_args
        names = [path.name for path in done]
        self.assertEqual(
            names, ["fan-seed3", "gap-seed3", "fan-seed4", "gap-seed4"]
        )
        self.assertEqual(output, self.home / "comparison-fan")

    @pytest.mark.heavy
    def test_trains_resumes_and_compares(self):
        scenes.write(self.home / "scenes", num_trainval=36, num_test=8)
        flags = f"--data_dir {self.home / 'scenes'} --epochs 1 --batch_size 8"
        argv = ["csra", "--seeds", 0, "--output_dir", self.home / "runs"]
        out, err, code = run(sweep.main, *argv, "--flags", flags)
        self.assertEqual((code, err), (0, ""))
        table = out[out.index("scenes test, 8 images") :]
        for name in ("csra", "gap", "gmp", "over gap"):
            self.assertIn(name, table)
        written = self.home / "runs/comparison-csra"
        self.assertTrue((written / "comparison.png").stat().st_size)

        # One did not end; the others are not trained again.
        stopped, ended = (self.home / f"runs/{n}-seed0" for n in ("gap", "gmp"))
        (stopped / runs.CARD).unlink()
        before = (ended / runs.MODEL).stat().st_mtime
        again, err, code = run(sweep.main, *argv, "--flags", flags)
        self.assertEqual((code, err), (0, ""))
        self.assertEqual(again[again.index("scenes test, 8 images") :], table)
        self.assertTrue((stopped / runs.CARD).exists())
        self.assertEqual((ended / runs.MODEL).stat().st_mtime, before)
        log = (self.home / "runs/gmp-seed0.log").read_text()
        self.assertIn("nothing is left to do", log)

        # Of another recipe in the same folder, none is overwritten.
        _, err, _ = run(sweep.main, *argv, "--flags", f"{flags} --shift 0.5")
        self.assertIn("shift: 0.08 then, 0.5 now", err)
        self.assertIn("ended with status 1", err)
