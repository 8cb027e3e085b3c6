"""The built-in data set: small drawn scenes, written as real JPEG files.

A problem in the shape of a real one that needs no download: sixteen classes
in five kinds of scenes, small objects in clutter, occlusion, classes that go
together, a long tail. `zoo.data.drawing` says what things look like, this
file says what stands where, and writes and reads the result.
"""

import dataclasses
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable

import keras
import numpy as np
from PIL import Image, ImageFilter

from zoo.data import drawing, voc
from zoo.data.example import Dataset

VERSION = 1  # of the pixels and annotations; names the folder in the cache
IMAGE_SIZE = 128  # pixels, height and width
SPLITS = ("trainval", "test")  # an image's seed holds its split's index
_STAMPS = len(SPLITS)  # in the place of that index: stamps are a third split


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How a class tends to look, and where it tends to be.

    Args:
        draw: function of `zoo.data.drawing`.
        sides: smallest and largest longer side, as a share of the image.
        height: mean height of the centre, 0 at the top to 1 at the bottom.
        tilt: standard deviation of the rotation, degrees.
        colours: typical pairs of a main and an accent colour, in
            hexadecimal RGB: "main/accent main/accent".
    """

    draw: Callable
    sides: tuple[float, float]
    height: float
    tilt: float
    colours: str


_KINDS = {
    "ball": _Kind(
        drawing.ball, (0.15, 0.38), 0.75, 180,
        "d63c32/f5f0e6 f08228/3c3232 f5f5f0/3c5ac8",
    ),
    "bird": _Kind(
        drawing.bird, (0.15, 0.42), 0.3, 10,
        "6e5a4c/e6a032 465064/e6be3c ecece8/f09628",
    ),
    "boat": _Kind(
        drawing.boat, (0.16, 0.55), 0.65, 5,
        "963c32/f5f0e4 3c5082/f0ecdc f0f0ec/c8503c",
    ),
    "car": _Kind(
        drawing.car, (0.17, 0.55), 0.75, 4,
        "c8322e/c8c8cc 3c5aa0/d2d2d6 c4c6ca/78787e",
    ),
    "cloud": _Kind(
        drawing.cloud, (0.18, 0.60), 0.2, 3,
        "f0f2f6/fafafc c4cad4/d8dce4",
    ),
    "fish": _Kind(
        drawing.fish, (0.16, 0.44), 0.78, 14,
        "f08c32/f6ecdc 6e8caa/465a78 e6c846/3c5a96",
    ),
    "flower": _Kind(
        drawing.flower, (0.13, 0.42), 0.78, 8,
        "e2465a/f6d246 f6f6f0/f0be32 aa64c8/fadc5a",
    ),
    "house": _Kind(
        drawing.house, (0.24, 0.60), 0.6, 2,
        "e2ceaa/a04638 c87860/5a5054 eceae2/6e5a50",
    ),
    "kite": _Kind(
        drawing.kite, (0.15, 0.44), 0.3, 25,
        "e63c3c/fad23c 3c82d2/f0f0f0 7846aa/5ac878",
    ),
    "lamp": _Kind(
        drawing.lamp, (0.26, 0.60), 0.6, 3,
        "3c3e42/fce88c 5a6460/faf6d2",
    ),
    "moon": _Kind(
        drawing.moon, (0.15, 0.38), 0.22, 25,
        "f6f0ce/d6cea8 ececf0/c8c8ce",
    ),
    "person": _Kind(
        drawing.person, (0.15, 0.58), 0.7, 5,
        "c8423c/3c4264 4678b4/5a5046 f0c85a/46464c 5a9664/323850",
    ),
    "star": _Kind(
        drawing.star, (0.15, 0.36), 0.25, 20,
        "fae264/fef4b4 f4f0dc/fefcf0",
    ),
    "sun": _Kind(
        drawing.sun, (0.15, 0.42), 0.22, 180,
        "fcd646/fcbe3c fa963c/fabe5a",
    ),
    "tree": _Kind(
        drawing.tree, (0.20, 0.60), 0.6, 4,
        "407c3e/6c4e34 64963c/785a42 c88232/5a4230",
    ),
    "umbrella": _Kind(
        drawing.umbrella, (0.18, 0.50), 0.6, 14,
        "d6383c/f6f0e6 3c64aa/5a96d2 f0be3c/dc6e3c",
    ),
}  # fmt: skip

CLASSES = tuple(_KINDS)

_USUAL = {  # weights of the classes that belong in a scene
    "street": {
        "person": 10, "car": 9, "house": 6, "tree": 6, "lamp": 2, "cloud": 2,
        "bird": 1.2, "sun": 1, "umbrella": 1.1, "ball": 0.7,
    },
    "garden": {
        "tree": 10, "person": 6, "flower": 5, "house": 4, "bird": 3,
        "cloud": 3, "sun": 2, "ball": 1.8, "kite": 0.8, "umbrella": 0.3,
    },
    "sea": {
        "boat": 8, "fish": 4.5, "cloud": 4, "bird": 4, "person": 4, "sun": 3,
        "umbrella": 1.2, "ball": 0.9, "kite": 0.6,
    },
    "sky": {
        "cloud": 9, "bird": 6, "sun": 4, "tree": 2.5, "kite": 2.2,
        "house": 0.8, "moon": 0.4,
    },
    "night": {
        "tree": 5, "person": 4, "house": 4, "car": 3, "moon": 3.2,
        "star": 3.2, "lamp": 2, "cloud": 1, "boat": 1,
    },
}  # fmt: skip
_UNUSUAL = 0.1  # weight of every other class: no scene rules a class out
_SCENES = {  # share of the images
    "street": 0.32,
    "garden": 0.22,
    "sea": 0.2,
    "sky": 0.12,
    "night": 0.14,
}
_NUM_CLASSES = (0.2, 0.28, 0.26, 0.15, 0.08, 0.03)  # of 1 to 6 in an image
_NUM_INSTANCES = (0.7, 0.22, 0.08)  # of 1 to 3 of a class that is there
_TYPICAL_COLOUR = 0.75  # probability that an object has a colour of its class
_MIN_VISIBLE = 0.2  # share of an object that later ones leave uncovered
_DIFFICULT = 0.6  # hidden share above which an object is difficult
_LEFT_OUT = 0.9  # hidden share above which an object is not annotated
_OPAQUE = 85  # alpha from which on a pixel belongs to an object


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object of an image, as the annotation will have it.

    Args:
        name: str. Its class.
        box: xmin ymin xmax ymax in pixels, counted from 1, all inclusive.
        difficult: bool. Whether more than 60 % of it is hidden.
        truncated: bool. Whether it reaches beyond the image.
    """

    name: str
    box: tuple[int, int, int, int]
    difficult: bool
    truncated: bool


