import csv
import io
import pathlib
import statistics

import numpy as np
import tensorflow as tf

from recipes import compare
from tests.recipes.command import run
from zoo import comparison, pictures, reports, runs

CLASSES = ("ant", "bee", "cat", "dog")


def write_run(directory, method, seed, images="scenes test", **recipe):
    """Writes what a run leaves, with numbers drawn by method and seed."""
    rng = np.random.default_rng(
        [seed, *method.encode(), *map(ord, str(recipe))]
    )
    targets = (np.random.default_rng(0).random((30, 4)) < 0.4).astype("float32")
    targets[:, 3] = 0  # no positives
    report = {
        "images": images,
        "num_missing": 0,
        **reports.measure(targets, rng.random((30, 4)), CLASSES),
    }
    recipe = {
        **{"method": method, "dataset": "scenes", "seed": seed},
        **recipe,
        "data_sha256": "a" * 64,
    }
    command = f"python recipes/train_{method}.py --seed {seed} --resume"
    command += " --output_dir 'a b' --lr 0.1"
    runs.write_json(directory / runs.RECIPE, recipe)
    runs.write_json(directory / runs.METRICS, report)
    runs.write_json(directory / runs.CARD, {**recipe, "command": command})
    return report


class ComparisonTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.home = pathlib.Path(self.get_temp_dir()) / self.id()
        self.reports = {
            (name, seed): write_run(
                self.home / f"{name}-{seed}", name, seed, **recipe
            )
            for name, seeds, recipe in (
                ("csra", (2, 0, 1), {"num_heads": 1}),
                ("gap", (0, 1), {}),
            )
            for seed in seeds
        }

    def laid(self, reference=None):
        found, others = comparison.read(sorted(self.home.iterdir()))
        self.assertEqual(others, [])
        return comparison.tables(found, reference)

    def test_groups_by_all_but_the_seed(self):
        (table,) = self.laid()
        self.assertEqual(
            {group.name: group.seeds for group in table.groups},
            {"csra": [0, 1, 2], "gap": [0, 1]},
        )
        self.assertEqual(table.reference.name, "gap")
        self.assertEqual(
            table.title, "scenes test, 30 images, mAP (continuous)"
        )

    def test_mean_deviation_and_paired_difference(self):
        (table,) = self.laid()
        head, body = comparison.rows(table)
        row = dict(
            zip(head, next(r for r in body if r[0] == "csra"), strict=True)
        )
        own = [100 * self.reports["csra", seed]["mAP"] for seed in range(3)]
        gap = [100 * self.reports["gap", seed]["mAP"] for seed in range(2)]
        for seed in range(3):
            self.assertEqual(row[f"seed {seed}"], f"{own[seed]:.2f}")
        self.assertEqual(row["mean"], f"{statistics.mean(own):.2f}")
        self.assertEqual(row["deviation"], f"{statistics.stdev(own):.2f}")
        gains = [a - b for a, b in zip(own, gap, strict=False)]  # seeds 0, 1
        self.assertEqual(
            row["over gap"],
            f"{statistics.mean(gains):+.2f} ± {statistics.stdev(gains):.2f}",
        )
        of1 = [self.reports["csra", s]["top3"]["OF1"] for s in range(3)]
        self.assertEqual(row["OF1 top 3"], f"{100 * statistics.mean(of1):.2f}")
        self.assertEqual(
            row["command"], "python recipes/train_csra.py --lr 0.1 --seed N"
        )
        gap_row = dict(
            zip(head, next(r for r in body if r[0] == "gap"), strict=True)
        )
        self.assertEqual((gap_row["seed 2"], gap_row["over gap"]), ("-", "-"))

    def test_names_what_differs_within_a_method(self):
        write_run(self.home / "more", "csra", 0, num_heads=4)
        (table,) = self.laid(self.home / "more")
        names = {group.name for group in table.groups}
        self.assertEqual(names, {"csra num_heads=1", "csra num_heads=4", "gap"})
        self.assertEqual(table.reference.name, "csra num_heads=4")

    def test_a_table_for_each_kind_of_images(self):
        write_run(self.home / "voc", "csra", 0, images="voc2007 test")
        first, second = self.laid()
        self.assertStartsWith(first.title, "scenes test")
        self.assertStartsWith(second.title, "voc2007 test")
        self.assertLen(second.groups, 1)

    def test_the_same_run_twice_is_named(self):
        write_run(self.home / "again", "gap", 1)
        with self.assertRaisesRegex(ValueError, "same recipe and seed.*again"):
            self.laid()

    def test_csv_has_every_number_of_every_run(self):
        lines = list(
            csv.DictReader(io.StringIO(comparison.as_csv(self.laid())))
        )
        self.assertLen(lines, 5)
        for line in lines:
            method = line["group"]
            report = self.reports[method, int(line["seed"])]
            self.assertEqual(float(line["mAP"]), report["mAP"])
            self.assertEqual(float(line["AP bee"]), report["AP"]["bee"])
            self.assertEqual(line["AP dog"], "")
            self.assertEqual(float(line["CR (top 3)"]), report["top3"]["CR"])

    def test_command_prints_and_writes(self):
        runs.write_json(self.home / "stopped" / runs.RECIPE, {})
        (self.home / "empty").mkdir()
        folders = sorted(self.home.iterdir())
        output = self.home / "out"
        out, err, code = run(compare.main, *folders, "--output_dir", output)
        self.assertEqual(code, 0, err)
        self.assertIn("over gap", out)
        self.assertIn("stopped: the run did not end", err)
        self.assertIn("empty: no run is there", err)
        names = ["comparison.csv", "comparison.md", "comparison.png"]
        self.assertEqual(sorted(p.name for p in output.iterdir()), names)
        self.assertIn(
            "`python recipes/train_gap.py --lr 0.1 --seed N` |",
            (output / "comparison.md").read_text(),
        )
        for more, message in (
            (("--output_dir", output), "never overwritten"),
            (("--reference", self.home / "empty"), "one of the finished runs"),
        ):
            _, err, code = run(compare.main, *folders, *more)
            self.assertEqual(code, 1)
            self.assertIn(message, err)
        _, err, code = run(compare.main, self.home / "empty")
        self.assertEqual(code, 1)
        self.assertIn("Expected folders of finished runs", err)


class DifferencesTest(tf.test.TestCase):
    def test_bars_are_the_numbers(self):
        means = np.array([[0.1, np.nan, -0.2], [0.0, np.nan, 0.3]])
        deviations = np.array([[0.05, np.nan, np.nan], [0.01, np.nan, 0.02]])
        figure = pictures.differences(
            ["csra", "gmp"], means, deviations, CLASSES[:3], "gap"
        )
        (axis,) = figure.axes
        labels = [tick.get_text() for tick in axis.get_yticklabels()]
        self.assertEqual(labels, ["ant", "cat", "bee"])
        widths = [[bar.get_width() for bar in c] for c in _bars(axis)]
        self.assertAllClose(np.nan_to_num(widths), [[10, -20, 0], [0, 30, 0]])
        self.assertGreater(pictures.pixels(figure).std(), 0)

    def test_too_many_groups(self):
        with self.assertRaisesRegex(ValueError, "Received: 11"):
            pictures.differences(
                ["x"] * 11, np.zeros((11, 1)), np.zeros((11, 1)), "a", "b"
            )


def _bars(axis):
    return [c for c in axis.containers if hasattr(c, "patches")]
