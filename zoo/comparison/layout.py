"""Tables of runs -> text, Markdown, CSV."""

import csv
import io
import re
import shlex

import numpy as np

from zoo import reports
from zoo.comparison.groups import mean_and_deviation, paired

F1 = {  # column, and where it stands in a report
    "CF1": ("all", "CF1"),
    "OF1": ("all", "OF1"),
    "CF1 top 3": ("top3", "CF1"),
    "OF1 top 3": ("top3", "OF1"),
}
SEED = " --seed N"  # the end of a group's command


def rows(table):
    """Lays out a table, in per cent.

    A group whose runs are ranked by other scores, too, has a row for each.

    Args:
        table: `Table`.

    Returns:
        `(head, body)`: list of str, and list of lists of str. "-" stands for
        what was not run or cannot be computed, "none" for a number that the
        report has not, for want of positives.
    """
    seeds = sorted({seed for group in table.groups for seed in group.seeds})
    head = ["run", *(f"seed {seed}" for seed in seeds), "mean", "deviation"]
    head += [f"over {table.reference.name}", *F1, "command"]
    body = []
    for group in table.groups:
        others = group.runs[0].report["other_mAP"]
        for name, path in {
            group.name: ("mAP",),
            **{
                f"{group.name}, {other.replace('_', ' ')}": ("other_mAP", other)
                for other in others
            },
        }.items():
            own = name == group.name
            values = group.values(*path)
            by_seed = dict(zip(group.seeds, values, strict=True))
            mean, deviation = mean_and_deviation(values)
            gain = "-"
            if not (own and group is table.reference):
                gain = _gain(paired(group, path, table.reference, ("mAP",)))
            body.append(
                [
                    name,
                    *(
                        _number(by_seed[seed]) if seed in by_seed else "-"
                        for seed in seeds
                    ),
                    _number(mean),
                    "-" if np.isnan(deviation) else _number(deviation),
                    gain,
                    *(
                        _number(group.values(*where).mean()) if own else "-"
                        for where in F1.values()
                    ),
                    _command(group) if own else "same runs",
                ]
            )
    return head, body


def text(table):
    """Formats a table for a terminal."""
    head, body = rows(table)
    lines = [line[:-1] for line in (head, *body)]  # commands are long
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    laid = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *laid, *table.notes])


def markdown(table):
    """Formats a table as Markdown, with the command of each group."""
    head, body = rows(table)
    cells = [head, ["---", *["---:"] * (len(head) - 2), "---"]]
    for *row, command in body:
        typed = command.endswith(SEED)
        cells.append([*row, f"`{command}`" if typed else command])
    lines = [f"| {' | '.join(_escaped(line))} |" for line in cells]
    notes = ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join([f"**{table.title}**", "", *lines, *notes])


def runs_csv(laid):
    """Lists every number of every run, 0 to 1, one row a run.

    Args:
        laid: list of `Table`.

    Returns:
        str, of a CSV file. A cell is empty where there is no number.
    """
    return _csv(
        {
            "run": str(run.directory),
            "group": group.name,
            "seed": run.seed,
            "images": run.report["images"],
            "num_examples": run.report["num_examples"],
            "mAP_mode": run.report["mAP_mode"],
            **{
                name: float(group.values(*path)[i])
                for name, path in _numbers(run.report).items()
            },
            "data_sha256": run.recipe.get("data_sha256"),
            "test_sha256": run.card.get("test_sha256"),
            "commit": run.card.get("commit"),
            "command": run.card.get("command"),
        }
        for table in laid
        for group in table.groups
        for i, run in enumerate(group.runs)
    )


def means_csv(laid):
    """Lists mean and deviation of every number, one row a group and number.

    Args:
        laid: list of `Table`.

    Returns:
        str, of a CSV file, 0 to 1. A cell is empty where there is no number.
    """
    lines = []
    for table in laid:
        for group in table.groups:
            for name, path in _numbers(group.runs[0].report).items():
                mean, deviation = mean_and_deviation(group.values(*path))
                line = {
                    "images": group.runs[0].report["images"],
                    "group": group.name,
                    "number": name,
                    "num_seeds": len(group.runs),
                    "mean": mean,
                    "deviation": deviation,
                    "reference": table.reference.name,
                }
                if (
                    group is not table.reference
                    and path
                    in _numbers(table.reference.runs[0].report).values()
                ):
                    gains = paired(group, path, table.reference)
                    gain, deviation = mean_and_deviation(gains)
                    line["num_pairs"] = len(gains)
                    line["difference"] = gain
                    line["difference_deviation"] = deviation
                lines.append(line)
    return _csv(lines)


def _numbers(report):
    """Names all numbers of a report: where they stand in it, by column."""
    names = {"mAP": ("mAP",)}
    for name in report["other_mAP"]:
        names[f"mAP {name}"] = ("other_mAP", name)
    for protocol, key in reports.protocols(report).items():
        for name in report[key]:
            names[f"{name} ({protocol})"] = (key, name)
    for name in report["AP"]:
        names[f"AP {name}"] = ("AP", name)
    return names


def _csv(lines):
    lines = [
        {
            name: "" if isinstance(value, float) and np.isnan(value) else value
            for name, value in line.items()
        }
        for line in lines
    ]
    names = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _command(group):
    """Gives what to type for a group, with N for the seed."""
    words = shlex.split(group.runs[0].card.get("command") or "")
    kept, skip = [], False
    for word in words:
        if skip or word == "--resume":
            skip = False
        elif word in ("--seed", "--output_dir"):
            skip = True
        elif not re.match(r"--(seed|output_dir)=", word):
            kept.append(word)
    return shlex.join(kept) + SEED if kept else "-"


def _escaped(cells):
    return [cell.replace("|", r"\|") for cell in cells]


def _number(value):
    return reports.per_cent(None if np.isnan(value) else value)


def _gain(values):
    mean, deviation = mean_and_deviation(values)
    if np.isnan(mean):
        return "-"
    spread = "" if np.isnan(deviation) else f" ± {100 * deviation:.2f}"
    return f"{100 * mean:+.2f}{spread}"
