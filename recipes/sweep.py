r"""Trains a method and its twins, GAP and GMP, over seeds, and compares them.

Run:    python recipes/sweep.py csra
        python recipes/sweep.py fan --seeds 0 1 2 3 4 --epochs 30
        python recipes/sweep.py csra --dataset voc2007 --data_dir VOCdevkit \
            --backbone resnet101 --output_dir runs/voc -- --num_heads 4

The method stands first. Flags that are not listed below go to the recipes of
the method and the twins, those behind `--` to the method's alone. Each run is
the command that its line shows. It has a folder below `--output_dir`, by
default the recipe's own, and its log beside it. What has ended is not trained
again, whoever trained it, and what was stopped is resumed: a sweep that was
killed goes on by the same command, and two sweeps may share their twins. A run
that fails is named, with the end of its log, and the others go on. Of another
recipe none is overwritten: other flags want another `--output_dir`.

At the end stands the table of `recipes/compare.py`, whose files are in the
folder comparison-METHOD-DATASET-BACKBONE beside the runs.
"""

import argparse
import contextlib
import fcntl
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

from recipes import cli, compare
from zoo import runs

METHODS = ("csra", "fan", "order_free_rnn", "rarl", "rgnn")
HERE = os.path.relpath(pathlib.Path(__file__).parent)
RUNS = pathlib.Path("runs")  # where recipes write by default
LAST_LINES = 20  # of the log of a run that failed
# The sweep gives these itself. `--pooling` is what tells GAP from GMP.
ITS_OWN = ("--seed", "--output_dir", "--resume", "--dataset", "--backbone")
NOT_FOR_ALL = (*ITS_OWN, "--pooling")


def main(argv=None):
    """Trains what is not there yet, then compares.

    Args:
        argv: list of str, or `None` for the command line.

    Returns:
        int, the exit status: 0 if all runs have ended well, else 1.
    """
    arguments, flags, method_flags = _parse(argv)
    commands = _commands(arguments, flags, method_flags)
    failed, seconds = [], []
    for i, (directory, command) in enumerate(commands.items()):
        missing = sum(not _is_there(each) for each in list(commands)[i:])
        left = ""
        if seconds:
            minutes = sum(seconds) / len(seconds) * missing / 60
            left = f", about {minutes:.0f} minutes left"
        print(
            f"Run {i + 1} of {len(commands)}, {missing} to train{left}\n"
            f"  {shlex.join(command)}\n  log: {_log(directory)}",
            flush=True,
        )
        begun, to_train = time.monotonic(), not _is_there(directory)
        if not _train(directory, command):
            failed.append(directory)
        elif to_train:
            seconds.append(time.monotonic() - begun)
    print()
    name = f"{arguments.method}-{arguments.dataset}-{arguments.backbone}"
    if done := [path for path in commands if path not in failed]:
        compare.compare(done, arguments.output_dir / f"comparison-{name}")
    if failed:
        print(
            f"{len(failed)} of {len(commands)} runs failed:",
            *(f"{directory}, see {_log(directory)}" for directory in failed),
            sep="\n  ",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _parse(argv):
    """Gives the sweep's arguments, flags of all, and flags of the method."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[cli.data_and_backbone()],
    )
    parser.add_argument("method", choices=METHODS)
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N"
    )
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        default=RUNS,
        help=f"folder of the runs (default: {RUNS})",
    )
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    arguments, flags = parser.parse_known_args(argv[:end])
    method_flags = argv[end + 1 :]
    if len(set(arguments.seeds)) < len(arguments.seeds):
        parser.error(
            "--seeds must be different. Received: "
            + " ".join(map(str, arguments.seeds))
        )
    for given, refused in ((flags, NOT_FOR_ALL), (method_flags, ITS_OWN)):
        for flag in given:
            if flag.partition("=")[0] in refused:
                parser.error(
                    f"{', '.join(refused)} cannot be given there. "
                    f"Received: {flag}"
                )
    chosen = {"dataset": arguments.dataset, "backbone": arguments.backbone}
    for name, value in chosen.items():
        if value != parser.get_default(name):
            flags = [*flags, f"--{name}", value]
    return arguments, flags, method_flags


def _commands(arguments, flags, method_flags):
    """Gives the folder of each run and its command, as a user types it."""
    recipes = {
        arguments.method: (f"train_{arguments.method}", method_flags),
        "gap": ("train_baseline", []),
        "gmp": ("train_baseline", ["--pooling", "max"]),
    }
    commands = {}
    for seed in arguments.seeds:
        for method, (script, more) in recipes.items():
            directory = arguments.output_dir / cli.run_name(
                method, arguments.dataset, arguments.backbone, seed
            )
            commands[directory] = [
                *("python", os.path.join(HERE, f"{script}.py")),
                *(*flags, *more, "--seed", str(seed), "--resume"),
            ]
            if arguments.output_dir != RUNS:
                commands[directory] += ["--output_dir", str(directory)]
    return commands


def _is_there(directory):
    return (directory / runs.CARD).exists()


def _log(directory):
    return directory.with_name(f"{directory.name}.log")


def _train(directory, command):
    """Runs a recipe to its end; tells whether it has ended well."""
    log = _log(directory)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        with contextlib.suppress(OSError):  # some file systems have no locks
            _wait_for(file)
        # The recipe inherits the lock with the file, and keeps it where the
        # sweep is killed: the next one does not train into the same folder.
        status = subprocess.run(
            [sys.executable, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        ).returncode
    if status:
        end = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        print(
            f"  ended with status {status}; the end of {log}:",
            *end,
            sep="\n    ",
            file=sys.stderr,
            flush=True,
        )
    return status == 0


def _wait_for(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("  waiting: another process trains this run", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)


if __name__ == "__main__":
    # The run ends with the sweep, whichever way that is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("Stopped; the same command goes on.", file=sys.stderr)
        sys.exit(130)