class Canvas:
    """An image, and what of the objects in it is still to be seen.

    Args:
        image: square `PIL.Image` of mode RGB, the background; painted over.

    Example:

    >>> canvas = Canvas(Image.new("RGB", (128, 128)))
    >>> canvas.paste(Image.new("RGBA", (9, 9), "#f00f"), "ball", 20, 30)
    >>> canvas.objects()[0].box
    (21, 31, 29, 39)
    """

    def __init__(self, image):
        self.image = image
        self.names = []  # None for clutter
        self.places = []  # left and top, pixels
        self.masks = []
        self.areas = np.zeros(0, int)  # pixels
        self.visible = np.zeros(0, int)  # pixels that no later tile covers
        # Which tile a pixel shows, -1 for none. The margin holds what lies
        # beyond the image, so that no tile needs clipping.
        self.margin = image.width // 4
        self.shown = np.full([image.width + 2 * self.margin] * 2, -1)

    def _under(self, mask, left, top):
        rows = slice(self.margin + top, self.margin + top + mask.shape[0])
        columns = slice(self.margin + left, self.margin + left + mask.shape[1])
        return self.shown[rows, columns]

    def _covered(self, mask, left, top):
        under = self._under(mask, left, top)[mask] + 1
        return np.bincount(under, minlength=len(self.names) + 1)[1:]

    def would_leave(self, tile, left, top):
        """Gives the smallest share that a paste would leave of an object.

        Args:
            tile: `PIL.Image` of mode RGBA.
            left: int. Column of the tile's left edge, pixels, from 0.
            top: int. Row of its upper edge.

        Returns:
            float, 0 to 1; 1 where no object is touched. Clutter may be hidden.
        """
        covered = self._covered(_mask(tile), left, top)
        touched = covered > 0
        for index, name in enumerate(self.names):
            touched[index] &= name is not None
        shares = (self.visible - covered)[touched] / self.areas[touched]
        return min(shares, default=1.0)

    def paste(self, tile, name, left, top):
        """Paints a tile over what is there.

        Args:
            tile: `PIL.Image` of mode RGBA.
            name: str, the object's class, or `None` for clutter.
            left: int. Column of the tile's left edge, pixels, from 0. At most
                a quarter of the image lies beyond its border.
            top: int. Row of its upper edge.
        """
        mask = _mask(tile)
        covered = self._covered(mask, left, top)
        self.visible = np.append(self.visible - covered, mask.sum())
        self.areas = np.append(self.areas, mask.sum())
        self._under(mask, left, top)[mask] = len(self.names)
        self.names.append(name)
        self.places.append((left, top))
        self.masks.append(mask)
        self.image.paste(tile, (left, top), tile)

    def objects(self):
        """Gives a `SceneObject` for each object that is to be seen."""
        margin, (width, height) = self.margin, self.image.size
        inside = self.shown[margin : margin + height, margin : margin + width]
        visible = np.bincount(inside.ravel() + 1, minlength=len(self.names) + 1)
        # The thinnest clutter may have no opaque pixel at all.
        hidden = 1 - visible[1:] / np.maximum(self.areas, 1)
        objects = []
        for index, name in enumerate(self.names):
            if name is None or hidden[index] > _LEFT_OUT:
                continue
            left, top = self.places[index]
            columns = left + np.flatnonzero(self.masks[index].any(axis=0))
            rows = top + np.flatnonzero(self.masks[index].any(axis=1))
            box = (columns[0], rows[0], columns[-1], rows[-1])
            clipped = np.clip(box, 0, (width - 1, height - 1) * 2)
            objects.append(
                SceneObject(
                    name=name,
                    box=tuple((clipped + 1).tolist()),
                    difficult=bool(hidden[index] > _DIFFICULT),
                    truncated=bool((clipped != box).any()),
                )
            )
        return objects


