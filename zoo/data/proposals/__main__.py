"""Measures how many true boxes are found by the regions of a method.

Run:    python -m zoo.data.proposals voc2007 VOCdevkit --split test
        python -m zoo.data.proposals scenes --split test --num_regions 300

Recall is the share of the boxes, difficult ones left out, with which one of
the best N regions of their image has at least that IoU.
"""

import argparse
import sys

import numpy as np

from zoo.data import boxes, proposals, sources

# With boxes.
DATASETS = ("scenes", "voc2007", "voc2012", "coco2014", "manifest")
NUM_REGIONS = (10, 100, 1000)
IOUS = (0.5, 0.7)


def main(argv=None):
    """Prints the table; ends with status 1 where there is nothing to measure.

    Args:
        argv: list of str, or `None` for the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m zoo.data.proposals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", choices=DATASETS)
    parser.add_argument(
        "data_dir",
        nargs="?",
        help="folder of the data set, or of its shards; not needed for scenes",
    )
    parser.add_argument("--split", required=True)
    parser.add_argument(
        "--method", choices=proposals.METHODS, default="edge_boxes"
    )
    parser.add_argument("--num_regions", type=int, default=max(NUM_REGIONS))
    parser.add_argument(
        "--nms", type=float, default=0.7, help="IoU of two edge boxes, at most"
    )
    parser.add_argument("--model_file", help="structured forest of edge boxes")
    arguments = vars(parser.parse_args(argv))
    name, data_dir, split = (
        arguments.pop(key) for key in ("dataset", "data_dir", "split")
    )
    if data_dir is None and name != "scenes":
        parser.error(f"{name} needs a data_dir")
    try:
        examples = sources.find(name, data_dir).read(data_dir, split).examples
        if all(example.box_difficult.all() for example in examples):
            raise ValueError(
                "There is no true box to find, or only difficult ones. "
                f"Received: {name} {split}"
            )
        examples = proposals.propose(examples, **arguments)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"\n{table(examples, arguments['num_regions'])}")


def table(examples, num_regions):
    """Lays out the recall of the best 10, 100, 1000 and all regions.

    Args:
        examples: list of `Example` with regions.
        num_regions: int. Most regions of an image.

    Returns:
        str.
    """
    counts = {n for n in NUM_REGIONS if n < num_regions} | {num_regions}
    head = "".join(f"{f'IoU {iou}':>9}" for iou in IOUS)
    lines = [f"{'regions':>9}{head}"]
    for count in sorted(counts):
        cells = "".join(f"{x:9.3f}" for x in recall(examples, count))
        lines.append(f"{count:>9}{cells}")
    num_boxes = sum((~example.box_difficult).sum() for example in examples)
    return "\n".join([*lines, f"Recall of {num_boxes} boxes"])


def recall(examples, num_regions):
    """Gives the share of boxes that are found, at each of `IOUS`.

    Args:
        examples: list of `Example` with regions and, in all, at least one box
            that is not difficult.
        num_regions: int. Regions of an image that count, the best ones.

    Returns:
        list of float.
    """
    best = []
    for example in examples:
        overlap = boxes.iou(
            example.regions[:num_regions], example.boxes[~example.box_difficult]
        )
        best += overlap.max(axis=0, initial=0).tolist()
    return [float(np.mean(np.array(best) >= iou)) for iou in IOUS]


if __name__ == "__main__":
    main()
