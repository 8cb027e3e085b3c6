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
import sys

import numpy as np

from zoo.data.example import Dataset, Example

SPLITS = ("train", "test")
PROTOCOLS = ("official", "seed_split")
IMAGE_FOLDERS = ("flickr", "images", "image")  # in any case


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
    them, `missing_images_<protocol>_<split>.txt` in `root`, or in the current
    folder where `root` cannot be written to. Folders are listed, once each;
    no file is opened.

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
        seed: int. Of the shuffle in `"seed_split"`.
        num_training: int. Images to train on in `"seed_split"`, missing ones
            included.
        keep_missing: bool. Whether images without a file stay, as they do in
            other readers, and nothing is reported.

    Returns:
        A `Dataset`, in the order of the list or of the shuffle. An image's id
        is its line without suffix, `"actor/0001_21"`. There are no boxes.

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
    classes = _lines(_find(root, "ConceptsList", "Concepts81.txt"), {})
    names, parts, where = [], [], {}
    for part in SPLITS if protocol == "seed_split" else (split,):
        path = _find(root, "ImageList", f"{part.title()}Imagelist.txt")
        names_of_part = _lines(path, where)
        names += names_of_part
        parts.append(_targets(root, part, classes, len(names_of_part)))
    targets = np.concatenate(parts)
    chosen = np.arange(len(names))
    if not keep_unlabelled:
        chosen = np.flatnonzero(targets.any(axis=1))
    if protocol == "seed_split":
        chosen = _drawn(chosen, split, seed, num_training)
    targets = targets[chosen].astype("float32")
    names = [names[i].replace("\\", "/") for i in chosen]
    paths = _image_paths(root, names)
    if not keep_missing:
        missing = [name for name in names if name not in paths]
        if not paths:
            raise FileNotFoundError(
                f"None of the {len(names)} images of {split}, such as "
                f"{names[:1]}, is in one of the folders {IMAGE_FOLDERS} of "
                f"`root`, in any case. Received: root={str(root)!r}"
            )
        if missing:
            _report(root, f"{protocol}_{split}", missing, len(names))
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
    return Dataset(examples, tuple(classes))


def _drawn(indices, split, seed, num_training):
    if not 1 <= num_training < len(indices):
        raise ValueError(
            "`num_training` must leave images for both splits, so it must be "
            f"from 1 to {len(indices) - 1}. "
            f"Received: num_training={num_training}"
        )
    # Unlike `default_rng`, it draws the same in all versions of NumPy.
    shuffled = np.random.RandomState(seed).permutation(indices)
    if split == "train":
        return shuffled[:num_training]
    return shuffled[num_training:]


# === Lists and labels ===


def _find(root, *names):
    """Finds a file in any case; leading folders may be left out."""
    for start in range(len(names)):
        found = [root]
        for name in names[start:]:
            found = [
                child
                for folder in found
                if folder.is_dir()
                for child in folder.iterdir()
                if child.name.lower() == name.lower()
            ]
        if found:
            return found[0]
    raise FileNotFoundError(
        f"There is no {'/'.join(names)!r}, nor a {names[-1]!r} with fewer "
        f"folders before it. Received: root={str(root)!r}"
    )


def _lines(path, where):
    """Gives the lines of a list; `where` has the lines before, and gets all."""
    names = []
    lines = os.fsdecode(path.read_bytes()).split("\n")
    for number, line in enumerate(lines, start=1):
        if name := line.strip():
            here = f"{path}:{number}"
            first = where.setdefault(name.lower(), here)
            if first != here:
                raise ValueError(
                    f"{here}: expected names that are all different, and "
                    f"{first} has this one already. Received: {name!r}"
                )
            names.append(name)
    if not names:
        raise ValueError(f"The list {str(path)!r} is empty.")
    return names


def _targets(root, part, classes, num_images):
    """Gives the labels of a list, uint8 `(num_images, num_classes)`."""
    columns = []
    for name in classes:
        file_name = f"Labels_{name}_{part.title()}.txt"
        path = _find(root, "Groundtruth", "TrainTestLabels", file_name)
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
    for child in root.iterdir():
        if child.name.lower() in IMAGE_FOLDERS:
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


def _report(root, subset, missing, num_images):
    """Writes the names of missing images to a file, and says so."""
    text = os.fsencode("".join(f"{name}\n" for name in missing))
    path = root / f"missing_images_{subset}.txt"
    try:
        path.write_bytes(text)
    except OSError:
        path = pathlib.Path.cwd() / path.name
        path.write_bytes(text)
    print(
        f"{len(missing)} of {num_images} images are missing and are left out; "
        f"{path} lists them.",
        file=sys.stderr,
    )
