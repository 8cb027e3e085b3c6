import math
import pathlib

import tensorflow as tf

from tests.comparison.finished import write_run, write_runs
from zoo import comparison, runs


class GroupsTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.home = pathlib.Path(self.get_temp_dir()) / self.id()
        self.reports = write_runs(self.home)

    def tables(self, reference=None):
        found, others = comparison.read(sorted(self.home.iterdir()))
        self.assertEqual(others, [])
        return comparison.tables(found, reference)

    def groups(self, reference=None):
        (table,) = self.tables(reference)
        return table, {group.name: group for group in table.groups}

    def test_groups_by_all_but_the_seed(self):
        table, groups = self.groups()
        self.assertEqual(
            {name: group.seeds for name, group in groups.items()},
            {"csra": [0, 1, 2], "gap": [0, 1]},
        )
        self.assertEqual(
            table.title, "scenes test, 30 images, mAP (continuous) in per cent"
        )
        self.assertEqual(table.notes, [])

    def test_runs_are_in_the_order_of_their_seeds(self):
        folders = sorted(self.home.iterdir(), reverse=True)
        (table,) = comparison.tables(comparison.read(folders)[0])
        for group in table.groups:
            self.assertEqual(group.seeds, sorted(group.seeds))

    def test_the_best_is_first(self):
        for k in range(3):
            write_run(self.home / str(k), "csra", 0, num_heads=2 + k)
        table, _ = self.groups()
        means = [
            sum(g.values("mAP")) / len(g.values("mAP")) for g in table.groups
        ]
        self.assertLen(means, 5)
        self.assertEqual(means, sorted(means, reverse=True))

    def test_values_are_those_of_the_reports(self):
        _, groups = self.groups()
        for name, group in groups.items():
            for seed, mean, ant, dog, f1 in zip(
                group.seeds,
                group.values("mAP"),
                group.values("AP", "ant"),
                group.values("AP", "dog"),
                group.values("top3", "CF1"),
                strict=True,
            ):
                report = self.reports[name, seed]
                self.assertEqual(mean, report["mAP"])
                self.assertEqual(ant, report["AP"]["ant"])
                self.assertTrue(math.isnan(dog))
                self.assertEqual(f1, report["top3"]["CF1"])

    def test_differences_are_of_the_same_seeds(self):
        _, groups = self.groups()
        for path in (("mAP",), ("AP", "bee"), ("all", "OF1")):
            expected = []
            for seed in (0, 1):
                own, other = (self.reports[m, seed] for m in ("csra", "gap"))
                for key in path:
                    own, other = own[key], other[key]
                expected.append(own - other)
            gains = comparison.paired(groups["csra"], path, groups["gap"])
            self.assertAllEqual(gains, expected)
        by_bee = comparison.paired(
            groups["gap"], ("AP", "bee"), groups["gap"], ("mAP",)
        )
        own = [self.reports["gap", seed] for seed in (0, 1)]
        self.assertAllEqual(by_bee, [r["AP"]["bee"] - r["mAP"] for r in own])

    def test_mean_and_sample_deviation(self):
        values = [0.5, 0.75, 0.1, 0.2]
        mean = sum(values) / 4
        variance = sum((value - mean) ** 2 for value in values) / 3
        self.assertAllClose(
            comparison.mean_and_deviation(values), (mean, math.sqrt(variance))
        )
        self.assertAllEqual(comparison.mean_and_deviation([]), [math.nan] * 2)

    def test_the_reference_is_gap_or_the_worst_or_as_asked(self):
        write_run(self.home / "more", "csra", 0, num_heads=4)
        table, groups = self.groups()
        self.assertEqual(
            set(groups), {"csra num_heads=1", "csra num_heads=4", "gap"}
        )
        self.assertEqual(table.reference.name, "gap")
        for asked in (self.home / "more", "csra num_heads=4"):
            table, _ = self.groups(asked)
            self.assertEqual(table.reference.name, "csra num_heads=4")
        with self.assertRaisesRegex(
            ValueError, r"one of \['.*'\]. Received: reference='gmp'"
        ):
            self.groups("gmp")
        found, _ = comparison.read(self.home.glob("[cm]*"))
        (table,) = comparison.tables(found)
        self.assertIs(table.reference, table.groups[-1])

    def test_a_table_for_each_kind_of_images(self):
        write_run(self.home / "voc", "csra", 0, images="voc2007 test")
        first, second = self.tables("csra")
        self.assertStartsWith(first.title, "scenes test")
        self.assertStartsWith(second.title, "voc2007 test")
        self.assertEqual(
            [table.reference.name for table in (first, second)], ["csra"] * 2
        )

    def test_other_images_of_the_same_name_are_told_apart(self):
        write_run(self.home / "other", "csra", 0, test_sha256="u" * 64)
        for table, digest in zip(self.tables(), "tu", strict=True):
            self.assertIn(f"30 images (test_sha256 {digest * 64})", table.title)

    def test_other_training_data_is_another_group(self):
        write_run(self.home / "more", "gap", 0, data_sha256="b" * 64)
        _, groups = self.groups()
        self.assertIn("gap data_sha256=bbbbbbbb", groups)

    def test_what_else_differs_is_noted(self):
        write_run(self.home / "rarl", "rarl", 0, commit="def", dataset="coco")
        table, _ = self.groups()
        self.assertEqual(
            table.notes,
            [
                "dataset differs: scenes (csra, gap); coco (rarl)",
                "commit differs: abc (5 runs); def (1 run)",
            ],
        )

    def test_the_same_runs_by_other_code_are_another_group(self):
        commit = "0123456789abcdef0123456789abcdef01234567"
        for seed in (0, 1):
            for mark in ("", "-dirty"):
                write_run(
                    self.home / f"{seed}{mark}",
                    *("gap", seed),
                    commit=commit + mark,
                )
        _, groups = self.groups()
        self.assertEqual(
            {name: group.seeds for name, group in groups.items()},
            {
                "csra": [0, 1, 2],
                "gap commit=abc": [0, 1],
                "gap commit=01234567": [0, 1],
                "gap commit=01234567-dirty": [0, 1],
            },
        )

    def test_other_code_does_not_hide_other_data(self):
        for commit in ("c", "d"):
            for data in ("a", "b"):
                write_run(
                    self.home / f"{commit}{data}",
                    *("gap", 0),
                    commit=commit,
                    data_sha256=data * 64,
                )
        _, groups = self.groups()
        self.assertLen(groups, 6)
        self.assertIn("gap data_sha256=bbbbbbbb commit=c", groups)

    def test_what_is_left_out_is_named(self):
        write_run(self.home / "again", "gap", 1)
        runs.write_json(self.home / "stopped" / runs.RECIPE, {})
        runs.write_json(self.home / "converted" / runs.CARD, {})
        (self.home / "empty").mkdir()
        (self.home / "a log").write_text("")
        write_run(self.home / "broken", "gap", 2)
        (self.home / "broken" / runs.METRICS).write_text("{")
        write_run(self.home / "foreign", "gap", 2)
        runs.write_json(self.home / "foreign" / runs.RECIPE, {})
        folders = sorted(self.home.iterdir())
        found, others = comparison.read([*folders, self.home / "gap-0"])
        self.assertLen(found, 5)
        self.assertEqual(
            [line.partition(": ")[2][:40] for line in others],
            [
                "its files cannot be used, JSONDecodeErro",
                "no metrics.json: it was not trained here",
                "no run is there",
                "its files cannot be used, KeyError: 'see",
                "the same recipe, data, seed and commit a",
                "the run has not ended",
            ],
        )
        names = ["broken", "converted", "empty", "foreign", "gap-1", "stopped"]
        for line, name in zip(others, names, strict=True):
            self.assertStartsWith(line, f"{self.home / name}: ")
        self.assertEndsWith(others[4], "again")
