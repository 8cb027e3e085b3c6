r"""Compares finished runs: mean and deviation over seeds, class by class.

Run:    python recipes/compare.py runs/*
        python recipes/compare.py runs/* --output_dir comparison
        python recipes/compare.py runs/* --reference gmp
        python recipes/compare.py runs/* --reference runs/gmp-scenes-tiny-seed0

Runs that differ in their seed only are one row. Runs that were measured on
other images have a table of their own. Differences to the reference are paired,
seed by seed. What else differs (from method to method, or commits and versions)
stands below. Folders without a finished run are named and left out.

`--output_dir` writes the tables (comparison.txt, and comparison.md with the
commands), all numbers of each run (runs.csv), their means and deviations over
seeds (means.csv), and for each table a chart, class by class (comparison.png).
"""

import argparse
import pathlib
import sys

import numpy as np

from recipes import cli
from zoo import comparison, pictures, runs
from zoo.pictures.comparison import MOST_GROUPS


def main(argv=None):
    """Prints the tables, and writes them if asked.

    Args:
        argv: list of str, or `None` for the command line.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, metavar="RUN")
    parser.add_argument(
        "--reference",
        metavar="ROW",
        help="row that the others are compared with, by its name or one of its "
        "runs (default: GAP, or else the one of the lowest mAP)",
    )
    parser.add_argument(
        "--output_dir", type=pathlib.Path, help="new folder for the files"
    )
    arguments = parser.parse_args(argv)
    with cli.clear_errors():
        if arguments.output_dir and arguments.output_dir.exists():
            raise FileExistsError(
                "Results are never overwritten, and this folder exists. "
                f"Received: output_dir={str(arguments.output_dir)!r}"
            )
        compare(arguments.runs, arguments.output_dir, arguments.reference)


def compare(directories, output_dir=None, reference=None):
    """Prints the tables of some runs, and writes them if asked.

    Args:
        directories: list of paths.
        output_dir: `pathlib.Path` or `None`; files in it are replaced.
        reference: as `zoo.comparison.tables`.

    Raises:
        ValueError: If none of the folders holds a finished run, or the
            reference is none of the rows.
    """
    found, others = comparison.read(directories)
    if others:
        print("Left out:", *others, sep="\n  ", file=sys.stderr)
    if not found:
        raise ValueError(
            "Expected folders of finished runs. Received: "
            + " ".join(map(str, directories))
        )
    laid = comparison.tables(found, reference)
    print("\n\n".join(map(comparison.text, laid)))
    if output_dir:
        _write(output_dir, laid)


def _write(output_dir, laid):
    """Writes each file beside and renames it."""
    texts = {
        "comparison.txt": "\n\n".join(map(comparison.text, laid)) + "\n",
        "comparison.md": "\n\n".join(map(comparison.markdown, laid)) + "\n",
        "runs.csv": comparison.runs_csv(laid),
        "means.csv": comparison.means_csv(laid),
    }
    for name, text in texts.items():
        runs.write_beside(
            output_dir / name,
            lambda path, text=text: path.write_text(text, "utf-8"),
        )
    charts = {
        f"comparison{f'_{i + 1}' if len(laid) > 1 else ''}.png": table
        for i, table in enumerate(laid)
    }
    for name, table in charts.items():
        runs.write_beside(output_dir / name, _chart(table).savefig)
        for group in _others(table)[MOST_GROUPS:]:
            print(f"Not in {name}, which has no room for it: {group.name}")
    for path in output_dir.glob("comparison*.png"):
        if path.name not in charts:  # of an earlier sweep
            path.unlink()
    print(f"\n{output_dir}")
    for path in sorted(output_dir.iterdir()):
        print(f"  {path.name}")


def _others(table):
    return [group for group in table.groups if group is not table.reference]


def _chart(table):
    """Draws the reference, then the others, the best mAP first."""
    reference, others = table.reference, _others(table)[:MOST_GROUPS]
    classes = list(reference.runs[0].report["AP"])

    def over_classes(groups, numbers):
        """Gives means and deviations, each (groups, classes)."""
        found = [
            comparison.mean_and_deviation(numbers(group, ("AP", name)))
            for group in groups
            for name in classes
        ]
        return np.reshape(found, (len(groups), len(classes), 2)).transpose(
            2, 0, 1
        )

    ap = over_classes([reference, *others], lambda g, path: g.values(*path))
    gains = over_classes(
        others, lambda g, path: comparison.paired(g, path, reference)
    )
    return pictures.differences(
        [group.name for group in (reference, *others)],
        *(*ap, *gains),
        classes,
        f"{table.images}, AP ({table.mode}) in per cent",
    )


if __name__ == "__main__":
    main()
