"""Manifest -> rows -> Examples; refuses what is wrong, with its line."""

import csv
import dataclasses
import difflib
import functools
import io
import json
import math
import os
import pathlib
import re
import unicodedata
from collections import Counter

import numpy as np

from zoo.data.example import Dataset, Example

SPLITS = ("train", "val", "test")
SIDES = ("ymin", "xmin", "ymax", "xmax")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
LIKE_A_SPLIT = re.compile(r"train|val|test|dev|eval", re.IGNORECASE)
MAX_NAMED = 20  # problems, files or classes in one message
MAX_CELL = 2**24  # characters; some 100,000 regions


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    """An image as the manifest describes it."""

    where: str  # "photos.csv:17", or the file in its folder
    image_id: str
    image_path: str
    labels: tuple[str, ...]
    unknown: tuple[str, ...]
    split: str  # "" if no line has one, until all is read
    boxes: tuple[dict, ...]
    regions: np.ndarray | None  # None if no line has them


# === Reading ===


def read(
    root: str | os.PathLike,
    split: str,
    classes: tuple[str, ...] | None = None,
) -> Dataset:
    r"""Reads one split of a manifest.

    Image files are not opened here: `zoo.data.pipeline.unreadable` finds those
    that are missing or broken.

    Args:
        root: str or path. A `.csv` or `.jsonl` file, or a folder of folders.
        split: str. One of `splits(root)`.
        classes: tuple of str, such as those of a trained model, in the order
            of the targets. `None` takes all names in the manifest, sorted:
            those of all splits, so that their order is one.

    Returns:
        A `Dataset`, in the order of the manifest. An image's id is its path
        with all that could trouble a file name replaced.

    Raises:
        FileNotFoundError: If `root` is not there.
        ValueError: If it cannot be used, with every problem and its line; or
            if it has no such split.

    Example:

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "photos.csv")
    >>> _ = path.write_text("image,labels\na.jpg,cat|sofa\nb.jpg,cat\n")
    >>> dataset = read(path, "train")
    >>> dataset.classes, dataset.targets().tolist()
    (('cat', 'sofa'), [[1.0, 1.0], [1.0, 0.0]])
    >>> folder.cleanup()
    """
    rows = read_rows(pathlib.Path(root))
    there = splits_of(rows)
    if split not in there:
        raise ValueError(
            f"{root} has the splits {there}. Received: split={split!r}"
        )
    if classes is None:
        classes = classes_of(rows)
        if not classes:
            raise ValueError(f"No image of {root} has a label.")
    rows = [row for row in rows if row.split == split]
    known = set(classes)
    _refuse(
        root,
        [
            f"{row.where}: a label must be one of the {len(classes)} classes "
            f"given. Received: {label!r}"
            for row in rows
            for label in row.labels + row.unknown
            if label not in known
        ],
    )
    return Dataset(examples_of(rows, classes), tuple(classes))


def splits(root: str | os.PathLike) -> tuple[str, ...]:
    """Gives the splits of a manifest, in the order train, val, test.

    Args:
        root: str or path. As of `read`.

    Returns:
        tuple of str.

    Raises:
        FileNotFoundError: If `root` is not there.
        ValueError: If it cannot be used, with every problem and its line.
    """
    return splits_of(read_rows(pathlib.Path(root)))


def splits_of(rows):
    """Gives the splits of rows, in the order train, val, test."""
    there = {row.split for row in rows}
    return tuple(split for split in SPLITS if split in there)


def classes_of(rows):
    """Gives all labels of rows, sorted."""
    return tuple(
        sorted({name for row in rows for name in row.labels + row.unknown})
    )


def examples_of(rows, classes):
    """Gives rows as a list of `Example`."""
    index = {name: k for k, name in enumerate(classes)}
    targets = np.zeros((len(rows), len(classes)), "float32")
    no_boxes = _box_arrays((), (), index)
    examples = []
    for row, row_targets in zip(rows, targets, strict=True):
        for name in row.labels:
            row_targets[index[name]] = 1
        for name in row.unknown:
            row_targets[index[name]] = -1
        boxes, box_classes, box_difficult = (
            _box_arrays(row.boxes, row.unknown, index)
            if row.boxes
            else no_boxes
        )
        examples.append(
            Example(
                image_id=row.image_id,
                image_path=row.image_path,
                targets=row_targets,
                boxes=boxes,
                box_classes=box_classes,
                box_difficult=box_difficult,
                regions=row.regions,
            )
        )
    return examples


def _box_arrays(boxes, unknown, index):
    sides = [[box[side] for side in SIDES] for box in boxes]
    classes = [index[box["label"]] for box in boxes]
    difficult = [box["label"] in unknown for box in boxes]
    return (
        np.array(sides, "float32").reshape(-1, 4),
        np.array(classes, "int32"),
        np.array(difficult, bool),
    )


