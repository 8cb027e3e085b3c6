r"""NUS-WIDE: 269,648 photos of Flickr, each with some of 81 concepts.

What is read, of the release by Chua et al. (2009),
https://lms.comp.nus.edu.sg/wp-content/uploads/2019/research/nuswide/NUS-WIDE.html:

    ConceptsList/Concepts81.txt    the classes, a line each
    ImageList/TrainImagelist.txt   the images, a line each: actor\0001_21.jpg
    ImageList/TestImagelist.txt
    Groundtruth/TrainTestLabels/Labels_<concept>_Train.txt   0 or 1, a line
    Groundtruth/TrainTestLabels/Labels_<concept>_Test.txt    for each image
    Flickr/actor/0001_21.jpg       the images; the folder may be `images`

Names may be in any case, and leading folders may be left out: `root` may hold
`Concepts81.txt` itself. The images may also lie in one folder, by the file's
name or by the photo's number behind `_`: `images/0001_21.jpg`, `images/21.jpg`.
"""

import os
import pathlib
import re
import sys

import numpy as np

from zoo.data.example import Dataset, Example

SPLITS = ("train", "test")
PROTOCOLS = ("official", "seed_split")
IMAGE_FOLDERS = ("flickr", "images", "image")  # in any case
TEXT_FOLDERS = ("conceptslist", "imagelist", "groundtruth", "traintestlabels")
MISSING = "missing_images.txt"


def read(
    root: str | os.PathLike,
    split: str,
    protocol: str = "official",
    keep_unlabelled: bool = False,
    seed: int = 0,
    num_training: int = 150_000,
    keep_missing: bool = False,
) -> Dataset:
    """Reads one split, of the release or drawn by a seed.

    Links rot, so few copies have all images. Those without a file are left
    out; standard error gets their number and the path of a file that lists
    the missing ones of both lists, `missing_images.txt` in `root`, or in the
    current folder where `root` cannot be written to. Folders are listed; no
    image is opened.

    Args:
        root: str or path. The folder of the release, see above.
        split: str. `"train"` or `"test"`.
        protocol: str. `"official"` takes the release's two lists.
            `"seed_split"` shuffles those of both that have a label, and
            trains on the first `num_training`: the setting of Gong et al.
            (2013), https://arxiv.org/abs/1312.4894, and of those who compare
            with them. Which files are missing does not change it.
        keep_unlabelled: bool. Whether images with none of the concepts stay,
            with targets of 0; then they are shuffled, too. Most papers drop
            them.
        seed: int from 0 to 2**32 - 1. Of the shuffle in `"seed_split"`.
        num_training: int. Images to train on in `"seed_split"`, missing ones
            included.
        keep_missing: bool. Whether images without a file stay, as they do in
            other readers, and nothing is reported.

    Returns:
        A `Dataset`, in the order of the list or of the shuffle, which knows
        how many images are left out as missing. An image's id is its line
        without suffix, `"actor/0001_21"`. There are no boxes.

    Raises:
        FileNotFoundError: If a list or a file of labels is not there, or none
            of the images is.
        ValueError: If an argument is out of its range, or a file cannot be
            used, with its line.

    Example:

    >>> dataset = read("NUS-WIDE", "test")  # doctest: +SKIP
    >>> dataset.targets().shape  # doctest: +SKIP
    (83898, 81)
    """
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"`protocol` must be one of {PROTOCOLS}. "
            f"Received: protocol={protocol!r}"
        )
    if split not in SPLITS:
        raise ValueError(
            f"`split` must be one of {SPLITS}. Received: split={split!r}"
        )
    root = pathlib.Path(root)
    texts = _text_files(root)
    concepts = _lines(_find(root, texts, "ConceptsList/Concepts81.txt"))
    _check_all_differ(concepts)
    classes = tuple(concepts.values())
    _check_complete(classes, texts)
    lists = {
        part: _lines(
            _find(root, texts, f"ImageList/{part.title()}Imagelist.txt")
        )
        for part in SPLITS
    }
    release = lists["train"] | lists["test"]
    _check_all_differ(release)
    parts = SPLITS if protocol == "seed_split" else (split,)
    names = [name for part in parts for name in lists[part].values()]
    targets = np.concatenate(
        [
            _targets(root, texts, part, classes, len(lists[part]))
            for part in parts
        ]
    )
    chosen = np.arange(len(names))
    if not keep_unlabelled:
        chosen = np.flatnonzero(targets.any(axis=1))
    if protocol == "seed_split":
        chosen = _drawn(chosen, split, seed, num_training)
    targets = targets[chosen].astype("float32")
    names = [names[i] for i in chosen]
    paths = _image_paths(root, release.values())
    num_missing = 0
    if not keep_missing:
        num_missing = _report_missing(root, split, names, release, paths)
    no_boxes = np.zeros((0, 4), "float32")
    no_classes, no_flags = np.zeros(0, "int32"), np.zeros(0, bool)
    examples = [
        Example(
            image_id=os.path.splitext(name)[0],
            image_path=paths.get(name) or str(root / "Flickr" / name),
            targets=row,
            boxes=no_boxes,
            box_classes=no_classes,
            box_difficult=no_flags,
        )
        for name, row in zip(names, targets, strict=True)
        if keep_missing or name in paths
    ]
    return Dataset(examples, classes, num_missing)


