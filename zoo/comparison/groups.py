"""Finished runs -> what they have in common, what differs, who is better.

Runs of one recipe that differ in their seed only are a group; where a seed is
there twice, by other code, those of one commit. Groups that were measured on
the same images stand in one table, and their difference to a reference is
paired: of the same seeds, seed by seed.
"""

import dataclasses
import json
import pathlib

import numpy as np

from zoo import runs
from zoo.comparison import differing


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        directory: `pathlib.Path`.
        recipe: dict, what makes it another run, without the seed.
        seed: int.
        report: dict, what `zoo.reports.measure` gave.
        card: dict.
    """

    directory: pathlib.Path
    recipe: dict
    seed: int
    report: dict
    card: dict


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
        images: str.
        mode: str, of average precision.
        groups: list of `Group`, the best mean mAP first.
        reference: `Group` that the others are compared with, one of them.
        notes: list of str: what else differs, beside the names of the groups.
    """

    images: str
    mode: str
    groups: list
    reference: Group
    notes: list

    @property
    def title(self):
        """Says what was measured on what."""
        return f"{self.images}, mAP ({self.mode}) in per cent"


def read(directories):
    """Reads the runs among some folders.

    Args:
        directories: iterable of str or path. Files among them are passed over.

    Returns:
        `(found, others)`: a list of `Run`, and a list of str that names the
        folders which are left out, and says why.
    """
    found, others, seen = [], [], {}
    for directory in dict.fromkeys(map(pathlib.Path, directories)):
        if directory.is_file():
            continue
        try:
            run = _read(directory)
            commit = run.card.get("commit")
            key = (_key(run.recipe), run.seed, _measured_on(run), commit)
        except FileNotFoundError as error:
            others.append(f"{directory}: {_absence(directory, error)}")
            continue
        except (OSError, ValueError, KeyError) as error:
            others.append(
                f"{directory}: its files cannot be used, "
                f"{type(error).__name__}: {error}"
            )
            continue
        same = seen.setdefault(key, run)
        if same is run:
            found.append(run)
        else:
            others.append(
                f"{directory}: the same recipe, data, seed and commit as "
                f"{same.directory}"
            )
    return found, others


def _read(directory):
    card = runs.finished(directory)
    report, recipe = (
        json.loads((directory / name).read_text())
        for name in (runs.METRICS, runs.RECIPE)
    )
    seed = recipe.pop("seed")
    return Run(directory, recipe, seed, report, card)


def _absence(directory, error):
    if (directory / runs.CARD).exists():
        return (
            f"no {pathlib.Path(error.filename).name}: it was not trained here"
        )
    if (directory / runs.RECIPE).exists():
        return "the run has not ended"
    return "no run is there"


def tables(found, reference=None):
    """Groups runs, and the groups by what they were measured on.

    Args:
        found: list of `Run`, from `read`.
        reference: str or path: the group that the others are compared with,
            by its name or by one of its runs; `None` for GAP, the plain twin,
            or else the worst by mean mAP.

    Returns:
        list of `Table`.

    Raises:
        ValueError: If the reference is not among the groups and runs.
    """
    by_images = {}
    for run in found:
        by_images.setdefault(_measured_on(run), []).append(run)
    names = [_images(some[0].report) for some in by_images.values()]
    laid, is_found = [], reference is None
    for images, some in zip(names, by_images.values(), strict=True):
        groups, notes = _groups(some)
        groups.sort(
            key=lambda group: -np.nan_to_num(group.values("mAP").mean())
        )
        chosen = next(
            (g for g in groups if g.runs[0].recipe["method"] == "gap"),
            groups[-1],
        )
        for group in groups:
            if reference is not None and _is_meant(group, reference):
                chosen, is_found = group, True
        if names.count(images) > 1:
            images += f" (test_sha256 {some[0].card.get('test_sha256')})"
        mode = some[0].report["mAP_mode"]
        laid.append(Table(images, mode, groups, chosen, notes))
    if not is_found:
        names = [group.name for table in laid for group in table.groups]
        raise ValueError(
            f"The reference must be a finished run, or one of {names}. "
            f"Received: reference={str(reference)!r}"
        )
    return laid


def paired(group, path, reference, reference_path=None):
    """Subtracts the reference's numbers from the group's, seed by seed.

    Args:
        group: `Group`.
        path: sequence of str, as `Group.values`.
        reference: `Group`.
        reference_path: the same of the reference; `None` for `path`.

    Returns:
        float64 array, one difference for each seed that both have.
    """
    own = dict(zip(group.seeds, group.values(*path), strict=True))
    others = reference.values(*(reference_path or path))
    others = dict(zip(reference.seeds, others, strict=True))
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


def _key(value):
    return json.dumps(value, sort_keys=True)


def _measured_on(run):
    """Gives what must be equal for numbers to be compared."""
    names = ("images", "num_examples", "mAP_mode", "num_positives")
    measured = [run.report[name] for name in names]
    return _key([*measured, run.card.get("test_sha256")])


def _images(report):
    return f"{report['images']}, {report['num_examples']} images"


def _is_meant(group, reference):
    path = pathlib.Path(reference).resolve()
    return str(reference) == group.name or any(
        run.directory.resolve() == path for run in group.runs
    )


def _groups(some):
    """Gives the groups among some runs, and notes on what else differs."""
    by_recipe = {}
    for run in some:
        by_recipe.setdefault(_key(run.recipe), []).append(run)
    members, recipes = [], []
    for of_recipe in by_recipe.values():
        for group, commit in _by_commit(of_recipe):
            members.append(sorted(group, key=lambda run: run.seed))
            recipes.append({**group[0].recipe, **commit})
    settings = differing.settings(recipes)
    groups = [
        Group(" ".join([recipe["method"], *shown.values()]), group)
        for recipe, shown, group in zip(recipes, settings, members, strict=True)
    ]
    return groups, [
        *differing.between_methods(recipes, settings),
        *differing.makers([run.card for run in some]),
    ]


def _by_commit(some):
    """Splits runs of one recipe by their code, where a seed is there twice."""
    if len({run.seed for run in some}) == len(some):
        return [(some, {})]
    parts = {}
    for run in some:
        parts.setdefault(run.card.get("commit"), []).append(run)
    return [(part, {"commit": commit}) for commit, part in parts.items()]