# === Manifest -> rows ===


def read_rows(root):
    """Gives the rows of all splits, or every problem in one error."""
    if root.is_dir():
        folder, records = root, _folder_records
    elif not root.is_file():
        raise FileNotFoundError(
            f"There is no such file or folder. Received: root={str(root)!r}"
        )
    elif root.suffix.lower() in (".csv", ".jsonl"):
        folder = root.parent
        is_csv = root.suffix.lower() == ".csv"
        records = _csv_records if is_csv else _json_records
    else:
        raise ValueError(
            "A manifest is a '.csv' or '.jsonl' file, or a folder with one "
            f"folder a class. Received: root={str(root)!r}"
        )
    rows, problems, image_ids, where_is = [], [], {}, {}
    for where, fields in records(root, problems):
        found = _fields(where, fields, problems)
        if found is None:
            continue
        image_path = os.path.join(folder, found["image"])
        first = where_is.setdefault(os.path.normpath(image_path), where)
        if first != where:
            problems.append(
                f"{where}: the image is in {first} already, and one line "
                f"has all its labels. Received: image={found['image']!r}"
            )
        image_id = _image_id(found.pop("image"), image_ids)
        rows.append(_Row(where, image_id, image_path, **found))
    if any(row.split for row in rows):
        problems += [
            f"{row.where}: 'split' must be one of {', '.join(SPLITS)}, since "
            "other lines have one. Received: split=''"
            for row in rows
            if not row.split
        ]
    if any(row.regions is not None for row in rows):
        problems += [
            f"{row.where}: the field 'regions' is missing, which other lines "
            "have; [] says that there are none."
            for row in rows
            if row.regions is None
        ]
    _refuse(root, problems)
    if not rows:
        raise ValueError(f"{root} names no image.")
    if not rows[0].split:
        rows = [dataclasses.replace(row, split="train") for row in rows]
    return rows


def _refuse(root, problems):
    if problems:
        text = listing(f"{root} cannot be used:", problems)
        raise ValueError(printable(text))


def listing(head, items):
    """Gives a text of items, a line each, but not of all too many."""
    lines = [head, *items[:MAX_NAMED]]
    if len(items) > MAX_NAMED:
        lines.append(f"and {len(items) - MAX_NAMED} more")
    return "\n    ".join(lines)


def named(names, separator=", "):
    """Gives names on one line, but not of all too many."""
    more = len(names) - MAX_NAMED
    text = separator.join(names[:MAX_NAMED])
    return f"{text} and {more} more" if more > 0 else text


def _image_id(image, taken):
    """Makes a file name without suffix from a path, unlike those taken.

    `taken` has the last number behind each name: to count from 1 every time
    takes minutes where many names end alike.
    """
    name = re.sub(r"[^\w-]+", "_", os.path.splitext(image)[0]).strip("_")
    # File systems take 255 bytes, which may be as few as 63 letters.
    image_id = name = name[-50:] or "image"
    number = taken.get(name, 1)
    while image_id in taken:
        number += 1
        image_id = f"{name}_{number}"
    taken[image_id] = 1
    taken[name] = number
    return image_id


# --- Files -> records: where it stands, and its fields as they are written ---


def _csv_records(path, problems):
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    header, line = None, 1  # a cell may hold line breaks: where its row begins
    limit = csv.field_size_limit(MAX_CELL)
    try:
        for cells in reader:
            where, line = f"{path.name}:{line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue  # an empty line, as spreadsheets leave them
            if header is None:
                header = [cell.strip() for cell in cells]
                if wrong := _wrong_header(header):
                    problems += [f"{where}: {text}" for text in wrong]
                    return
            elif len(cells) != len(header):
                problems.append(
                    f"{where}: expected {len(header)} cells, as in the header; "
                    "a cell that has a comma needs quotes around it. "
                    f"Received: {len(cells)} cells, {','.join(cells)!r:.100}"
                )
            else:
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        problems.append(
            f"{path.name}:{line}: this cannot be read as CSV, perhaps for a "
            f"quote that is never closed, or a cell of more than {MAX_CELL:,} "
            f"characters: {error}."
        )
    finally:
        csv.field_size_limit(limit)


def _wrong_header(header):
    """Says what is wrong with the first line."""
    if header[0].lower().startswith("sep="):
        return [
            "the first line must name the fields; delete this one, which only "
            f"Excel reads. Received: {header[0]!r:.100}"
        ]
    for separator in (";", "\t"):
        if len(header) == 1 and separator in header[0]:
            return [
                "cells are separated by commas. "
                f"Received: {separator!r} in {header[0]!r:.100}"
            ]
    return _wrong_names(tuple(header))