def draw(seed, split_index, index):
    """Draws one image of the data set.

    Args:
        seed: int, at least 0. Of the whole data set.
        split_index: int. 0 for trainval, 1 for test.
        index: int, at least 0. Place of the image in its split.

    Returns:
        image: uint8 array of shape `(128, 128, 3)`, RGB.
        objects: list of `SceneObject`, at least one.

    Example:

    >>> image, objects = draw(seed=0, split_index=1, index=7)
    >>> image.shape
    (128, 128, 3)
    """
    rng = np.random.default_rng([seed, split_index, index])
    scene, names = compose(rng)
    canvas = Canvas(drawing.background(rng, scene, IMAGE_SIZE))
    objects = [(name, _object_tile(rng, name)) for name in names]
    clutter = [(None, _clutter_tile(rng)) for _ in range(rng.integers(2, 7))]
    # Far things tend to be small, yet the small ones shall be seen: what is
    # large tends to come first. An object is last, so one is always whole.
    depth = [
        -np.log(max(tile.size)) + rng.normal(0, 0.5)
        for _, tile in objects + clutter
    ]
    depth[np.argmax(depth[: len(objects)])] = np.inf
    for place in np.argsort(depth):
        name, tile = (objects + clutter)[place]
        canvas.paste(tile, name, *_find_place(rng, canvas, name, tile))
    return _photograph(rng, canvas.image), canvas.objects()


