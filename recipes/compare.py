r"""Compares finished runs: mean and deviation over seeds, class by class.

Run:    python recipes/compare.py runs/*
        python recipes/compare.py runs/* --output_dir comparison
        python recipes/compare.py runs/* --reference runs/gmp-scenes-tiny-seed0

Runs that differ in their seed only are one row. Differences to the reference
are paired, seed by seed. Folders without a finished run are named and left out.
`--output_dir` writes a Markdown table with the commands (comparison.md), a CSV
file with all numbers of each run (comparison.csv), and a bar chart of the
differences class by class for each table (comparison.png).
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
        type=pathlib.Path,
        metavar="RUN",
        help="run whose group the others are compared with (default: GAP, or "
        "else the one of the lowest mAP)",
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
        ValueError: If none of the folders holds a finished run.
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
        "comparison.md": "\n\n".join(map(comparison.markdown, laid)) + "\n",
        "comparison.csv": comparison.as_csv(laid),
    }
    for name, text in texts.items():
        runs.write_beside(
            output_dir / name, lambda path, text=text: path.write_text(text)
        )
    for path in output_dir.glob("comparison*.png"):  # of an earlier sweep
        path.unlink()
    charts = [
        (table, others)
        for table in laid
        if (others := [g for g in table.groups if g is not table.reference])
    ]
    for i, (table, others) in enumerate(charts):
        for group in others[MOST_GROUPS:]:
            print(f"Not in the chart, which has room for others: {group.name}")
        number = "" if i == 0 else f"_{i + 1}"
        runs.write_beside(
            output_dir / f"comparison{number}.png",
            _chart(table, others[:MOST_GROUPS]).savefig,
        )
    print(f"\n{output_dir}")
    for path in sorted(output_dir.iterdir()):
        print(f"  {path.name}")


def _chart(table, groups):
    classes = list(table.reference.runs[0].report["AP"])
    found = np.array(
        [
            [
                comparison.mean_and_deviation(
                    comparison.paired(group, table.reference, "AP", name)
                )
                for name in classes
            ]
            for group in groups
        ]
    )  # (groups, classes, 2)
    return pictures.differences(
        [group.name for group in groups],
        found[..., 0],
        found[..., 1],
        classes,
        table.reference.name,
    )


if __name__ == "__main__":
    main()
