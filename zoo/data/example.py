"""What every reader gives: one record an image, in one order of classes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """One image with what is known of it.

    Args:
        image_id: str. Name of the example, unique in its data set.
        image_path: str. Path of the encoded image, or of the shard that holds
            it, see `zoo.data.shards`.
        targets: float32 array of shape `(num_classes,)`: 1 present, 0 absent,
            -1 unknown.
        boxes: float32 array of shape `(num_boxes, 4)`: ymin xmin ymax xmax,
            0 to 1 of the image.
        box_classes: int32 array of shape `(num_boxes,)`, indices of classes.
        box_difficult: bool array of shape `(num_boxes,)`, true where the
            annotators found the object hard to recognise.
        crop: `None`, or ymin xmin ymax xmax, 0 to 1 of the file's image: only
            this part of the file is the image.
        size: `None`, or height and width of the file's image in pixels, where
            the data set's annotations say it. The file itself is not asked.
            A box is a share of it.
        span: `None`, or offset and length in bytes of the record that holds
            the image, in the shard that is `image_path`.
        regions: `None`, or where a method is to look, best first: float32
            array of shape `(num_regions, 4)`, in the units of `boxes`.
    """

    image_id: str
    image_path: str
    targets: np.ndarray
    boxes: np.ndarray
    box_classes: np.ndarray
    box_difficult: np.ndarray
    crop: tuple[float, float, float, float] | None = None
    size: tuple[int, int] | None = None
    regions: np.ndarray | None = None
    span: tuple[int, int] | None = None

    @property
    def location(self):
        """Path and span: the same for all examples of an image, and no other.

        `zoo.data.encoded` reads what lies there.
        """
        return self.image_path, self.span


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Examples of one split, with the names of their classes.

    Args:
        examples: list of `Example`.
        classes: tuple of str. Class `k` of every `targets` is `classes[k]`.
        num_missing: int. Images of the split that have no file, or none that
            can be decoded, and are left out, by a reader that does so.
        largest_side: int, pixels above which images were resized when they
            were written into shards; `None` for images as they are.
    """

    examples: list[Example]
    classes: tuple[str, ...]
    num_missing: int = 0
    largest_side: int | None = None

    def targets(self):
        """Stacks the examples' targets to `(num_examples, num_classes)`."""
        return np.stack([example.targets for example in self.examples])