def compose(rng):
    """Chooses a scene and the class of each of its objects.

    Returns:
        scene: str, a kind of background.
        names: list of str, 1 to 6 of `CLASSES`, each up to three times.
    """
    scenes = list(_SCENES)
    scene = scenes[rng.choice(len(scenes), p=list(_SCENES.values()))]
    weights = np.array([_USUAL[scene].get(name, _UNUSUAL) for name in CLASSES])
    num_classes = 1 + rng.choice(len(_NUM_CLASSES), p=_NUM_CLASSES)
    chosen = rng.choice(
        len(CLASSES), num_classes, replace=False, p=weights / weights.sum()
    )
    instances = 1 + rng.choice(3, num_classes, p=_NUM_INSTANCES)
    return scene, [CLASSES[index] for index in np.repeat(chosen, instances)]


def _colours(rng, name):
    """Chooses a main and an accent colour, typical of a class or not."""
    if rng.random() > _TYPICAL_COLOUR:
        return rng.integers(30, 250, (2, 3))
    pairs = _KINDS[name].colours.split()
    pair = pairs[rng.integers(len(pairs))].split("/")
    return [list(bytes.fromhex(colour)) for colour in pair]


def _paint(rng, colours):
    jitter = rng.normal(0, 14, (2, 3))
    return [tuple(c) for c in np.clip(colours + jitter, 0, 255).astype(int)]


def _log_uniform(rng, low, high):
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _object_tile(rng, name, side=None):
    """Draws an object of a class, `side` pixels long or as the class is."""
    kind, sketch = _KINDS[name], drawing.Sketch()
    if side is None:
        side = IMAGE_SIZE * _log_uniform(rng, *kind.sides)
    kind.draw(sketch, rng, *_paint(rng, _colours(rng, name)))
    return drawing.render(
        sketch,
        side=round(side),
        angle=rng.normal(0, kind.tilt),
        stretch=rng.uniform(0.85, 1.15),
        flip=rng.random() < 0.5,
    )


def _clutter_tile(rng):
    """Draws a thin line, or a part that several classes are made of."""
    sketch = drawing.Sketch()
    name = CLASSES[rng.integers(len(CLASSES))]
    main, accent = _paint(rng, _colours(rng, name))
    if rng.random() < 0.3:
        bend = rng.uniform(-0.2, 0.2)
        sketch.stroke([(0, 0), (0.5, bend), (1, 0)], 0.012, main)
        side, angle = rng.uniform(0.3, 0.8), rng.uniform(0, 180)
    else:
        drawing.part(sketch, rng, main, accent)
        side, angle = _log_uniform(rng, 0.07, 0.22), rng.normal(0, 40)
    side = round(IMAGE_SIZE * side)
    return drawing.render(sketch, side=side, angle=angle)


def _mask(tile):
    return np.asarray(tile)[..., 3] >= _OPAQUE


def _find_place(rng, canvas, name, tile):
    """Finds where a tile covers no object too much, as far as it can."""
    size = np.array(tile.size)
    best, best_share = None, -1.0
    for _ in range(12):
        centre = rng.uniform(0, IMAGE_SIZE, 2)
        if name is not None:
            centre[1] = IMAGE_SIZE * rng.normal(_KINDS[name].height, 0.18)
        # Up to 15 % of width and height may lie beyond the border.
        beyond = rng.uniform(-0.15, 0.15) * size
        room = np.maximum(IMAGE_SIZE - size + beyond, -beyond)
        corner = np.clip(centre - size / 2, -beyond, room)
        left, top = (int(value) for value in corner)
        share = canvas.would_leave(tile, left, top)
        if share > best_share:
            best, best_share = (left, top), share
        if share > _MIN_VISIBLE:
            break
    return best


