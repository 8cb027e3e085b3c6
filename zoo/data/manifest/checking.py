"""What would spoil a training on own data, found before it begins."""

import dataclasses
import hashlib
import os
import pathlib
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent import futures

import keras

from zoo.data import encoded, pipeline
from zoo.data.manifest import reading

RARE = 10  # training images; a class with fewer gets a warning


@dataclasses.dataclass(frozen=True)
class Report:
    """What `check` found.

    Args:
        table: str. Images and classes in each split.
        warnings: list of str. What could make a worse model, or a wrong
            measurement of it.
        errors: list of str. What keeps the recipes from using the data.
    """

    table: str
    warnings: list[str]
    errors: list[str]

    def __str__(self):
        parts = [
            self.table,
            *[f"WARNING: {text}" for text in self.warnings],
            *[f"ERROR: {text}" for text in self.errors],
        ]
        return "\n\n".join(parts)


def check(root: str | os.PathLike, decode: bool = True) -> Report:
    """Looks for what would spoil a training, before it begins.

    It counts images and classes in each split, and finds classes without an
    example or with few, labels that always come together, are written in two
    ways or look like a slip, a val or test split without labels, files that
    are missing, have the same content or cannot be decoded. It prints its
    progress.

    Args:
        root: str or path. As of `read`.
        decode: bool. Whether every file is decoded, which takes longest and
            which the recipes do again.

    Returns:
        `Report`.

    Raises:
        FileNotFoundError: If `root` is not there.
        ValueError: If it cannot be used, with every problem and its line.

    Example:

    >>> print(check("photos.csv"))  # doctest: +SKIP
    """
    root = pathlib.Path(root)
    rows = reading.read_rows(root)
    bad = {
        row.where: f"{row.image_path}: there is no such file"
        for row in rows
        if not os.path.isfile(row.image_path)
    }
    there = [row for row in rows if row.where not in bad]
    warnings = [*_copies(there), *_odd_classes(rows), *_passed_over(root)]
    if decode:
        bad |= _undecodable(there)
    errors = []
    if "train" not in reading.splits_of(rows):
        errors.append("There is no image of the split 'train'.")
    if not reading.classes_of(rows):
        errors.append("No image has a label.")
    for split in reading.splits_of(rows):
        of_split = [row for row in rows if row.split == split]
        # The recipes measure after every epoch, and at last on test.
        if split != "train" and not any(row.labels for row in of_split):
            errors.append(
                f"No image of the split {split!r} has a label, so that there "
                "is nothing to measure. Where the labels are not known, list "
                "them elsewhere and use recipes/predict.py."
            )
        wheres = [row.where for row in of_split]
        reasons = [f"{where}: {bad[where]}" for where in wheres if where in bad]
        share = f"{len(reasons)} of {len(wheres)}"
        head = f"Images of {split} that cannot be read"
        if split == "train" and 0 < len(reasons) < len(wheres):
            head = f"{head} and are left out ({share}):"
            warnings.append(reading.listing(head, reasons))
        elif reasons:  # without them it would be another measurement
            errors.append(reading.listing(f"{head} ({share}):", reasons))
    return Report(_table(rows, bad), warnings, errors)


def _table(rows, bad):
    """Counts images and classes in each split, the most frequent first."""
    there = reading.splits_of(rows)
    of_split = [[row for row in rows if row.split == s] for s in there]
    table = [
        ["", *there, "unknown"],
        ["images", *map(len, of_split), sum(bool(row.unknown) for row in rows)],
        ["no label", *(sum(not r.labels for r in part) for part in of_split)],
    ]
    labels = [Counter(k for r in part for k in r.labels) for part in of_split]
    unknown = Counter(name for row in rows for name in row.unknown)
    table += sorted(
        (
            [name, *(count[name] for count in labels), unknown[name]]
            for name in reading.classes_of(rows)
        ),
        key=lambda cells: (-sum(cells[1:-1]), cells[0]),
    )
    num_heads = 3
    if bad:
        counts = [sum(r.where in bad for r in part) for part in of_split]
        table.insert(num_heads, ["unreadable", *counts])
        num_heads += 1
    width = max(len(cells[0]) for cells in table)
    lines = [
        f"{cells[0]:{width}}" + "".join(f"{cell:>9}" for cell in cells[1:])
        for cells in table
    ]
    lines.insert(num_heads, "-" * len(lines[0]))
    return "\n".join(lines)


def _odd_classes(rows):
    """Gives warnings on classes that are rare or look like another."""
    there = reading.splits_of(rows)
    classes = reading.classes_of(rows)
    rows_of = defaultdict(list)
    for i, row in enumerate(rows):
        for name in row.labels:
            rows_of[name].append(i)
    counts = Counter((rows[i].split, k) for k in classes for i in rows_of[k])
    warnings = []
    for split in there:
        names = [name for name in classes if not counts[split, name]]
        if names:
            lost = "learnt" if split == "train" else "measured"
            warnings.append(
                f"Classes without an example in {split} cannot be {lost} "
                f"({len(names)} of {len(classes)}): {reading.named(names)}"
            )
    rare = [k for k in classes if 0 < counts["train", k] < RARE]
    if rare:
        warnings.append(
            f"Classes with fewer than {RARE} images in train "
            f"({len(rare)} of {len(classes)}): {reading.named(rare)}"
        )
    together, alike = defaultdict(list), defaultdict(list)
    for name in classes:
        if len(rows_of[name]) > 1:
            together[tuple(rows_of[name])].append(name)
        alike[_look(name)].append(name)
    for message, groups in (
        ("Labels that always come together", together),
        ("Labels that may be one, written in two ways", alike),
    ):
        groups = [
            " = ".join(map(_shown, names))
            for names in groups.values()
            if names[1:]
        ]
        if groups:
            warnings.append(f"{message}: {reading.named(groups)}")
    for message, pattern in (
        ("Labels that hold ',' or ';', while '|' separates labels", "[,;]"),
        (
            "Labels that may mean that there is none, for which the field "
            "stays empty",
            r"(?i)^(none|nan|n/a|null)$",
        ),
    ):
        names = [name for name in classes if re.search(pattern, name)]
        if names:
            warnings.append(f"{message}: {reading.named(names)}")
    return warnings


