"""How much regions and boxes overlap."""

import numpy as np
from pycocotools import mask


def iou(regions, boxes):
    """Divides the intersection of each region and box by their union.

    Args:
        regions: float array of shape `(num_regions, 4)`: ymin xmin ymax xmax.
        boxes: float array of shape `(num_boxes, 4)`, in the same unit.

    Returns:
        float32 array of shape `(num_regions, num_boxes)`, 0 to 1. A row
        without area, such as padding, overlaps nothing.

    Example:

    >>> iou([[0, 0, 1, 1], [0, 0, 0, 0]], [[0, 0, 1, 0.5]]).tolist()
    [[0.5], [0.0]]
    """
    regions, boxes = _corner_and_sides(regions), _corner_and_sides(boxes)
    if not (len(regions) and len(boxes)):
        return np.zeros((len(regions), len(boxes)), "float32")
    is_crowd = np.zeros(len(boxes), "uint8")
    return mask.iou(regions, boxes, is_crowd).astype("float32")


def _corner_and_sides(boxes):
    """Gives x, y, width and height, as COCO has them."""
    # Differences of float32 are exact in float64: boxes that touch stay apart.
    boxes = np.asarray(boxes, "float32").reshape(-1, 4).astype("float64")
    start, end = boxes[:, 1::-1], boxes[:, 3:1:-1]
    return np.hstack([start, end - start])
