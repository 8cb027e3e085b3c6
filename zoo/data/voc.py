"""PASCAL VOC 2007 and 2012, and any folder in their layout."""

import pathlib
import xml.etree.ElementTree as ElementTree

import numpy as np

from zoo.data.example import Dataset, Example

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


def read(root, split, year=None, classes=CLASSES):
    """Reads one split of a VOC devkit.

    A class' target is 1 if any object of it that is not `difficult` is in the
    image, -1 (unknown) if only difficult ones are, else 0. Image files are not
    opened here: `zoo.data.pipeline.unreadable` finds those that are missing or
    broken.

    Args:
        root: str or path. The `VOCdevkit` folder, or a year folder in it:
            the one that holds `Annotations`, `ImageSets` and `JPEGImages`.
        split: str. Name of a list in `ImageSets/Main`: `"train"`, `"val"`,
            `"trainval"` or `"test"`.
        year: int or `None`. Which year folder of a devkit; `None` takes the
            only one there is.
        classes: tuple of str. Names an annotation may use, in the order of
            the targets.

    Returns:
        A `Dataset`, in the order of the list. Boxes become 0 to 1 of the
        image; VOC counts pixels from 1 and includes the last one.

    Raises:
        FileNotFoundError: If a folder, list or annotation is not there.
        ValueError: If an annotation cannot be used, with file and field; or
            if the folder is another year's.

    Example:

    >>> dataset = read("VOCdevkit", "trainval", year=2007)  # doctest: +SKIP
    >>> dataset.targets().shape  # doctest: +SKIP
    (5011, 20)
    """
    folder = _year_folder(pathlib.Path(root), year)
    index = {name: k for k, name in enumerate(classes)}
    examples = []
    for image_id in _image_ids(folder, split):
        path = folder / "Annotations" / f"{image_id}.xml"
        boxes, box_classes, difficult = _objects(path, index)
        targets = np.zeros(len(classes), "float32")
        targets[box_classes[difficult]] = -1
        targets[box_classes[~difficult]] = 1
        examples.append(
            Example(
                image_id=image_id,
                image_path=str(folder / "JPEGImages" / f"{image_id}.jpg"),
                targets=targets,
                boxes=boxes,
                box_classes=box_classes,
                box_difficult=difficult,
            )
        )
    return Dataset(examples, tuple(classes))


def _year_folder(root, year):
    if not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder of this name. Received: root={str(root)!r}"
        )
    if (root / "ImageSets" / "Main").is_dir():
        if year and root.name.startswith("VOC") and root.name != f"VOC{year}":
            raise ValueError(
                f"Expected VOC {year}, but the folder is another year's. "
                f"Received: root={str(root)!r}"
            )
        return root
    years = sorted(
        folder.name
        for folder in root.glob("VOC[0-9]*")
        if (folder / "ImageSets" / "Main").is_dir()
    )
    if year is not None and f"VOC{year}" in years:
        return root / f"VOC{year}"
    if year is None and len(years) == 1:
        return root / years[0]
    wanted = "one year folder" if year is None else f"a folder 'VOC{year}'"
    raise FileNotFoundError(
        f"Expected a VOC devkit with {wanted}, or a year folder with "
        f"'ImageSets/Main' in it; found the years {years}. "
        f"Received: root={str(root)!r}, year={year}"
    )


def _image_ids(folder, split):
    path = folder / "ImageSets" / "Main" / f"{split}.txt"
    # Lists such as `car_train.txt` belong to one class, not to a split.
    splits = [
        name
        for name in ("train", "val", "trainval", "test")
        if path.with_name(f"{name}.txt").is_file()
    ]
    if split not in splits:
        raise FileNotFoundError(
            f"There is no list {str(path)!r}; this devkit has the splits "
            f"{splits}. Received: split={split!r}"
        )
    image_ids = [line.strip() for line in path.read_text().splitlines()]
    image_ids = [image_id for image_id in image_ids if image_id]
    if not image_ids:
        raise ValueError(f"The list {str(path)!r} names no image.")
    return image_ids


def _objects(path, index):
    """Gives boxes, classes and difficult flags of one annotation file."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"The annotation {str(path)!r} is missing, although its image is "
            "in the split's list."
        ) from None
    except ElementTree.ParseError as error:
        raise ValueError(
            f"The annotation {str(path)!r} is not valid XML: {error}"
        ) from error
    width = _number(root, "size/width", path)
    height = _number(root, "size/height", path)
    if width < 1 or height < 1:
        raise ValueError(
            f"{str(path)!r}: 'size' must be at least 1 x 1 pixel. "
            f"Received: width={width}, height={height}"
        )
    boxes, box_classes, difficult = [], [], []
    for entry in root.findall("object"):
        name = entry.findtext("name", default="").strip()
        if name not in index:
            raise ValueError(
                f"{str(path)!r}: 'object/name' must be one of "
                f"{list(index)}. Received: {name!r}"
            )
        xmin, ymin, xmax, ymax = (
            _number(entry, f"bndbox/{side}", path)
            for side in ("xmin", "ymin", "xmax", "ymax")
        )
        if xmax < xmin or ymax < ymin:
            raise ValueError(
                f"{str(path)!r}: 'bndbox' of {name!r} is empty. Received: "
                f"xmin={xmin}, ymin={ymin}, xmax={xmax}, ymax={ymax}"
            )
        boxes.append((ymin - 1, xmin - 1, ymax, xmax))
        box_classes.append(index[name])
        difficult.append(entry.findtext("difficult", default="0").strip())
    boxes = np.array(boxes, "float32").reshape(-1, 4)
    boxes /= np.array([height, width, height, width], "float32")
    return (
        np.clip(boxes, 0, 1),
        np.array(box_classes, "int32"),
        np.array(difficult) == "1",
    )


def _number(element, field, path):
    text = element.findtext(field)
    try:
        return float(text)
    except (TypeError, ValueError):
        raise ValueError(
            f"{str(path)!r}: {field!r} must be a number. Received: {text!r}"
        ) from None