def _look(name):
    """Gives what is left of a label once it does not matter how it is typed."""
    name = unicodedata.normalize("NFKC", name).casefold()
    name = "".join(c for c in name if unicodedata.category(c) != "Cf")
    return re.sub(r"[\s_-]", "", name)


def _shown(name):
    """Escapes the characters of a label that nobody sees."""
    return name if name.isprintable() else repr(name)


def _passed_over(root):
    """Gives a warning on the files of a folder that are not read."""
    names = Counter()
    for _, folders, files in os.walk(root):  # none where the root is a file
        folders[:] = [name for name in folders if not name.startswith(".")]
        names.update(
            reading.printable(pathlib.PurePath(name).suffix or name)
            for name in files
            if not name.startswith(".")
            and not name.lower().endswith(reading.SUFFIXES)
        )
    if not names:
        return []
    kinds = [f"{count} {name}" for name, count in names.most_common()]
    suffixes = ", ".join(reading.SUFFIXES)
    return [
        f"Files that are passed over, since only {suffixes} are read: "
        f"{reading.named(kinds)}"
    ]


def _copies(rows):
    """Gives warnings on files that have the same content."""
    row_of = {(row.image_path, None): row for row in rows}
    leaks, repeats = [], []
    for locations in copies(list(row_of)):
        group = [row_of[location] for location in locations]
        # One of each split comes first, so that a cut line still has it.
        first = {row.split: row for row in reversed(group)}
        group.sort(key=lambda row: first[row.split] is not row)
        names = [
            f"{row.where} ({row.split}: {'|'.join(row.labels)})"
            for row in group
        ]
        (leaks if len(first) > 1 else repeats).append(
            reading.named(names, " = ")
        )
    warnings = []
    if leaks:
        warnings.append(
            reading.listing(
                "LEAK BETWEEN SPLITS: the same image in more than one, so "
                f"what is measured will be too good ({len(leaks)} images):",
                leaks,
            )
        )
    if repeats:
        head = f"The same image more than once ({len(repeats)} images):"
        warnings.append(reading.listing(head, repeats))
    return warnings


def copies(locations: Sequence[tuple]) -> list[list[tuple]]:
    """Finds the images that have the same content, and prints its progress.

    Only files of equal size are read. A recipe that holds a part of the
    images out keeps each group on one side: a copy of what was learnt would
    measure memory.

    Args:
        locations: sequence of `Example.location`, path and span. One that is
            there twice counts once.

    Returns:
        list of groups, each a list of two locations or more, in the order
        given. Files that are empty or cannot be read are in none.

    Example:

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> paths = [os.path.join(folder.name, name) for name in "abc"]
    >>> for path, text in zip(paths, ("same", "else", "same")):
    ...     _ = pathlib.Path(path).write_text(text)
    >>> groups = copies([(x, None) for x in paths])  # doctest: +ELLIPSIS
    Comparing the 3 images that have another's size...
    >>> groups == [[(paths[0], None), (paths[2], None)]]
    True
    >>> folder.cleanup()
    """
    by_size, by_content = defaultdict(list), defaultdict(list)
    for location in dict.fromkeys(locations):
        # Empty files are no copies: they are found when they are decoded.
        if size := _size(*location):
            by_size[size].append(location)
    suspects = [x for group in by_size.values() if group[1:] for x in group]
    print(f"Comparing the {len(suspects)} images that have another's size")
    progress = _progress(len(suspects))
    with futures.ThreadPoolExecutor() as pool:
        digests = pool.map(_digest, suspects)
        for location, digest in zip(suspects, digests, strict=True):
            if digest is not None:
                by_content[digest].append(location)
            progress.add(1)
    return [group for group in by_content.values() if group[1:]]


def _size(path, span):
    if span:
        return "in a shard"  # that of the image is not known: all are suspects
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _digest(location):
    """Gives the SHA-256 of an image, or `None` where it cannot be read."""
    try:
        return hashlib.sha256(encoded.read_bytes(*location)).digest()
    except OSError:
        return None


def _undecodable(rows):
    """Gives `{where: reason}` for the files that cannot be decoded."""
    print(f"Decoding {len(rows)} images")
    examples = reading.examples_of(rows, reading.classes_of(rows))
    bad = pipeline.unreadable(examples)
    return {rows[i].where: reason for i, reason in bad.items()}


def _progress(count):
    verbose = 1 if sys.stdout.isatty() else 2
    return keras.utils.Progbar(count, verbose=verbose, unit_name="file")