def _photograph(rng, image):
    """Adds what a camera adds: blur, exposure, a colour cast, noise."""
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.7)))
    pixels = np.asarray(image, np.float32)
    gain = rng.uniform(0.75, 1.15) * rng.uniform(0.93, 1.07, 3)
    noise = rng.standard_normal(pixels.shape, np.float32)
    pixels = pixels * gain.astype(np.float32) + rng.uniform(2, 9) * noise
    return np.clip(pixels + rng.uniform(-12, 12), 0, 255).astype(np.uint8)


def stamps(num_stamps, seed=0, size=48):
    """Draws single objects in clutter, to pretrain a small network on.

    The same classes, stages and clutter as in the scenes, but one object an
    image, in its middle. No stamp shares its random numbers with a scene.

    Args:
        num_stamps: int, at least 1.
        seed: int, at least 0.
        size: int. Height and width, pixels, 24 to 128.

    Returns:
        images: uint8 array of shape `(num_stamps, size, size, 3)`, RGB.
        labels: int32 array of shape `(num_stamps,)`, indices of `CLASSES` in
            turn: any run of stamps is balanced.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> images, labels = stamps(num_stamps=3)
    >>> images.shape, labels.tolist()
    ((3, 48, 48, 3), [0, 1, 2])
    """
    if num_stamps < 1:
        raise ValueError(
            "`num_stamps` must be at least 1. "
            f"Received: num_stamps={num_stamps}"
        )
    if not 24 <= size <= IMAGE_SIZE:
        raise ValueError(
            f"`size` must be 24 to {IMAGE_SIZE}. Received: size={size}"
        )
    labels = np.arange(num_stamps, dtype=np.int32) % len(CLASSES)
    images = np.stack(
        [
            _stamp(np.random.default_rng([seed, _STAMPS, i]), CLASSES[k], size)
            for i, k in enumerate(labels)
        ]
    )
    return images, labels


def _stamp(rng, name, size):
    """Draws an object of a class near the middle of a part of a stage."""
    scenes = list(_SCENES)
    weights = [_USUAL[scene].get(name, _UNUSUAL) for scene in scenes]
    scene = rng.choice(scenes, p=np.divide(weights, sum(weights)))
    stage = drawing.background(rng, scene, IMAGE_SIZE)
    left, top = rng.integers(0, IMAGE_SIZE - size + 1, 2).tolist()
    image = stage.crop((left, top, left + size, top + size))
    num_behind, num_before = rng.integers(3), rng.integers(2)
    tiles = [_clutter_tile(rng) for _ in range(num_behind)]
    tiles.append(_object_tile(rng, name, size * _log_uniform(rng, 0.4, 0.95)))
    tiles += [_clutter_tile(rng) for _ in range(num_before)]
    for i, tile in enumerate(tiles):
        jitter = rng.normal(0, 0.06 if i == num_behind else 0.35, 2) * size
        corner = (size - np.array(tile.size)) / 2 + jitter
        image.paste(tile, tuple(corner.astype(int).tolist()), tile)
    return _photograph(rng, image)


