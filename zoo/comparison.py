"""Finished runs -> what they have in common, what differs, who is better.

Runs of one recipe that differ in their seed only are a group. Groups that were
measured on the same images stand in one table, and their difference to a
reference is paired: of the same seeds, seed by seed.
"""

import csv
import dataclasses
import io
import json
import pathlib
import re
import shlex

import numpy as np

from zoo import reports, runs

F1 = tuple(
    (f"{name}{suffix}", key, name)
    for key, suffix in (("all", ""), ("top3", " top 3"))
    for name in ("CF1", "OF1")
)  # column, and where it stands in a report


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        directory: `pathlib.Path`.
        recipe: dict, what makes it another run, but for the seed.
        seed: int.
        report: dict, what `zoo.reports.measure` gave.
        command: str or `None`, that made it.
    """

    directory: pathlib.Path
    recipe: dict
    seed: int
    report: dict
    command: str | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, in the order of their seeds."""

    name: str
    runs: list

    @property
    def seeds(self):
        """Gives the seeds of the runs."""
        return [run.seed for run in self.runs]

    def values(self, *path):
        """Gives a number of each run's report, NaN for `None`.

        Args:
            *path: str. Keys of the report, such as `"all", "CF1"`.

        Returns:
            float64 array of shape `(num_runs,)`.
        """
        found = []
        for run in self.runs:
            value = run.report
            for key in path:
                value = value[key]
            found.append(np.nan if value is None else value)
        return np.array(found, "float64")


@dataclasses.dataclass(frozen=True)
class Table:
    """Groups that were measured on the same images, in the same way.

    Args:
        title: str.
        groups: list of `Group`, the best mean mAP first.
        reference: `Group` that the others are compared with, one of them.
    """

    title: str
    groups: list
    reference: Group


def read(directories):
    """Reads the runs among some folders.

    Args:
        directories: iterable of str or path.

    Returns:
        `(found, others)`: a list of `Run`, and a list of str that names the
        folders which hold no finished run, and says why.
    """
    found, others = [], []
    for directory in map(pathlib.Path, directories):
        try:
            card = runs.finished(directory)
        except FileNotFoundError:
            stopped = (directory / runs.RECIPE).exists()
            why = "the run did not end" if stopped else "no run is there"
            others.append(f"{directory}: {why}")
            continue
        path = directory / runs.RECIPE
        if not path.exists():
            others.append(f"{directory}: converted, not trained here")
            continue
        recipe = json.loads(path.read_text())
        found.append(
            Run(
                directory,
                {k: v for k, v in recipe.items() if k != "seed"},
                recipe["seed"],
                json.loads((directory / runs.METRICS).read_text()),
                card.get("command"),
            )
        )
    return found, others


def tables(found, reference=None):
    """Groups runs, and the groups by what they were measured on.

    Args:
        found: list of `Run`.
        reference: path of the run whose group the others are compared with;
            `None` for GAP, the plain twin, or else the worst by mean mAP.

    Returns:
        list of `Table`.

    Raises:
        ValueError: If the reference is none of the runs, or if two runs are
            the same recipe with the same seed.
    """
    found = {run.directory.resolve(): run for run in found}
    if reference and pathlib.Path(reference).resolve() not in found:
        raise ValueError(
            "The reference must be one of the finished runs. "
            f"Received: reference={str(reference)!r}"
        )
    by_images = {}
    for run in found.values():
        by_images.setdefault(_measured_on(run.report), []).append(run)
    laid = []
    for some in by_images.values():
        groups = _groups(some)
        groups.sort(
            key=lambda group: -np.nan_to_num(group.values("mAP").mean())
        )
        chosen = next(
            (g for g in groups if g.runs[0].recipe["method"] == "gap"),
            groups[-1],
        )
        if reference:
            asked = found[pathlib.Path(reference).resolve()]
            chosen = next((g for g in groups if asked in g.runs), chosen)
        report = some[0].report
        title = (
            f"{report['images']}, {report['num_examples']} images, "
            f"mAP ({report['mAP_mode']})"
        )
        laid.append(Table(title, groups, chosen))
    return laid


def paired(group, reference, *path):
    """Subtracts the reference's numbers from the group's, seed by seed.

    Args:
        group: `Group`.
        reference: `Group`.
        *path: as `Group.values`.

    Returns:
        float64 array, one difference for each seed that both have.
    """
    own, others = (
        dict(zip(g.seeds, g.values(*path), strict=True))
        for g in (group, reference)
    )
    shared = [seed for seed in own if seed in others]
    return np.array([own[seed] - others[seed] for seed in shared])


def mean_and_deviation(values):
    """Gives mean and sample deviation, which a single number has not.

    Example:

    >>> mean_and_deviation([1.0, 3.0]), mean_and_deviation([1.0])
    ((2.0, 1.4142135623730951), (1.0, nan))
    """
    values = np.asarray(values, "float64")
    mean = float(values.mean()) if values.size else np.nan
    return mean, float(values.std(ddof=1)) if values.size > 1 else np.nan


