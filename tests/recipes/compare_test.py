import contextlib
import io
import pathlib
from unittest import mock

import tensorflow as tf

from recipes import compare
from tests.comparison.finished import write_run, write_runs
from tests.recipes.command import run
from zoo import runs


class CompareTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.home = pathlib.Path(self.get_temp_dir()) / self.id()
        self.reports = write_runs(self.home)
        self.output = self.home / "out"

    def folders(self):
        return sorted(self.home.iterdir())

    def test_prints_and_writes(self):
        runs.write_json(self.home / "stopped" / runs.RECIPE, {})
        out, err, code = run(
            compare.main, *self.folders(), "--output_dir", self.output
        )
        self.assertEqual(code, 0, err)
        self.assertEqual(
            err, f"Left out:\n  {self.home}/stopped: the run has not ended\n"
        )
        names = ["comparison.md", "comparison.png", "comparison.txt"]
        names += ["means.csv", "runs.csv"]
        self.assertEqual([p.name for p in sorted(self.output.iterdir())], names)
        text = (self.output / "comparison.txt").read_text()
        self.assertStartsWith(out, text)
        self.assertIn("over gap", text)
        self.assertIn("± ", (self.output / "comparison.md").read_text("utf-8"))

    def test_a_chart_for_each_table(self):
        write_run(self.home / "voc", "csra", 0, images="voc2007 test")
        found = []

        def draw(*arguments):
            found.append(arguments)
            return mock.MagicMock()

        with (
            mock.patch.object(compare.pictures, "differences", draw),
            mock.patch.object(compare.runs, "write_beside") as write,
        ):
            self.output.mkdir()
            compare.compare(self.folders(), self.output)
        paths = [call.args[0].name for call in write.call_args_list]
        self.assertEqual(
            paths[-2:], ["comparison_1.png", "comparison_2.png"], paths
        )
        names, ap, deviations, gains, gain_deviations, classes, title = found[0]
        self.assertEqual(names, ["gap", "csra"])
        self.assertEqual(
            title, "scenes test, 30 images, AP (continuous) in per cent"
        )
        for k, name in enumerate(classes[:3]):
            own, gap = (
                [self.reports[m, s]["AP"][name] for s in range(n)]
                for m, n in (("csra", 3), ("gap", 2))
            )
            differences = [a - b for a, b in zip(own, gap, strict=False)]
            self.assertAllClose(ap[:, k], [sum(gap) / 2, sum(own) / 3])
            self.assertAllClose(gains[:, k], [sum(differences) / 2])
            # Of two numbers.
            deviation = abs(differences[0] - differences[1]) / 2**0.5
            self.assertAllClose(gain_deviations[:, k], [deviation])
            deviation = abs(gap[0] - gap[1]) / 2**0.5
            self.assertAllClose(deviations[0, k], deviation)
        names, _, _, gains, *_ = found[1]
        self.assertEqual((names, gains.shape), (["csra"], (0, 4)))

    def test_more_rows_than_colours(self):
        for k in range(10):
            write_run(self.home / str(k), "fan", 0, dim=k)
        out, err, code = run(
            compare.main, *self.folders(), "--output_dir", self.output
        )
        self.assertEqual(code, 0, err)
        text = (self.output / "comparison.txt").read_text()
        *_, worst = [w for w in text.splitlines() if w[:3] in ("fan", "csr")]
        worst = worst.partition("  ")[0]
        self.assertIn(
            f"Not in comparison.png, which has no room for it: {worst}\n", out
        )
        self.assertEqual(out.count("Not in"), 1)

    def test_files_of_an_earlier_sweep_are_replaced(self):
        self.output.mkdir()
        for name in ("comparison_2.png", "comparison.txt", "mine.png"):
            (self.output / name).write_text("old")
        with contextlib.redirect_stdout(io.StringIO()):
            compare.compare(self.folders()[:-1], self.output)
        names = {path.name for path in self.output.iterdir()}
        self.assertIn("mine.png", names)
        self.assertNotIn("comparison_2.png", names)
        self.assertIn("csra", (self.output / "comparison.txt").read_text())

    def test_names_what_is_wrong(self):
        self.output.mkdir()
        (self.home / "empty").mkdir()
        for command, message in (
            (("--output_dir", self.output), "never overwritten"),
            (("--reference", self.home / "empty"), "must be a finished run"),
        ):
            _, err, code = run(compare.main, *self.folders(), *command)
            self.assertEqual(code, 1)
            self.assertIn(message, err)
        _, err, code = run(compare.main, self.home / "empty")
        self.assertEqual(code, 1)
        self.assertIn("Expected folders of finished runs", err)
