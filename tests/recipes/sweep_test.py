import contextlib
import fcntl
import io
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
import tensorflow as tf
from absl.testing import parameterized

from recipes import sweep
from tests.comparison.finished import write_run
from tests.recipes.command import run
from zoo import runs
from zoo.data import scenes

ROOT = pathlib.Path(__file__).parents[2]


class SweepTest(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.home = pathlib.Path(self.get_temp_dir()) / self.id()

    def sweep(self, *argv, train):
        """Runs a sweep whose recipes are played by a function."""
        status = []
        with mock.patch.object(sweep, "_train", train):
            out, err, code = run(
                lambda argv: status.append(sweep.main(argv)), *argv
            )
        self.assertEqual(code, 0, err)
        return out, err, status[0]

    @parameterized.parameters(
        ("--seeds 1 1", "--seeds must be different. Received: 1 1"),
        ("--seed 1", "cannot be given there. Received: --seed"),
        ("--pooling=max", "cannot be given there. Received: --pooling=max"),
        ("-- --dataset wider", "cannot be given there. Received: --dataset"),
        ("--dataset imagenet", "invalid choice: 'imagenet'"),
    )
    def test_refuses_what_it_gives_itself(self, flags, message):
        _, err, code = run(sweep._parse, "csra", *flags.split())
        self.assertEqual(code, 2)
        self.assertIn(message, err)

    def test_commands_are_what_a_user_types(self):
        flags = "csra --seeds 4 --epochs 3 -- --pooling spatial".split()
        found = sweep._commands(*sweep._parse(flags))
        recipes = os.path.relpath(ROOT / "recipes")
        self.assertEqual(
            {str(path): shlex.join(line) for path, line in found.items()},
            {
                f"runs/{name}-scenes-tiny-seed4": f"python {recipes}/{line} "
                "--seed 4 --resume"
                for name, line in {
                    "csra": "train_csra.py --epochs 3 --pooling spatial",
                    "gap": "train_baseline.py --epochs 3",
                    "gmp": "train_baseline.py --epochs 3 --pooling max",
                }.items()
            },
        )

    def test_flags_of_all_and_another_folder(self):
        flags = "fan --backbone vgg16 --data_dir x --flip false --output_dir o"
        found = sweep._commands(
            *sweep._parse(f"{flags} --dataset voc2007 --seeds 1 0".split())
        )
        self.assertLen(found, 6)
        shared = "--data_dir x --flip false --dataset voc2007 --backbone vgg16"
        for (path, line), seed in zip(found.items(), "111000", strict=True):
            line = shlex.join(line)
            self.assertIn(f"py {shared}", line)
            self.assertEndsWith(
                line, f"--seed {seed} --resume --output_dir {path}"
            )
            self.assertEqual(path.parent, pathlib.Path("o"))
            self.assertEndsWith(path.name, f"-voc2007-vgg16-seed{seed}")

    def test_a_run_that_fails_is_named_and_the_others_go_on(self):
        tried = []

        def train(directory, command):
            tried.append(directory.name)
            if "max" in command and "3" in command:
                return False
            write_run(directory, directory.name[:3], int(directory.name[-1]))
            return True

        out, err, status = self.sweep(
            *("fan", "--seeds", 3, 4, "--output_dir", self.home), train=train
        )
        self.assertEqual(status, 1)
        self.assertLen(tried, 6)
        failed = self.home / "gmp-scenes-tiny-seed3"
        self.assertEqual(
            err, f"1 of 6 runs failed:\n  {failed}, see {failed}.log\n"
        )
        table = out[out.index("scenes test, 30 images") :]
        for name in ("fan", "gap", "gmp", "seed 3", "seed 4", "over gap"):
            self.assertIn(name, table)
        written = self.home / "comparison-fan-scenes-tiny"
        self.assertTrue((written / "comparison.md").exists())

    def test_all_fail(self):
        out, err, status = self.sweep(
            *("fan", "--seeds", 3, "--output_dir", self.home),
            train=lambda directory, command: False,
        )
        self.assertEqual(status, 1)
        self.assertStartsWith(err, "3 of 3 runs failed:")
        self.assertFalse(self.home.exists())

    def test_time_left_is_that_of_runs_to_train(self):
        there = "gap-scenes-tiny-seed0"
        write_run(self.home / there, "gap", 0)
        clock = [0]

        def train(directory, command):
            if directory.name != there:
                clock[0] += 120
                write_run(
                    directory, directory.name[:3], int(directory.name[-1])
                )
            return True

        with mock.patch.object(sweep.time, "monotonic", lambda: clock[0]):
            out, _, status = self.sweep(
                *("fan", "--seeds", 0, 1, "--output_dir", self.home),
                train=train,
            )
        self.assertEqual(status, 0)
        lines = [line for line in out.splitlines() if line.startswith("Run ")]
        left = ", about {} minutes left"
        self.assertEqual(
            lines,
            [
                "Run 1 of 6, 5 to train",
                f"Run 2 of 6, 4 to train{left.format(8)}",
                f"Run 3 of 6, 4 to train{left.format(8)}",
                f"Run 4 of 6, 3 to train{left.format(6)}",
                f"Run 5 of 6, 2 to train{left.format(4)}",
                f"Run 6 of 6, 1 to train{left.format(2)}",
            ],
        )
        self.assertIn(f"log: {self.home / there}.log", out)

    def train(self, program):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = sweep._train(self.home / "run", ["python", "-c", program])
        return ended, out.getvalue(), err.getvalue()

    def test_a_log_has_all_that_a_run_says(self):
        program = "import sys; print('out'); print('err', file=sys.stderr)"
        self.assertEqual(self.train(program), (True, "", ""))
        log = self.home / "run.log"
        self.assertCountEqual(log.read_text().split(), ["out", "err"])

        fail = "import sys\nfor i in range(99): print('line', i)\nsys.exit(3)"
        ended, _, err = self.train(fail)
        self.assertFalse(ended)
        self.assertStartsWith(err, f"  ended with status 3; the end of {log}:")
        self.assertEqual(
            [line.strip() for line in err.splitlines()[1:]],
            [f"line {i}" for i in range(79, 99)],
        )
        self.assertStartsWith(log.read_text(), "out\n")

    def test_waits_for_another_process_that_trains_the_run(self):
        self.home.mkdir()
        with (self.home / "run.log").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            other = subprocess.Popen(["sleep", "1"], stdout=file)
        ended, out, _ = self.train("print('mine')")
        self.assertTrue(ended)
        self.assertIsNotNone(other.poll())
        other.wait()
        self.assertIn("waiting: another process trains this run", out)

    @pytest.mark.by_hand
    def test_a_killed_sweep_goes_on_by_the_same_command(self):
        scenes.write(self.home / "scenes", num_trainval=36, num_test=8)
        argv = ["csra", "--seeds", "0", "--output_dir", str(self.home / "runs")]
        argv += ["--data_dir", str(self.home / "scenes"), "--epochs", "1"]
        argv += ["--image_size", "64", "--batch_size", "8"]
        csra, gap, gmp = (
            self.home / f"runs/{name}-scenes-tiny-seed0"
            for name in ("csra", "gap", "gmp")
        )

        # Stopped while the second run trains, which ends with it.
        first = subprocess.Popen(
            [sys.executable, "-m", "recipes.sweep", *argv],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (gap / runs.RECIPE).exists():
            self.assertIsNone(first.poll())
            time.sleep(0.1)
        first.send_signal(signal.SIGTERM)
        _, err = first.communicate()
        self.assertEqual(first.returncode, 130)
        self.assertIn("Stopped; the same command goes on.", err)
        with sweep._log(gap).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.assertFalse((gap / runs.CARD).exists())
        before = (csra / runs.MODEL).stat().st_mtime_ns

        status = []
        out, err, _ = run(lambda argv: status.append(sweep.main(argv)), *argv)
        self.assertEqual((status, err), ([0], ""))
        for directory in (csra, gap, gmp):
            self.assertTrue((directory / runs.CARD).exists())
        self.assertEqual((csra / runs.MODEL).stat().st_mtime_ns, before)
        self.assertIn("nothing is left to do", sweep._log(csra).read_text())
        self.assertIn("Run 1 of 3, 2 to train\n", out)
        table = out[out.index("scenes test, 8 images") :]
        for name in ("csra", "gap", "gmp", "over gap"):
            self.assertIn(name, table)
        self.assertIn(f"{self.home}/runs/comparison-csra-scenes-tiny", table)
