"""Compares a data set on disk with its published counts.

Run:    python -m zoo.data.check voc2007 VOCdevkit
        python -m zoo.data.check coco2014 coco --decode

Ends with status 1 if a count differs or a split cannot be read.
"""

import argparse
import functools
import os
import sys

from zoo.data import coco, nus_wide, pipeline, voc, wider

READERS = {
    "voc2007": functools.partial(voc.read, year=2007),
    "voc2012": functools.partial(voc.read, year=2012),
    "coco2014": functools.partial(coco.read, keep_empty=True),
    "wider": wider.read,
    "nus_wide": functools.partial(
        nus_wide.read, keep_unlabelled=True, keep_missing=True
    ),
}
# Data set -> split -> what -> how many, as published. A class' name stands for
# the examples with a target of 1.
EXPECTED = {
    "voc2007": {
        "trainval": {"examples": 5011},
        "test": {
            "examples": 4952,
            "aeroplane": 204,
            "bicycle": 239,
            "bird": 282,
            "boat": 172,
            "bottle": 212,
            "bus": 174,
            "car": 721,
            "cat": 322,
            "chair": 417,
            "cow": 127,
            "diningtable": 190,
            "dog": 418,
            "horse": 274,
            "motorbike": 222,
            "person": 2007,
            "pottedplant": 224,
            "sheep": 97,
            "sofa": 223,
            "train": 259,
            "tvmonitor": 229,
        },
    },
    "voc2012": {
        "train": {"examples": 5717},
        "val": {"examples": 5823},
        "trainval": {"examples": 11540},
    },
    "coco2014": {
        "train2014": {"examples": 82783, "examples with a label": 82081},
        "val2014": {"examples": 40504, "examples with a label": 40137},
    },
    # An example is a person's box.
    "wider": {"trainval": {"examples": 28345}, "test": {"examples": 29179}},
    "nus_wide": {
        "train": {"examples": 161789, "examples with a label": 125449},
        "test": {"examples": 107859, "examples with a label": 83898},
    },
}


def main(argv=None):
    """Checks a data set by name; gives the exit status.

    Args:
        argv: list of str, or `None` for the command line.

    Returns:
        int. 0 if every count is the published one, else 1.
    """
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", choices=EXPECTED)
    parser.add_argument("data_dir", help="folder of the data set")
    parser.add_argument(
        "--decode",
        action="store_true",
        help="decode every image file as well, which takes minutes",
    )
    arguments = parser.parse_args(argv)
    all_as_published = True
    for split, expected in EXPECTED[arguments.dataset].items():
        print(f"\n{arguments.dataset} {split}: reading", flush=True)
        try:
            dataset = READERS[arguments.dataset](arguments.data_dir, split)
        except (OSError, ValueError) as error:
            print(f"MISMATCH: {error}")
            all_as_published = False
            continue
        bad = bad_files(dataset.examples, arguments.decode)
        found = counts(dataset)
        found.update((what, len(names)) for what, names in bad.items())
        expected = {**expected, **dict.fromkeys(bad, 0)}
        all_as_published &= expected.items() <= found.items()
        print(table(expected, found))
        for what, names in bad.items():
            for name in names[:5]:
                print(f"  {what}: {name}")
    return 0 if all_as_published else 1


def counts(dataset):
    """Counts examples, those with a label, and each class' positives.

    Args:
        dataset: `zoo.data.example.Dataset`.

    Returns:
        dict from what is counted, such as "examples" or "car", to int.
    """
    present = dataset.targets() == 1
    return {
        "examples": len(present),
        "examples with a label": int(present.any(axis=1).sum()),
        **dict(zip(dataset.classes, present.sum(axis=0).tolist(), strict=True)),
    }


def bad_files(examples, decode):
    """Finds the image files that are missing or cannot be decoded.

    Each folder is listed once, instead of asking for every file.

    Args:
        examples: list of `Example`; several may share a file.
        decode: bool. Whether the files that are there are decoded.

    Returns:
        dict from "missing image files" and, with `decode`, from "broken image
        files" to a list of str that name the files.
    """
    by_path = {example.image_path: example for example in examples}
    present = set()
    for folder in {os.path.dirname(path) for path in by_path}:
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                present.update(entry.path for entry in entries)
    bad = {"missing image files": [p for p in by_path if p not in present]}
    if not decode:
        return bad
    there = [e for path, e in by_path.items() if path in present]
    bad["broken image files"] = list(pipeline.unreadable(there).values())
    return bad


def table(expected, found):
    """Lays out what was expected, what was found, and whether they agree.

    Args:
        expected: dict from what is counted to int.
        found: dict likewise; a key that it lacks is shown as "-".

    Returns:
        str, one line a key of `expected`.

    Example:

    >>> print(table({"examples": 4952, "dog": 418}, {"examples": 4952}))
                               expected    found
    examples                       4952     4952  ok
    dog                             418        -  MISMATCH
    """
    lines = [f"{'':24}{'expected':>11}{'found':>9}"]
    for what, number in expected.items():
        there = found.get(what, "-")
        verdict = "ok" if there == number else "MISMATCH"
        lines.append(f"{what:24}{number:>11}{there:>9}  {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
