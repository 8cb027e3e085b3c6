"""Command line of the client: `python -m serving.client photo.jpg`."""

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Sequence

import grpc

from serving.client import Client, ServingError

DEFAULT_THRESHOLD = 0.5  # lowest probability to print
NOT_PROBABLE = "no label is probable enough, see --threshold and --top"
NO_SEQUENCE = (
    "the model found no label; --threshold and --top show the most probable "
    "ones"
)


def _parse(argv):
    parser = argparse.ArgumentParser(
        prog="python -m serving.client",
        description="Asks a server for the labels of image files. A model that "
        "itself decides which labels an image has, as Order-Free RNN does, "
        "answers with these, in the order in which it found them; --threshold "
        "and --top ask for the most probable ones instead.",
        epilog="example: python -m serving.client --target localhost:8500 "
        "--model csra photo.jpg holiday/*.jpg",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", help="JPEG, PNG or WebP files")
    parser.add_argument(
        "--target",
        default="localhost:8500",
        help="host:port of the server (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        default="csra",
        help="name of the model on the server (default: %(default)s)",
    )
    parser.add_argument(
        "--version", type=int, help="version of the model (default: newest)"
    )
    parser.add_argument(
        "--timeout_seconds",
        type=float,
        default=30.0,
        help="longest wait for one image (default: %(default)s)",
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--threshold",
        type=float,
        help="lowest probability to print, 0 to 1 "
        f"(default: {DEFAULT_THRESHOLD})",
    )
    chosen.add_argument(
        "--top", type=int, help="print so many labels, however improbable"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a file, with the most probable labels as "
        "'labels' and those that the model decides on, if it does, as "
        "'sequence'",
    )
    args = parser.parse_args(argv)
    args.is_default = args.threshold is None and args.top is None
    if args.threshold is None:
        args.threshold = DEFAULT_THRESHOLD
    if not 0 <= args.threshold <= 1:
        parser.error(f"--threshold must be in 0 to 1, not {args.threshold}")
    if args.top is not None and args.top < 1:
        parser.error(f"--top must be at least 1, not {args.top}")
    if args.timeout_seconds <= 0:
        parser.error(
            f"--timeout_seconds must be above 0, not {args.timeout_seconds}"
        )
    return args


def _print_error(subject, problem):
    print(f"{subject}: {' '.join(str(problem).split())}", file=sys.stderr)


def _is_file(path):
    """Says so if not, before anybody waits for TensorFlow or the server."""
    if os.path.isfile(path):
        return True
    _print_error(path, "no such file")
    return False


def _print_json(path, answers):
    """Prints a dict of lists of pairs of label and probability."""
    lists = {
        name: [{"label": k, "probability": p} for k, p in labels]
        for name, labels in answers.items()
    }
    print(json.dumps({"file": path, **lists}), flush=True)


def _print_labels(path, labels, if_none):
    """Prints the pairs of label and probability, or what there is to say."""
    width = max((len(label) for label, _ in labels), default=0)
    lines = [f"  {label:{width}}  {p:.3f}" for label, p in labels]
    print(path, *(lines or [f"  {if_none}"]), sep="\n", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Asks for each file and prints the answers, and the errors on stderr.

    Args:
        argv: list of str, or `None` for the command line's.

    Returns:
        The exit code: 0, or 1 if any file has no answer.
    """
    args = _parse(argv)
    paths = [path for path in args.images if _is_file(path)]
    if not paths:
        return 1
    failed = len(paths) < len(args.images)
    try:
        with Client(args.target, args.timeout_seconds) as client:
            names = client.labels(args.model, args.version)
            for path in paths:
                try:
                    _ask(client, path, names, args)
                except (OSError, ServingError, ValueError) as error:
                    if not _is_about_image(error):
                        raise
                    _print_error(path, error)
                    failed = True
    except (ServingError, ValueError) as error:
        _print_error("error", error)
        return 1
    return int(failed)


def _ask(client, path, names, args):
    # One file a message, so that an error names the file.
    image = pathlib.Path(path).read_bytes()
    [prediction] = client.predict([image], args.model, args.version)
    pairs = zip(names, prediction.probabilities.tolist(), strict=True)
    labels = sorted(pairs, key=lambda pair: -pair[1])
    if args.top is None:
        labels = [pair for pair in labels if pair[1] >= args.threshold]
    answers = {"labels": labels[: args.top]}
    if prediction.sequence_labels is not None:
        values = prediction.sequence_probabilities.tolist()
        answers["sequence"] = list(
            zip(prediction.sequence_labels, values, strict=True)
        )
    if args.json:
        _print_json(path, answers)
    elif args.is_default and "sequence" in answers:
        _print_labels(path, answers["sequence"], NO_SEQUENCE)
    else:
        _print_labels(path, answers["labels"], NOT_PROBABLE)


def _is_about_image(error):
    """Tells it from an error that the next image would meet too."""
    return (
        not isinstance(error, ServingError)
        or error.code is grpc.StatusCode.INVALID_ARGUMENT
    )
