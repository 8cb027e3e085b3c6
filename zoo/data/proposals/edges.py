"""Edge boxes: regions that hold whole contours."""

import os
import pathlib
import threading

import numpy as np

VERSION = 2  # of the regions of a file; a part of the cache's keys
# Chosen on 100 images each of VOC 2012 and `scenes`, with 1,000 regions: a
# larger image finds no more and takes longer, a grey one finds less.
SIDE = 256  # pixels, longer side of the image in which edges are sought
BLUR = 1.5  # pixels, standard deviation
GAIN = 4.0  # of a gradient, full scale a pixel, to strength of an edge, 0 to 1
MIN_AREA = 256  # pixels of that image, of a region


def edge_boxes(image, num_regions=300, nms=0.7, forest=None):
    """Finds the regions that hold whole contours, by OpenCV.

    From Zitnick and Dollar (2014), "Edge Boxes: Locating Object Proposals
    from Edges", with a simpler map of edges: where the gradient, of the colour
    in which it is strongest, has a maximum across the edge. The paper's own
    map comes from a trained forest, whose file is not free for all uses.

    Args:
        image: uint8 array of shape `(height, width, 3)`, RGB.
        num_regions: int, at least 1. Most regions to give.
        nms: float in `(0, 1)`. IoU above which the lower scored of two regions
            is dropped, the paper's beta.
        forest: `Forest`, or `None` for edges by the gradient.

    Returns:
        regions: float32 array of shape `(num_regions or fewer, 4)`: ymin xmin
            ymax xmax, 0 to 1 of the image, best first; none in a plain image.
        scores: float32 array of that length. They rank regions, no more.

    Raises:
        ImportError: If OpenCV is missing; says how to install it.
        ValueError: If an argument is out of its range, or the image is not
            such an array.

    Example:

    >>> image = np.zeros((100, 100, 3), "uint8")
    >>> image[30:70, 20:60] = 255
    >>> regions, scores = edge_boxes(image, num_regions=1)
    >>> regions.astype(float).round(1).tolist()
    [[0.3, 0.2, 0.7, 0.6]]
    """
    check(num_regions, nms)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != "uint8":
        raise ValueError(
            "`image` must be uint8 of shape (height, width, 3), RGB. "
            f"Received: shape={image.shape}, dtype={image.dtype}"
        )
    cv2 = opencv()
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    image = cv2.resize(
        image,
        (width, height),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
    )
    image = np.float32(image) / 255
    find_edges = forest.find_edges if forest else _gradient_edges
    edges, orientation = find_edges(image)
    found, scores = cv2.ximgproc.createEdgeBoxes(
        beta=nms, maxBoxes=num_regions, minBoxArea=MIN_AREA
    ).getBoundingBoxes(edges, orientation)
    if not len(found):
        return np.zeros((0, 4), "float32"), np.zeros(0, "float32")
    left, top, right, bottom = np.float32(found).T
    # OpenCV counts pixels from 1 and leaves the last one out of the sides.
    top, left, bottom, right = top - 1, left - 1, top + bottom, left + right
    regions = np.stack([top, left, bottom, right], axis=1)
    regions /= np.float32([height, width, height, width])
    return np.clip(regions, 0, 1)[:num_regions], scores.ravel()[:num_regions]


class Forest:
    """A structured forest that finds edges, loaded once.

    Args:
        model_file: path of the forest as OpenCV reads it (`model.yml.gz`).

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If OpenCV is missing; says how to install it.
        ValueError: If OpenCV cannot read it.
    """

    def __init__(self, model_file):
        model_file = os.fspath(model_file)
        if not pathlib.Path(model_file).is_file():
            raise FileNotFoundError(
                "There is no such file of a structured forest. "
                f"Received: model_file={model_file!r}"
            )
        cv2 = opencv()
        create = cv2.ximgproc.createStructuredEdgeDetection
        try:
            # Of another YAML, OpenCV would divide by 0 and end the process.
            file = cv2.FileStorage(model_file, cv2.FILE_STORAGE_READ)
            if file.getNode("options").empty():
                raise cv2.error("the options of a forest are missing")
            self._forest = create(model_file)
        except (cv2.error, SystemError) as error:  # the latter by FileStorage
            raise ValueError(
                "`model_file` must be a structured forest that OpenCV reads. "
                f"Received: model_file={model_file!r}"
            ) from error
        # Nobody says that two threads may use one forest at a time; it is made
        # of parallel loops itself.
        self._is_used = threading.Lock()

    def find_edges(self, image):
        """Finds edges and their direction.

        Args:
            image: float32 array of shape `(height, width, 3)`, RGB, 0 to 1.

        Returns:
            strength: float32 array of shape `(height, width)`, 0 to 1.
            orientation: float32 array of that shape, angle of the edges'
                normal, 0 to pi.
        """
        with self._is_used:
            edges = self._forest.detectEdges(image)
            orientation = self._forest.computeOrientation(edges)
            return self._forest.edgesNms(edges, orientation), orientation


def check(num_regions, nms):
    """Refuses what `edge_boxes` cannot use, before any image is read."""
    if num_regions < 1:
        raise ValueError(
            "`num_regions` must be at least 1. "
            f"Received: num_regions={num_regions}"
        )
    if not 0 < nms < 1:
        raise ValueError(f"`nms` must be in (0, 1). Received: nms={nms}")


def opencv():
    """Imports OpenCV, which only those who want edge boxes need to have."""
    try:
        import cv2

        cv2.ximgproc  # noqa: B018, another of OpenCV's packages lacks it
    except (ImportError, AttributeError) as error:
        raise ImportError(
            "Edge boxes need OpenCV with its contrib modules: "
            f"pip install -e '.[proposals]'. Received: {error}"
        ) from error
    return cv2


def _gradient_edges(image):
    """Gives strength, 0 to 1, and angle of the normal, 0 to pi, of edges."""
    cv2 = opencv()
    image = cv2.GaussianBlur(image, (0, 0), BLUR)
    # The filter's weights sum to 32: the result is a difference a pixel.
    dx = cv2.Scharr(image, -1, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(image, -1, 0, 1, scale=1 / 32)
    squares = dx**2 + dy**2  # (height, width, 3)
    colour = squares.argmax(axis=-1, keepdims=True)
    dx, dy, squares = (
        np.take_along_axis(array, colour, -1)[..., 0]
        for array in (dx, dy, squares)
    )
    strength = np.sqrt(squares)
    # An edge is one pixel wide: where both neighbours across it are weaker.
    x, y = np.meshgrid(*map(np.arange, strength.shape[::-1]))
    across = np.stack([dx, dy]) / np.maximum(strength, 1e-12)
    is_edge = np.full(strength.shape, True)
    for step in (across, -across):
        beside = cv2.remap(
            strength,
            *np.float32([x + step[0], y + step[1]]),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        is_edge &= strength >= beside
    edges = np.where(is_edge, np.minimum(GAIN * strength, 1), 0)
    return np.float32(edges), np.float32(np.arctan2(dy, dx) % np.pi)
