r"""Trains a method and its twins, GAP and GMP, over seeds, and compares them.

Run:    python recipes/sweep.py csra
        python recipes/sweep.py fan --seeds 0 1 2 3 4
        python recipes/sweep.py csra --method_flags="--num_heads 4" \
            --flags="--dataset voc2007 --data_dir VOC --backbone resnet101"

Each run is the command that its line shows, in a folder of its own below
`--output_dir`, with its log beside it. What has ended is not trained again,
also where another method's sweep has trained the twins, and what was stopped
is resumed: a sweep that was killed goes on by the same command. A run that
fails is named, with the end of its log, and the others go on. At the end
stands the table of `recipes/compare.py`, whose files are in
`--output_dir`/comparison-METHOD.
"""

import argparse
import os
import pathlib
import shlex
import subprocess
import sys
import time

from recipes import cli, compare

METHODS = ("csra", "fan", "order_free_rnn", "rarl", "rgnn")
HERE = os.path.relpath(pathlib.Path(__file__).parent)
LAST_LINES = 20  # of the log of a run that failed


def main(argv=None):
    """Trains what is not there yet, then compares; gives the exit status.

    Args:
        argv: list of str, or `None` for the command line.

    Returns:
        int. 0 if all runs have ended well, else 1.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("method", choices=METHODS)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N"
    )
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        default=pathlib.Path("runs/sweep"),
        help="folder of the runs; other --flags want another one "
        "(default: runs/sweep)",
    )
    parser.add_argument(
        "--flags",
        default="",
        help='more flags, of all recipes, after a "=": --flags="--epochs 3"',
    )
    parser.add_argument(
        "--method_flags",
        default="",
        help="more flags, of the method's recipe alone",
    )
    arguments = parser.parse_args(argv)
    if len(set(arguments.seeds)) < len(arguments.seeds):
        parser.error(
            "--seeds must be different. Received: "
            + " ".join(map(str, arguments.seeds))
        )
    commands = _commands(arguments)
    failed, begun = [], time.monotonic()
    for i, (directory, command) in enumerate(commands.items()):
        left = ""
        if i:
            minutes = (time.monotonic() - begun) / i * (len(commands) - i) / 60
            left = f", about {minutes:.0f} minutes left"
        print(f"run {i + 1} of {len(commands)}{left}", flush=True)
        if not _train(directory, command):
            failed.append(directory)
    done = [path for path in commands if path not in failed]
    if failed:
        print("Failed:", *failed, sep="\n  ", file=sys.stderr)
    if done:
        print()
        with cli.clear_errors():
            compare.compare(
                done, arguments.output_dir / f"comparison-{arguments.method}"
            )
    return 1 if failed else 0


def _commands(arguments):
    """Gives the folder of each run and its command, as a user types it."""
    shared = shlex.split(arguments.flags)
    recipes = {
        arguments.method: (
            f"train_{arguments.method}",
            shlex.split(arguments.method_flags),
        ),
        "gap": ("train_baseline", []),
        "gmp": ("train_baseline", ["--pooling", "max"]),
    }
    return {
        arguments.output_dir / f"{name}-seed{seed}": [
            *("python", os.path.join(HERE, f"{script}.py"), *flags, *shared),
            *("--seed", str(seed)),
        ]
        for seed in arguments.seeds
        for name, (script, flags) in recipes.items()
    }


def _train(directory, command):
    """Runs a recipe to its end; tells whether it has ended well."""
    print(f"  {shlex.join(command)}", flush=True)
    log = directory.with_name(f"{directory.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        status = subprocess.run(
            [
                *(sys.executable, *command[1:]),
                *("--output_dir", str(directory), "--resume"),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
    if status:
        end = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        print(
            f"  ended with status {status}, see {log}:",
            *end,
            sep="\n    ",
            file=sys.stderr,
        )
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
