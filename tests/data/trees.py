"""Small data sets in the official layouts, with the targets a reader gives.

Each function writes real JPEGs under `root` and returns a dict from split to
targets, float32 `(num_examples, num_classes)` in the order of the examples.
The targets are drawn first, then files that say so; another call writes the
same. A class is a rectangle of one colour, so that a network can learn them.
"""

import json
import pathlib

import numpy as np
from PIL import Image, ImageDraw

from zoo.data import coco, voc, wider

# The ids of COCO's categories skip these.
COCO_IDS = sorted(set(range(1, 91)) - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
CROWD_IMAGE, EMPTY_IMAGE = 1, 2  # of each COCO split; NUS-WIDE has the latter
NUS_WIDE_CONCEPTS = ("airport", "bear", "clouds", "sky", "zebra")


def voc2007(root, num_images=8, size=64):
    """Writes `VOC2007` with `num_images` each in trainval and test."""
    year = pathlib.Path(root, "VOC2007")
    return {
        split: _voc_split(year, split, f"{i:02d}{{:04d}}", num_images, size)
        for i, split in enumerate(("trainval", "test"))
    }


def voc2012(root, num_images=8, size=64):
    """Writes `VOC2012`: train, val, both, and test without labels.

    As in the real one, a few test images have annotations, of other tasks.
    """
    year = pathlib.Path(root, "VOC2012")
    targets = {
        split: _voc_split(year, split, f"{name}_{{:06d}}", num_images, size)
        for split, name in (("train", 2008), ("val", 2009), ("test", 2010))
    }
    lists = year / "ImageSets/Main"
    halves = [(lists / f"{name}.txt").read_text() for name in ("train", "val")]
    (lists / "trainval.txt").write_text("".join(halves))
    for path in (year / "Annotations").glob("2010_*[1-9].xml"):
        path.unlink()
    return {
        **targets,
        "trainval": np.concatenate([targets["train"], targets["val"]]),
        "test": np.full_like(targets["test"], -1),
    }


def _voc_split(year, split, image_id, num_images, size):
    rng = np.random.default_rng(list(split.encode()))
    targets = _draw_targets(rng, num_images, len(voc.CLASSES))
    # Every third image has a class of which all objects are difficult.
    targets[::3, rng.integers(len(voc.CLASSES))] = -1
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (year / folder).mkdir(parents=True, exist_ok=True)
    image_ids = [image_id.format(i) for i in range(num_images)]
    text = "".join(f"{name}\n" for name in image_ids)
    (year / "ImageSets/Main" / f"{split}.txt").write_text(text)
    for name, row in zip(image_ids, targets, strict=True):
        things = _draw_things(rng, np.flatnonzero(row), size)
        _picture(year / f"JPEGImages/{name}.jpg", things, size)
        objects = "".join(
            f"<object><name>{voc.CLASSES[k]}</name>"
            f"<difficult>{int(row[k] == -1)}</difficult>"
            f"<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox>"
            "</object>"
            for k, (x, y, width, height) in things
        )
        (year / f"Annotations/{name}.xml").write_text(
            f"<annotation><size><width>{size}</width>"
            f"<height>{_height(size)}</height></size>{objects}</annotation>"
        )
    return targets


def coco2014(root, num_images=8, size=64):
    """Writes train2014 and val2014 of `num_images` each, at least 3.

    In both, image `CROWD_IMAGE` has only a crowd and `EMPTY_IMAGE` has nothing.
    All lists in the file are shuffled.
    """
    return {
        split: _coco_split(pathlib.Path(root), split, num_images, size)
        for split in ("train2014", "val2014")
    }


def _coco_split(root, split, num_images, size):
    rng = np.random.default_rng(list(split.encode()))
    targets = _draw_targets(rng, num_images, len(coco.CLASSES))
    targets[EMPTY_IMAGE] = 0
    targets[CROWD_IMAGE] = np.eye(len(coco.CLASSES))[0]
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for i, row in enumerate(targets):
        image_id = 9 + 16 * i
        name = f"COCO_{split}_{image_id:012d}.jpg"
        things = _draw_things(rng, np.flatnonzero(row), size)
        _picture(root / split / name, things, size)
        images.append(
            {
                "id": image_id,
                "file_name": name,
                "width": size,
                "height": _height(size),
            }
        )
        annotations += [
            {
                "id": 1000 * i + int(k),
                "image_id": image_id,
                "category_id": COCO_IDS[k],
                "iscrowd": int(i == CROWD_IMAGE),
                "bbox": list(box),
                "area": box[2] * box[3],
                "segmentation": [],
            }
            for k, box in things
        ]
    categories = [
        {"id": key, "name": name}
        for key, name in zip(COCO_IDS, coco.CLASSES, strict=True)
    ]
    lists = {
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    for entries in lists.values():
        rng.shuffle(entries)
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(lists))
    return targets


def wider_attribute(root, num_images=8, size=64):
    """Writes trainval and test of `num_images` each, with 1 to 3 people."""
    return {
        split: _wider_split(pathlib.Path(root), split, num_images, size)
        for split in ("trainval", "test")
    }


def _wider_split(root, split, num_images, size):
    rng = np.random.default_rng(list(split.encode()))
    images, targets = [], []
    for i in range(num_images):
        folder = split if split == "test" else ("train", "val")[i % 2]
        name = f"{folder}/{i % 3}--Parade/{i:04d}.jpg"
        path = root / "Image" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = rng.choice([1, -1, 0], (i % 3 + 1, len(wider.CLASSES)))
        things = _draw_things(rng, values.argmax(axis=1), size)
        _picture(path, things, size)
        people = [
            {"attribute": row.tolist(), "bbox": list(box)}
            for row, (_, box) in zip(values, things, strict=True)
        ]
        images.append({"file_name": name, "scene_id": i % 3, "targets": people})
        targets.append(np.where(values == 0, -1, np.maximum(values, 0)))
    path = root / "wider_attribute_annotation" / f"wider_attribute_{split}.json"
    path.parent.mkdir(exist_ok=True)
    names = {str(k): name for k, name in enumerate(wider.CLASSES)}
    path.write_text(json.dumps({"images": images, "attribute_id_map": names}))
    return np.concatenate(targets).astype("float32")


def nus_wide(root, num_images=8, size=64):
    """Writes train and test of `num_images` each, over five concepts.

    In both, image `EMPTY_IMAGE` has no label. The lists have the backslashes
    of the release, and one of them its Windows ends of lines.
    """
    root = pathlib.Path(root)
    (root / "ConceptsList").mkdir(parents=True)
    text = "".join(f"{name}\n" for name in NUS_WIDE_CONCEPTS)
    (root / "ConceptsList/Concepts81.txt").write_text(text)
    return {
        split: _nus_wide_split(root, split, num_images, size)
        for split in ("train", "test")
    }


def _nus_wide_split(root, split, num_images, size):
    rng = np.random.default_rng(list(split.encode()))
    targets = _draw_targets(rng, num_images, len(NUS_WIDE_CONCEPTS))
    targets[EMPTY_IMAGE] = 0
    names = [
        f"{('actor', 'zoo_bear')[i % 2]}\\{i:04d}_{len(split)}{i:03d}.jpg"
        for i in range(num_images)
    ]
    end = "\r\n" if split == "train" else "\n"
    files = {f"ImageList/{split.title()}Imagelist.txt": names}
    for name, column in zip(NUS_WIDE_CONCEPTS, targets.T, strict=True):
        path = f"Groundtruth/TrainTestLabels/Labels_{name}_{split.title()}.txt"
        files[path] = [str(int(value)) for value in column]
    for path, lines in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{line}{end}" for line in lines)
        (root / path).write_bytes(text.encode())
    for name, row in zip(names, targets, strict=True):
        path = root / "Flickr" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        _picture(path, _draw_things(rng, np.flatnonzero(row), size), size)
    return targets


def _draw_targets(rng, num_images, num_classes):
    """Draws 1 to 3 classes an image, of which the first take turns."""
    targets = np.zeros((num_images, num_classes), "float32")
    for i, row in enumerate(targets):
        row[i % num_classes] = 1
        row[rng.integers(num_classes, size=2)] = 1
    return targets


def _draw_things(rng, classes, size):
    """Draws a box for each class: x, y, width, height in whole pixels."""
    corners = rng.integers(0, size // 4, (len(classes), 2)).tolist()
    sides = rng.integers(size // 4, size // 2, (len(classes), 2)).tolist()
    return [
        (k, (*corner, *side))
        for k, corner, side in zip(classes, corners, sides, strict=True)
    ]


def _picture(path, things, size):
    """Writes a grey JPEG, wider than high, with a rectangle for each thing."""
    image = Image.new("RGB", (size, _height(size)), (128, 128, 128))
    draw = ImageDraw.Draw(image)
    for k, (x, y, width, height) in things:
        colour = np.random.default_rng(int(k)).integers(256, size=3).tolist()
        right, bottom = x + width - 1, y + height - 1
        draw.rectangle((x, y, right, bottom), fill=tuple(colour))
    image.save(path, quality=90)


def _height(size):
    return size * 3 // 4