def write(directory, num_trainval=2000, num_test=1000, seed=0):
    """Writes the data set as a year folder of a VOC devkit.

    Everything is first written beside `directory` and then renamed: a run
    that is killed leaves no half data set, and when two processes write the
    same one, the first to finish wins.

    Args:
        directory: str or path. Must not exist, or be empty.
        num_trainval: int, at least 1. Images to train and validate on.
        num_test: int, at least 1. Images to test on.
        seed: int, at least 0. Another seed gives other images.

    Raises:
        ValueError: If a number is out of its range.
        FileExistsError: If `directory` holds something already.

    Example:

    >>> write("small", num_trainval=20, num_test=10)  # doctest: +SKIP
    >>> sorted(os.listdir("small"))  # doctest: +SKIP
    ['Annotations', 'ImageSets', 'JPEGImages']
    """
    for name, number in (
        ("num_trainval", num_trainval),
        ("num_test", num_test),
    ):
        if number < 1:
            raise ValueError(
                f"`{name}` must be at least 1. Received: {name}={number}"
            )
    directory = pathlib.Path(directory)
    if _is_written(directory):
        raise FileExistsError(
            "`directory` must not exist, or be empty. "
            f"Received: directory={directory}"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=".writing_", dir=directory.parent
    ) as temporary:
        # A folder inside, since the temporary one is closed to other users.
        whole = pathlib.Path(temporary, "whole")
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (whole / folder).mkdir(parents=True)
        progress = keras.utils.Progbar(
            num_trainval + num_test, verbose=1 if sys.stdout.isatty() else 2
        )
        for split, number in zip(SPLITS, (num_trainval, num_test), strict=True):
            image_ids = [f"{split}_{index:06d}" for index in range(number)]
            for index, image_id in enumerate(image_ids):
                _write_image(whole, image_id, seed, SPLITS.index(split), index)
                progress.add(1)
            list_file = whole / "ImageSets" / "Main" / f"{split}.txt"
            list_file.write_text("\n".join(image_ids) + "\n")
        try:
            whole.rename(directory)
        except OSError:
            if not _is_written(directory):
                raise  # else another process was faster


def _is_written(directory):
    return directory.exists() and any(directory.iterdir())


def _write_image(directory, image_id, seed, split_index, index):
    image, objects = draw(seed, split_index, index)
    path = directory / "JPEGImages" / f"{image_id}.jpg"
    Image.fromarray(image).save(path, quality=90)
    path = directory / "Annotations" / f"{image_id}.xml"
    path.write_text(_annotation(image_id, objects))


def _annotation(image_id, objects):
    """Gives the XML text of an image, as in the VOC devkit."""
    lines = [
        "<annotation>",
        "  <folder>scenes</folder>",
        f"  <filename>{image_id}.jpg</filename>",
        f"  <size><width>{IMAGE_SIZE}</width><height>{IMAGE_SIZE}</height>"
        "<depth>3</depth></size>",
        "  <segmented>0</segmented>",
    ]
    for thing in objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), thing.box, strict=True)
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
        lines += [
            "  <object>",
            f"    <name>{thing.name}</name>",
            "    <pose>Unspecified</pose>",
            f"    <truncated>{thing.truncated:d}</truncated>",
            f"    <difficult>{thing.difficult:d}</difficult>",
            f"    <bndbox>{box}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])


def read(root: str | os.PathLike | None, split: str) -> Dataset:
    """Reads a split of the data set, which is written first if need be.

    Args:
        root: str or path. Folder of the data set; `None` is one in the cache,
            `multilabel_zoo` in `$XDG_CACHE_HOME` or in `~/.cache`.
        split: str. "trainval" or "test".

    Returns:
        `Dataset` with the classes `CLASSES`.

    Raises:
        ValueError: If there is no such split.

    Example:

    >>> dataset = read(None, "trainval")  # doctest: +SKIP
    >>> dataset.targets().shape  # doctest: +SKIP
    (2000, 16)
    """
    if split not in SPLITS:
        raise ValueError(
            f"`split` must be one of {SPLITS}. Received: split={split}"
        )
    root = _cache_folder() if root is None else pathlib.Path(root)
    if not _is_written(root):
        print(f"Writing the data set `scenes` to {root}, once.")
        write(root)
    return voc.read(root, split, classes=CLASSES)


def _cache_folder():
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache, "multilabel_zoo", f"scenes_{VERSION}")