def _json_records(path, problems):
    for line, text in enumerate(_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        where = f"{path.name}:{line}"
        try:
            fields = json.loads(text, object_pairs_hook=_each_once)
        except json.JSONDecodeError as error:
            problems.append(
                f"{where}: this is no JSON: {error.msg} at character "
                f"{error.pos + 1}. Received: {text!r:.100}"
            )
            continue
        except (ValueError, RecursionError) as error:
            problems.append(
                f"{where}: this cannot be read as JSON: {error}. "
                f"Received: {text!r:.100}"
            )
            continue
        if not isinstance(fields, dict):
            problems.append(
                f"{where}: expected one object, {{...}}, a line. "
                f"Received: {text!r:.100}"
            )
        elif wrong := _wrong_names(tuple(fields)):
            problems += [f"{where}: {text}" for text in wrong]
        else:
            yield where, fields


def _each_once(pairs):
    """Makes an object of JSON; of a name given twice, one would be lost."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        name, count = counts.most_common(1)[0]
        raise ValueError(f"the field {name!r} is there {count} times")
    return fields


def _text(path):
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: expected UTF-8; save the file as 'CSV UTF-8' or "
            f"the like. Received: byte {data[error.start]:#x}"
        ) from None


@functools.lru_cache
def _wrong_names(names):
    """Says what is wrong with the names of fields."""
    wrong, meant = [], set()
    for name, count in Counter(names).items():
        if count > 1:
            wrong.append(f"the field {name!r} is there {count} times.")
        if name in FIELDS or name.startswith("_"):
            continue
        close = difflib.get_close_matches(name.lower(), FIELDS, 1)
        meant.update(close)
        wrong.append(
            (f"did you mean the field {close[0]!r}? " if close else "")
            + f"Fields are {', '.join(FIELDS)}; your own begin with '_'. "
            f"Received: {name!r:.100}"
        )
    missing = [
        f"the field {name!r} is missing."
        for name in ("image", "labels")
        if name not in meant.union(names)
    ]
    return missing + wrong


def _folder_records(root, problems):
    problems += _stray(root, root)
    tops = [entry for entry in _visible(root) if entry.is_dir()]
    names = [top.name for top in tops]
    parents = [
        top for top in tops if any(entry.is_dir() for entry in _visible(top))
    ]
    # `train` is a class, not a split, where it holds nothing but images.
    if parents and set(names) <= set(SPLITS):
        for top in tops:
            problems += _stray(top, root)
            for folder in _visible(top):
                if folder.is_dir():
                    yield from _class_records(root, folder, top.name, problems)
    elif any(LIKE_A_SPLIT.match(top.name) for top in parents):
        problems.append(
            f"Folders at the top must be {', '.join(SPLITS)} or some of them, "
            "with a folder for each class inside; or else the classes, with "
            f"nothing but images inside. Received: folders {named(names)}"
        )
    else:
        for top in tops:
            yield from _class_records(root, top, "", problems)


def _stray(folder, root):
    """Gives problems for the images that have no class for a folder."""
    return [
        f"{_relative(entry, root)}: an image must lie in the folder of its "
        "class."
        for entry in _visible(folder)
        if _is_image(entry)
    ]


def _class_records(root, folder, split, problems):
    for entry in _visible(folder):
        where = _relative(entry, root)
        if _is_image(entry):
            labels = [folder.name]
            yield where, {"image": where, "labels": labels, "split": split}
        elif entry.is_dir():
            problems.append(
                f"{where}: the folder of a class holds images, not folders."
            )


def _visible(folder):
    entries = [e for e in os.scandir(folder) if not e.name.startswith(".")]
    return sorted(entries, key=lambda entry: entry.name)


def _is_image(entry):
    return entry.name.lower().endswith(SUFFIXES) and entry.is_file()


def _relative(entry, root):
    return pathlib.Path(entry).relative_to(root).as_posix()


# --- Fields: as they are written -> checked ---


def _fields(where, fields, problems):
    """Checks all fields of a record; gives `None` if one is wrong."""
    found, count = {}, len(problems)
    for name, parse in FIELDS.items():
        value = fields.get(name)
        try:
            found[name] = parse("" if value is None else value)
        except _RegionError as error:
            problems.append(f"{where}: {name!r}: {error}")
        except ValueError as error:
            problems.append(
                f"{where}: {name!r} {error}. Received: {name}={value!r:.100}"
            )
    if len(problems) > count:
        return None
    if "regions" not in fields:  # unlike an image in which nothing was found
        found["regions"] = None
    for name in found["labels"]:
        if name in found["unknown"]:
            problems.append(
                f"{where}: a label is present or unknown, not both. "
                f"Received: {name!r} in 'labels' and in 'unknown'"
            )
    for box in found["boxes"]:
        if box["label"] not in found["labels"] + found["unknown"]:
            problems.append(
                f"{where}: 'boxes' has a label that the line has not. "
                f"Received: {box['label']!r}"
            )
    return found


def _image(value):
    name = _name(value)
    if "\\" in name:
        raise ValueError("must have forward slashes")
    return name


def _name(value):
    if not isinstance(value, str):
        raise ValueError("must be text")
    name = value.strip()
    if not name:
        raise ValueError("has an empty name")
    if CONTROL.search(name):
        raise ValueError("has a line break or another control character")
    if printable(name) != name:
        raise ValueError("has a character that is not UTF-8")
    return name


def printable(text):
    """Escapes what is not Unicode, as file names from a ZIP may have it."""
    return text.encode(errors="backslashreplace").decode()


def _labels(value):
    """Gives the labels of a cell or a list, each once."""
    return tuple(dict.fromkeys(map(_label, _list(value))))


def _label(value):
    # Letters with accents can be written in two ways that look the same.
    return unicodedata.normalize("NFC", _name(value))


def _list(value):
    if isinstance(value, str):
        value = value.split("|") if value.strip() else []
    if not isinstance(value, list):
        raise ValueError("must be a list, or text with '|' in between")
    return value


def _split(value):
    value = value.strip() if isinstance(value, str) else value
    if value not in ("", *SPLITS):
        raise ValueError(f"must be one of {', '.join(SPLITS)}")
    return value


def _boxes(value):
    return tuple(map(_box, _list(value)))


def _box(box):
    """Gives `{"label": str, "ymin": float, ...}` from such or from text."""
    if isinstance(box, str):
        label, *sides = box.rsplit(maxsplit=4) or [""]
        sides = dict(side.partition("=")[::2] for side in sides)
        box = {"label": label, **sides}
    if not isinstance(box, dict) or set(box) != {"label", *SIDES}:
        raise ValueError(
            "must be like 'cat xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9'"
        )
    return {"label": _label(box["label"]), **_sides(box)}


def _sides(box):
    sides = {side: _number(box[side], "side") for side in SIDES}
    if not (
        0 <= sides["xmin"] < sides["xmax"] <= 1
        and 0 <= sides["ymin"] < sides["ymax"] <= 1
    ):
        raise ValueError(
            "must have 0 <= xmin < xmax <= 1, and y alike: shares of the "
            "image's width and height, not pixels"
        )
    ymin, xmin, ymax, xmax = np.float32(list(sides.values()))  # as we keep it
    if not (ymin < ymax and xmin < xmax):
        raise ValueError("has no area when its sides are rounded to 32 bits")
    return sides


def _number(value, what):
    try:
        if isinstance(value, bool):  # of JSON, which Python takes for 1 or 0
            raise TypeError
        return float(value)
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"has a {what} that is no number") from None


class _RegionError(ValueError):
    """What is wrong with one region of many, which the text shows."""


def _regions(value):
    """Gives the regions of an image as an array, best first."""
    regions = []
    for number, text in enumerate(_list(value), start=1):
        try:
            regions.append(_region(text))
            if ("score" in regions[-1]) != ("score" in regions[0]):
                raise ValueError("must have a score if region 1 has, or none")
        except ValueError as error:
            raise _RegionError(
                f"region {number} {error}. Received: {text!r:.200}"
            ) from None
    # Without scores, or where they are equal, the order of the file stays.
    regions.sort(key=lambda region: -region.get("score", 0))
    sides = [[region[side] for side in SIDES] for region in regions]
    return np.array(sides, "float32").reshape(-1, 4)


def _region(region):
    """Gives `{"ymin": float, ...}`, with a score or without, likewise."""
    if isinstance(region, str):
        parts = region.split()
        region = dict(part.partition("=")[::2] for part in parts)
        if len(region) < len(parts):
            raise ValueError("has a side or a score twice")
    if not isinstance(region, dict) or set(region) - {"score"} != set(SIDES):
        raise ValueError(
            "must be like 'xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9' or like "
            "'xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9 score=0.8'"
        )
    found = _sides(region)
    if "score" in region:
        found["score"] = _number(region["score"], "score")
        if not math.isfinite(found["score"]):
            raise ValueError("has a score that is not finite")
    return found


FIELDS = {  # name -> what checks it and gives its value
    "image": _image,
    "labels": _labels,
    "unknown": _labels,
    "split": _split,
    "boxes": _boxes,
    "regions": _regions,
}