def rows(table):
    """Lays out a table, in per cent.

    Args:
        table: `Table`.

    Returns:
        `(head, body)`: list of str, and list of lists of str.
    """
    seeds = sorted({seed for group in table.groups for seed in group.seeds})
    head = ["run", *(f"seed {seed}" for seed in seeds), "mean", "deviation"]
    head += [f"over {table.reference.name}", *(column for column, *_ in F1)]
    head += ["command"]
    body = []
    for group in table.groups:
        by_seed = dict(zip(group.seeds, group.values("mAP"), strict=True))
        mean, deviation = mean_and_deviation(group.values("mAP"))
        row = [group.name]
        row += [_number(by_seed[s]) if s in by_seed else "-" for s in seeds]
        row += [_number(mean), _number(deviation)]
        if group is table.reference:
            row.append("-")
        else:
            row.append(_difference(paired(group, table.reference, "mAP")))
        for _, *path in F1:
            row.append(_number(group.values(*path).mean()))
        body.append([*row, _command(group)])
    return head, body


def text(table):
    """Formats a table for a terminal."""
    head, body = rows(table)
    lines = [line[:-1] for line in (head, *body)]  # commands are long
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        [
            table.title,
            *(
                "  ".join(
                    cell.ljust(width) if i == 0 else cell.rjust(width)
                    for i, (cell, width) in enumerate(
                        zip(line, widths, strict=True)
                    )
                ).rstrip()
                for line in lines
            ),
        ]
    )


def markdown(table):
    """Formats a table as Markdown, with the command of each group."""
    head, body = rows(table)
    cells = [head, ["---"] * len(head)]
    cells += [[*row[:-1], f"`{row[-1]}`"] for row in body]
    lines = [
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |"
        for line in cells
    ]
    return "\n".join([f"**{table.title}**", "", *lines])


def as_csv(laid):
    """Writes one row a run, with the AP of each class, 0 to 1.

    Args:
        laid: list of `Table`.

    Returns:
        str, of a CSV file.
    """
    lines = []
    for table in laid:
        for group in table.groups:
            for run in group.runs:
                report = run.report
                line = {
                    "run": str(run.directory),
                    "group": group.name,
                    "seed": run.seed,
                    "images": report["images"],
                    "num_examples": report["num_examples"],
                    "mAP_mode": report["mAP_mode"],
                    "mAP": report["mAP"],
                }
                for protocol, key in reports.protocols(report).items():
                    for name, value in report[key].items():
                        line[f"{name} ({protocol})"] = value
                for name, value in report["AP"].items():
                    line[f"AP {name}"] = value
                lines.append(line)
    names = list(dict.fromkeys(name for line in lines for name in line))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def _measured_on(report):
    """Gives what must be equal for numbers to be compared."""
    return json.dumps(
        [
            *(report["images"], report["num_examples"], report["mAP_mode"]),
            report["num_positives"],
        ]
    )


def _groups(some):
    by_recipe = {}
    for run in some:
        key = json.dumps(run.recipe, sort_keys=True)
        by_recipe.setdefault(key, []).append(run)
    names = _names([group[0].recipe for group in by_recipe.values()])
    made = []
    for name, group in zip(names, by_recipe.values(), strict=True):
        group.sort(key=lambda run: run.seed)
        for run, other in zip(group, group[1:], strict=False):
            if run.seed == other.seed:
                raise ValueError(
                    "Two runs have the same recipe and seed. Received: "
                    f"{run.directory} and {other.directory}"
                )
        made.append(Group(name, group))
    return made


def _names(recipes):
    """Names recipes by the method and what differs within it."""
    names = []
    for recipe in recipes:
        others = [r for r in recipes if r["method"] == recipe["method"]]
        differing = [
            key
            for key in recipe
            if any(other.get(key) != recipe[key] for other in others)
        ]
        if "data_sha256" in differing:  # says nothing to a reader
            differing.remove("data_sha256")
            differing.append("data_sha256")
        settings = [f"{key}={_short(key, recipe[key])}" for key in differing]
        names.append(" ".join([recipe["method"], *settings]))
    return names


def _short(key, value):
    return value[:8] if key == "data_sha256" else value


def _command(group):
    """Gives what to type for a group, with N for the seed."""
    words = shlex.split(group.runs[0].command or "")
    kept, skip = [], False
    for word in words:
        if skip or word == "--resume":
            skip = False
        elif word in ("--seed", "--output_dir"):
            skip = True
        elif not re.match(r"--(seed|output_dir)=", word):
            kept.append(word)
    return f"{shlex.join(kept)} --seed N" if kept else "-"


def _number(value):
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _difference(values):
    mean, deviation = mean_and_deviation(values)
    if np.isnan(mean):
        return "-"
    spread = "" if np.isnan(deviation) else f" ± {100 * deviation:.2f}"
    return f"{100 * mean:+.2f}{spread}"
