"""Command line: `python -m zoo.data.download voc2007`."""

import argparse
import pathlib
import sys

from zoo.data import download
from zoo.data.download.archives import ARCHIVES, ELSEWHERE


def main(argv=None):
    """Fetches a data set by name.

    Args:
        argv: list of str, or `None` for the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m zoo.data.download",
        description=download.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", choices=(*ARCHIVES, *ELSEWHERE))
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        help="folder of the data set, which becomes a --data_dir (default: "
        "VOCdevkit, or coco)",
    )
    parser.add_argument(
        "--mirror",
        metavar="URL",
        help="address of a folder that has the archives, too "
        "(default: the official ones)",
    )
    parser.add_argument(
        "--keep_archives",
        action="store_true",
        help="keep each archive after it is extracted",
    )
    arguments = parser.parse_args(argv)
    name = arguments.dataset
    directory = arguments.output_dir or pathlib.Path(
        "coco" if name == "coco2014" else "VOCdevkit"
    )
    if name in ELSEWHERE:
        sys.exit(
            f"error: {name} has no address to fetch it from directly: follow "
            f"{ELSEWHERE[name]}, and unpack what you get as the README says."
        )
    try:
        download.download(
            name, directory, arguments.mirror, arguments.keep_archives
        )
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(
        f"{name} is in {directory}. Compare it with the published counts: "
        f"python -m zoo.data.check {name} {directory}"
    )


if __name__ == "__main__":
    main()
