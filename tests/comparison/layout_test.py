import csv
import io
import math
import pathlib
import statistics

import tensorflow as tf

from tests.comparison.finished import write_run, write_runs
from zoo import comparison, reports


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


class LayoutTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.home = pathlib.Path(self.get_temp_dir()) / self.id()
        self.reports = write_runs(self.home)

    def tables(self):
        found, _ = comparison.read(sorted(self.home.iterdir()))
        return comparison.tables(found)

    def lines(self):
        (table,) = self.tables()
        head, body = comparison.rows(table)
        return {row[0]: dict(zip(head, row, strict=True)) for row in body}

    def values(self, method, seeds, *path):
        found = []
        for seed in seeds:
            value = self.reports[method, seed]
            for key in path:
                value = value[key]
            found.append(100 * value)
        return found

    def test_mean_deviation_and_paired_difference(self):
        row = self.lines()["csra"]
        own = self.values("csra", range(3), "mAP")
        gap = self.values("gap", range(2), "mAP")
        for seed in range(3):
            self.assertEqual(row[f"seed {seed}"], f"{own[seed]:.2f}")
        self.assertEqual(row["mean"], f"{statistics.mean(own):.2f}")
        self.assertEqual(row["deviation"], f"{statistics.stdev(own):.2f}")
        gains = [a - b for a, b in zip(own, gap, strict=False)]  # seeds 0, 1
        self.assertEqual(
            row["over gap"],
            f"{statistics.mean(gains):+.2f} ± {statistics.stdev(gains):.2f}",
        )
        for column, path in {
            "CF1": ("all", "CF1"),
            "OF1": ("all", "OF1"),
            "CF1 top 3": ("top3", "CF1"),
            "OF1 top 3": ("top3", "OF1"),
        }.items():
            mean = statistics.mean(self.values("csra", range(3), *path))
            self.assertEqual(row[column], f"{mean:.2f}")
        self.assertEqual(
            row["command"], "python recipes/train_csra.py --lr 0.1 --seed N"
        )

    def test_what_is_not_there(self):
        write_run(self.home / "fan", "fan", 2)
        rows = self.lines()
        gap, fan = rows["gap"], rows["fan"]
        self.assertEqual((gap["seed 2"], gap["over gap"]), ("-", "-"))
        self.assertNotEqual(gap["deviation"], "-")
        self.assertEqual((fan["deviation"], fan["over gap"]), ("-", "-"))
        (table,) = self.tables()
        for group in table.groups:
            for run in group.runs:
                run.report["mAP"] = None
        head, body = comparison.rows(table)
        for row in body:
            row = dict(zip(head, row, strict=True))
            self.assertEqual((row["mean"], row["over gap"]), ("none", "-"))

    def test_other_scores_have_rows_of_their_own(self):
        name = ("order_free_rnn", "mean_over_steps")
        report = write_run(self.home / "rnn", name[0], 1, other_scores=name[1:])
        rows = self.lines()
        row = rows["order_free_rnn, mean over steps"]
        value = 100 * report["other_mAP"]["mean_over_steps"]
        self.assertEqual((row["seed 0"], row["seed 1"]), ("-", f"{value:.2f}"))
        gain = value - 100 * self.reports["gap", 1]["mAP"]
        self.assertEqual(row["over gap"], f"{gain:+.2f}")
        self.assertEqual((row["CF1"], row["command"]), ("-", "same runs"))
        names = list(rows)
        own = names.index("order_free_rnn")
        self.assertEqual(names[own + 1], "order_free_rnn, mean over steps")

    def test_text_is_a_table_of_columns(self):
        (table,) = self.tables()
        table.notes.append("a note")
        title, head, *body, note = comparison.text(table).splitlines()
        self.assertEqual((title, note), (table.title, "a note"))
        for line in body:
            self.assertEqual(line[head.index("seed 0") :][:6].strip()[-3], ".")
            self.assertLen(line.split("%"), 1)
        self.assertNotIn("python", head + "".join(body))

    def test_markdown_has_as_many_cells_everywhere(self):
        write_run(self.home / "a|b", "a|b", 0)
        (table,) = self.tables()
        table.notes.append("a note")
        text = comparison.markdown(table)
        title, _, head, *lines, _, note = text.splitlines()
        self.assertEqual((title, note), (f"**{table.title}**", "- a note"))
        counts = {line.replace(r"\|", "").count("|") for line in (head, *lines)}
        self.assertLen(counts, 1)
        self.assertIn(
            "| `python recipes/train_gap.py --lr 0.1 --seed N` |", text
        )

    def test_every_number_of_every_run(self):
        write_run(self.home / "rnn", "rnn", 1, other_scores=("mean",))
        lines = read_csv(comparison.runs_csv(self.tables()))
        self.assertLen(lines, 6)
        for line in lines:
            if line["group"] == "rnn":
                self.assertBetween(float(line["mAP mean"]), 0, 1)
                continue
            report = self.reports[line["group"], int(line["seed"])]
            self.assertEqual(float(line["mAP"]), report["mAP"])
            self.assertEqual(float(line["AP bee"]), report["AP"]["bee"])
            self.assertEqual((line["AP dog"], line["mAP mean"]), ("", ""))
            for protocol, key in reports.protocols(report).items():
                for name, value in report[key].items():
                    self.assertEqual(float(line[f"{name} ({protocol})"]), value)
            self.assertEqual(line["test_sha256"], "t" * 64)

    def test_mean_deviation_and_difference_of_every_number(self):
        write_run(self.home / "rnn", "rnn", 1, other_scores=("mean",))
        lines = read_csv(comparison.means_csv(self.tables()))
        found = {(line["group"], line["number"]): line for line in lines}
        self.assertLen(found, len(lines))
        for number, path in {
            "mAP": ("mAP",),
            "AP bee": ("AP", "bee"),
            "CR (top 3)": ("top3", "CR"),
        }.items():
            line = found["csra", number]
            own = self.values("csra", range(3), *path)
            gap = self.values("gap", range(2), *path)
            gains = [a - b for a, b in zip(own, gap, strict=False)]
            for name, expected in {
                "mean": statistics.mean(own),
                "deviation": statistics.stdev(own),
                "difference": statistics.mean(gains),
                "difference_deviation": statistics.stdev(gains),
            }.items():
                self.assertAllClose(100 * float(line[name]), expected)
            self.assertEqual((line["num_seeds"], line["num_pairs"]), ("3", "2"))
        self.assertEqual(found["csra", "AP dog"]["mean"], "")
        self.assertEqual(found["csra", "AP dog"]["difference"], "")
        self.assertEqual(found["gap", "mAP"]["difference"], "")
        self.assertEqual(found["rnn", "mAP"]["deviation"], "")
        # The reference is not ranked by it.
        self.assertEqual(found["rnn", "mAP mean"]["difference"], "")
        self.assertFalse(math.isnan(float(found["rnn", "mAP mean"]["mean"])))
