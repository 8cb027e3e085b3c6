"""Command line: `python -m zoo.data.shards --dataset voc2007 ...`."""

import argparse
import dataclasses
import pathlib
import sys

from zoo.data import manifest, proposals, shards, sources
from zoo.data.shards import writing

MAX_NAMED = 20  # images that are left out


def main(argv=None):
    """Writes a data set into shards.

    Args:
        argv: list of str, or `None` for the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m zoo.data.shards",
        description=shards.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", choices=sources.DATASETS, required=True)
    parser.add_argument(
        "--data_dir",
        type=pathlib.Path,
        help="as of the recipes; not needed for scenes",
    )
    parser.add_argument("--output_dir", type=pathlib.Path, required=True)
    parser.add_argument(
        "--splits",
        nargs="+",
        help="(default: those that the recipes train and measure on)",
    )
    parser.add_argument(
        "--largest_side",
        type=int,
        metavar="PIXELS",
        help="resize images with a larger side (default: keep all as they are)",
    )
    parser.add_argument(
        "--edge_boxes",
        type=int,
        metavar="COUNT",
        help="find so many regions of each image, once for all machines; a "
        "recipe reads them by --proposals own",
    )
    parser.add_argument(
        "--shard_megabytes",
        type=float,
        default=writing.MEGABYTES,
        help="million bytes of image files in a shard (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    name, data_dir = arguments.dataset, arguments.data_dir
    if sources.DATASETS[name].needs_data_dir and data_dir is None:
        parser.error(f"--dataset {name} needs --data_dir")
    try:
        source = sources.find(name, data_dir)
        if source.own and not shards.are_in(data_dir):
            print(manifest.check(data_dir, decode=False), flush=True)
        names = arguments.splits or [
            split
            for split in (
                source.train_split,
                source.validation_split,
                source.test_split,
            )
            if split
        ]
        splits = {split: source.read(data_dir, split) for split in names}
        if arguments.edge_boxes is not None:
            splits = {
                split: _with_edge_boxes(data, arguments.edge_boxes)
                for split, data in splits.items()
            }
        index = shards.write(
            arguments.output_dir,
            name,
            splits,
            arguments.largest_side,
            arguments.shard_megabytes,
        )
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    _report(index)
    print(f"\nUse them by: --dataset {name} --data_dir {arguments.output_dir}")


def _with_edge_boxes(data, count):
    examples = proposals.propose(data.examples, num_regions=count)
    return dataclasses.replace(data, examples=examples)


def _report(index):
    for split, entry in index["splits"].items():
        num_examples = sum(shard["num_examples"] for shard in entry["shards"])
        size = sum(shard["bytes"] for shard in entry["shards"])
        print(
            f"{split}: {num_examples} examples in {len(entry['shards'])} "
            f"shards, {size / 1e6:.1f} MB"
        )
        if left_out := entry["left_out"]:
            print(
                f"{len(left_out)} examples of {split} are left out, since "
                "their images cannot be read:",
                *[each["reason"] for each in left_out[:MAX_NAMED]],
                *[f"and {len(left_out) - MAX_NAMED} more"]
                * (len(left_out) > MAX_NAMED),
                sep="\n  ",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()