def _drawn(indices, split, seed, num_training):
    if not isinstance(num_training, int) or (
        not 1 <= num_training < len(indices)
    ):
        raise ValueError(
            "`num_training` must leave images for both splits, so it must be "
            f"an int from 1 to {len(indices) - 1}. "
            f"Received: num_training={num_training}"
        )
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(
            f"`seed` must be an int from 0 to 2**32 - 1. Received: seed={seed}"
        )
    # Unlike `default_rng`, it draws the same in all versions of NumPy.
    shuffled = np.random.RandomState(seed).permutation(indices)
    if split == "train":
        return shuffled[:num_training]
    return shuffled[num_training:]


# === Lists and labels ===


def _text_files(root):
    """Lists the files of labels and lists: name in lower case -> path."""
    if not root.is_dir():
        return {}
    files = {}
    # Folders come last: what lies deeper, as in the release, is taken.
    for child in sorted(root.iterdir(), key=pathlib.Path.is_dir):
        name = child.name.lower()
        if name.endswith(".txt"):
            files[name] = child
        elif name in TEXT_FOLDERS:
            files |= _text_files(child)
    return files


def _find(root, texts, path):
    """Finds a file in any case; leading folders may be left out."""
    name = path.rpartition("/")[2]
    if name.lower() not in texts:
        raise FileNotFoundError(
            f"There is no {path!r}, nor a {name!r} with fewer folders before "
            f"it. Received: root={str(root)!r}"
        )
    return texts[name.lower()]


def _lines(path):
    """Gives the lines of a list, by where they stand."""
    # Bytes that are not UTF-8 become what they do in the names of files.
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    lines = {
        f"{path}:{number}": line.strip().replace("\\", "/")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    }
    if not lines:
        raise ValueError(f"The list {str(path)!r} is empty.")
    return lines


def _check_all_differ(lines):
    first = {}
    for here, name in lines.items():
        there = first.setdefault(name.lower(), here)
        if there != here:
            raise ValueError(
                f"{here}: expected names that are all different, and "
                f"{there} has this one already. Received: {name!r}"
            )


def _check_complete(classes, texts):
    """Refuses a list of concepts that was cut off."""
    known = {name.lower() for name in classes}
    surplus = [
        path.name
        for name, path in texts.items()
        if (match := re.fullmatch(r"labels_(.+)_(train|test)\.txt", name))
        and match[1] not in known
    ]
    if surplus:
        raise ValueError(
            "Expected a concept in 'Concepts81.txt' for every file of labels. "
            f"Received: {len(classes)} concepts, and besides theirs "
            f"{', '.join(sorted(surplus)[:6])}"
        )


def _targets(root, texts, part, classes, num_images):
    """Gives the labels of a list, uint8 `(num_images, num_classes)`."""
    folder = "Groundtruth/TrainTestLabels"
    columns = []
    for name in classes:
        file_name = f"Labels_{name}_{part.title()}.txt"
        path = _find(root, texts, f"{folder}/{file_name}")
        columns.append(_labels(path, num_images))
    return np.stack(columns, axis=1)


def _labels(path, num_images):
    """Gives 0 or 1 for each line of a file."""
    text = path.read_bytes().translate(None, b"\r\t ").rstrip(b"\n") + b"\n"
    # There are 22 million lines: only a file with a fault is split into them.
    labels = np.frombuffer(text[::2], "uint8") - ord("0")
    if text[1::2] == b"\n" * num_images and labels.max() <= 1:
        return labels
    lines = text[:-1].split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line not in (b"0", b"1"):
            raise ValueError(
                f"{path}:{number}: expected 0 or 1. Received: {line[:20]!r}"
            )
    raise ValueError(
        f"{str(path)!r}: expected {num_images} lines, one for each image of "
        f"the list. Received: {len(lines)} lines"
    )


# === Images ===


def _image_paths(root, names):
    """Gives the paths of those images that are there, by their names."""
    there = {}
    # Of two files by one name that in the first folder by name is taken.
    for child in sorted(root.iterdir(), reverse=True):
        if child.name.lower() in IMAGE_FOLDERS and child.is_dir():
            there.update(_files(child))
    paths = {}
    for name in names:
        file_name = name.lower().rpartition("/")[2]
        photo = file_name.rpartition("_")[2]
        for key in (name.lower(), file_name, photo):
            if key in there:
                paths[name] = there[key]
                break
    return paths


def _files(folder, prefix=""):
    """Lists the images in a folder and in its folders, without asking each."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name.lower()
            if name.endswith(".jpg"):
                yield name, entry.path
            elif not prefix and entry.is_dir():
                yield from _files(entry.path, name + "/")


def _report_missing(root, split, names, release, paths):
    """Counts a split's missing images; a file lists those of the release."""
    num_missing = sum(name not in paths for name in names)
    if 0 < num_missing == len(names):
        raise FileNotFoundError(
            f"None of the {len(names)} images of {split} is there, such as "
            f"{str(root / 'Flickr' / names[0])!r}, where the folder may be any "
            f"of {IMAGE_FOLDERS}, in any case. Received: root={str(root)!r}"
        )
    missing = [name for name in release.values() if name not in paths]
    text = os.fsencode("".join(f"{name}\n" for name in missing))

    def write(path):
        if missing:
            path.write_bytes(text)
        else:
            path.unlink(missing_ok=True)
        return path

    try:
        path = write(root / MISSING)
    except OSError:
        path = write(pathlib.Path.cwd() / MISSING)
    if num_missing:
        print(
            f"{num_missing} of {len(names)} images of {split} are missing and "
            f"are left out; {path} lists all that are.",
            file=sys.stderr,
        )
    return num_missing
