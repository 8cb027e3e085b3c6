"""Random changes of a training image; each is a function of its seed.

A change that moves pixels also says which part of the image it shows, the
view: ymin xmin ymax xmax, 0 to 1 of the image before it. What lies outside of
the image is filled in, and a view with xmax before xmin is mirrored. By their
views, `regions_in_views` takes the regions of an image along.
"""

import functools

import keras
import tensorflow as tf

# A region that keeps no more of its area is dropped: what is known of the
# whole region, such as the object in it, says little about so small a part.
LEAST_SEEN = 0.25


def random_crop(shape, seed, min_area=0.7, max_ratio=4 / 3):
    """Draws a crop of random area and aspect ratio, as Szegedy et al. (2015).

    Args:
        shape: int32 tensor `(2,)`: height and width of the image in pixels.
        seed: int32 tensor `(2,)`.
        min_area: float in `(0, 1]`. Least share of the image's area; the
            share is uniform between it and 1.
        max_ratio: float, at least 1. The crop's width over height is
            log-uniform between `1 / max_ratio` and `max_ratio`, then the
            nearest one with which the crop fits into the image.

    Returns:
        float32 tensor `(4,)`: ymin xmin ymax xmax, 0 to 1 of the image.
    """
    height, width = tf.unstack(tf.cast(shape, "float32"))
    draws = tf.random.stateless_uniform((4,), seed)
    area = (min_area + (1 - min_area) * draws[0]) * height * width
    ratio = max_ratio ** (2 * draws[1] - 1)  # width over height
    # Only such ratios fit into the image with all of the area.
    ratio = tf.clip_by_value(ratio, area / height**2, width**2 / area)
    sides = tf.stack(
        [tf.sqrt(area / ratio) / height, tf.sqrt(area * ratio) / width]
    )
    sides = tf.minimum(sides, 1.0)  # rounding
    start = draws[2:] * (1 - sides)
    return tf.concat([start, start + sides], axis=0)


def random_window(side, seed):
    """Draws a window of a fixed size, at any place in the image.

    Args:
        side: float in `(0, 1]`. Height and width of the window, as shares of
            those of the image.
        seed: int32 tensor `(2,)`.

    Returns:
        float32 tensor `(4,)`: ymin xmin ymax xmax, 0 to 1 of the image.
    """
    start = tf.random.stateless_uniform((2,), seed) * (1 - side)
    return tf.concat([start, start + side], axis=0)


def random_shift(image, seed, max_shift):
    """Moves an image by whole pixels; its mirror image fills the gap.

    Unlike a crop that is resized, this leaves the pixels as sharp as they are
    in evaluation, which matters where images are no larger than the input.

    Args:
        image: tensor of shape `(height, width, channels)`.
        seed: int32 tensor `(2,)`.
        max_shift: int. Most pixels in each direction, less than the height
            and the width.

    Returns:
        Tensor of the same shape and dtype, and the view, float32 `(4,)`.
    """
    padding = [[max_shift, max_shift], [max_shift, max_shift], [0, 0]]
    padded = tf.pad(image, padding, "REFLECT")
    top, left = tf.unstack(
        tf.random.stateless_uniform(
            (2,), seed, 0, 2 * max_shift + 1, dtype="int32"
        )
    )
    height, width = tf.unstack(tf.shape(image)[:2])
    shifted = padded[top : top + height, left : left + width]
    # Pixel y of the result is pixel y + top - max_shift of the image, whole
    # pixels both: in shares of the height, a view that is as tall as the image.
    start = tf.stack([(top - max_shift) / height, (left - max_shift) / width])
    start = tf.cast(start, "float32")
    return (
        tf.ensure_shape(shifted, image.shape),
        tf.concat([start, start + 1], axis=0),
    )


def random_flip(image, seed):
    """Mirrors left and right with probability one half.

    Args:
        image: tensor of shape `(height, width, channels)`.
        seed: int32 tensor `(2,)`.

    Returns:
        Tensor of the same shape and dtype, and the view, float32 `(4,)`.
    """
    is_mirrored = tf.random.stateless_uniform((), seed) < 0.5
    flipped = tf.cond(
        is_mirrored, lambda: tf.reverse(image, [1]), lambda: image
    )
    view = tf.where(is_mirrored, (0.0, 1.0, 1.0, 0.0), (0.0, 0.0, 1.0, 1.0))
    return tf.ensure_shape(flipped, image.shape), view


def regions_in_views(regions, views):
    """Gives regions of an image as regions of what changes left of it.

    Shares of a side are the same before and after a resize, whose pixels
    cover the image from edge to edge; so there is no view of it.

    Args:
        regions: float32 tensor of shape `(num_regions, 4)`: ymin xmin ymax
            xmax, 0 to 1 of the image; a row of zeros is padding.
        views: list of float32 tensors `(4,)`, of one change after the other:
            ymin xmin ymax xmax, 0 to 1 of the image before it; a view may
            reach beyond, and be mirrored, xmax before xmin.

    Returns:
        float32 tensor of the same shape: what all views show of each region,
        0 to 1 of the last; a row of zeros where that is `LEAST_SEEN` of the
        region's area or less.

    Example:

    >>> upper_left = tf.constant([[0.0, 0.0, 0.5, 0.5]])
    >>> mirrored_upper_half = (0.0, 1.0, 0.5, 0.0)
    >>> regions_in_views(upper_left, [mirrored_upper_half]).numpy().tolist()
    [[0.0, 0.5, 1.0, 1.0]]
    """
    corners = tf.split(regions, 2, axis=1)
    area = _area(corners)  # of the whole regions, in shares of the last view
    for view in views:
        start, end = tf.split(tf.cast(view, "float32"), 2)
        area /= tf.abs(tf.reduce_prod(end - start))
        corners = [
            tf.clip_by_value((corner - start) / (end - start), 0, 1)
            for corner in corners
        ]
        corners = [tf.minimum(*corners), tf.maximum(*corners)]
    # False for padding, which has no area.
    is_seen = _area(corners) > LEAST_SEEN * area
    return tf.where(is_seen, tf.concat(corners, axis=1), 0)


def _area(corners):
    upper_left, lower_right = corners
    return tf.reduce_prod(lower_right - upper_left, axis=1, keepdims=True)


def draw_mix(size, seed, mixup=0.0, cutmix=0.0):
    """Draws what an image keeps of itself when `mix` mixes it with another.

    Formula, from Zhang et al. (2018), MixUp, https://arxiv.org/abs/1710.09412,
    and Yun et al. (2019), CutMix, https://arxiv.org/abs/1905.04899, eqs. (1)
    and (2), where MixUp weighs all pixels by `share`, and CutMix fills a window
    whose sides are a part of the image's:

        share ~ Beta(alpha, alpha),  side = sqrt(1 - share)

    The window lies inside of the image and on whole pixels. (`keras.layers`
    has both, too. Its draws do not follow from a seed of the image, and the
    weights of its `CutMix` are not those of the pixels in the window.)

    Args:
        size: int. Height and width of the image, in pixels.
        seed: int32 tensor `(2,)`.
        mixup: float, at least 0. MixUp's alpha: 1 for all shares alike, towards
            0 for shares near 0 and 1; 0 for CutMix alone.
        cutmix: float, at least 0. CutMix's alpha; 0 for MixUp alone. With
            both, each is drawn for half of the images.

    Returns:
        float32 tensor `(5,)`: the image's weight outside of a window, and the
        window, in which it has none: ymin xmin ymax xmax, in whole pixels.

    Raises:
        ValueError: If both are 0, or one is negative.
    """
    if min(mixup, cutmix) < 0 or mixup == cutmix == 0:
        raise ValueError(
            "`mixup` and `cutmix` must be at least 0, and one of them above. "
            f"Received: mixup={mixup}, cutmix={cutmix}"
        )
    seeds = tf.random.split(seed, 4)

    def weigh():
        return tf.concat([[_beta(mixup, seeds[0])], tf.zeros(4)], axis=0)

    def cut():
        side = tf.sqrt(1 - _beta(cutmix, seeds[1]))
        window = tf.round(random_window(side, seeds[2]) * size)
        return tf.concat([[1.0], window], axis=0)

    if not cutmix:
        return weigh()
    if not mixup:
        return cut()
    is_cut = tf.random.stateless_uniform((), seeds[3]) < 0.5
    return tf.cond(is_cut, cut, weigh)


def _beta(alpha, seed):
    """Draws from Beta(alpha, alpha), by the logarithms of two gamma draws.

    For a small alpha the draws themselves would often be 0 both. A draw for
    alpha is one for `alpha + 1`, times a uniform one to `1 / alpha`.
    """
    seeds = tf.random.split(seed)
    gammas = tf.random.stateless_gamma((2,), seeds[0], alpha + 1.0)
    uniforms = 1 - tf.random.stateless_uniform((2,), seeds[1])  # above 0
    logarithms = tf.math.log(gammas) + tf.math.log(uniforms) / alpha
    return tf.sigmoid(logarithms[0] - logarithms[1])


def mix(images, targets, kept, unknown="absent"):
    """Mixes each image of a batch, and its targets, with the one before it.

    The first is mixed with the last. The order of a batch is random, and so
    is who meets whom.

    Args:
        images: float32 tensor of shape `(batch, height, width, channels)`,
            with known height and width.
        targets: float32 tensor of shape `(batch, num_classes)`: 1 present, 0
            absent, -1 unknown.
        kept: float32 tensor of shape `(batch, 5)`, of `draw_mix`.
        unknown: str. What a target of -1 is in the mix. `"absent"`: 0.
            `"ignore"`: unknown, whatever it is mixed with, unless nothing of
            its image is left.

    Returns:
        Tensors of the shapes of images and targets. A target is the mean of
        the two images' targets, weighed by what is seen of the images.
    """
    height, width, channels = images.shape[1:]
    weight, top, left, bottom, right = tf.split(kept, 5, axis=1)  # (B, 1)
    # Channels beside columns: broadcasting over three of them is slow.
    y, x = tf.range(float(height)), tf.repeat(tf.range(float(width)), channels)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    in_window = rows[:, :, None] & columns[:, None, :]  # (B, H, W * C)
    weights = tf.where(in_window, 0.0, weight[:, :, None])
    pixels = tf.reshape(images, (-1, height, width * channels))
    before = tf.roll(pixels, 1, axis=0)
    pixels = before + weights * (pixels - before)
    images = tf.reshape(pixels, (-1, height, width, channels))

    # Whole pixels are counted exactly.
    cut = (bottom - top) * (right - left) / (height * width)
    share = weight * (1 - cut)
    if unknown == "absent":
        targets = tf.maximum(targets, 0)
    before = tf.roll(targets, 1, axis=0)
    mixed = before + share * (targets - before)
    is_unknown = ((targets < 0) & (share > 0)) | ((before < 0) & (share < 1))
    return images, tf.where(is_unknown, -1.0, mixed)


class RandAugment:
    """Changes an image by a few of eleven operations, drawn for each image.

    Cubuk et al. (2019), https://arxiv.org/abs/1909.13719. The operations are
    Keras' layers. `keras.layers.RandAugment` itself would compute all of them
    to use one, and its draws would not follow from a seed of the image.

    Args:
        num_ops: int, at least 1. Operations on an image, one after the other.
        strength: float in `(0, 1]`. How far an operation may go, which draws
            from no change up to there; the paper's magnitude, 9 of 30 by
            default. Contrast stretching and equalization know no degrees.

    Call arguments:
        image: float32 tensor of shape `(height, width, 3)`, 0 to 255, with
            known height and width.
        seed: int32 tensor `(2,)`.

    Returns:
        float32 tensor of the same shape, 0 to 255.

    Example:

    >>> augment = RandAugment(num_ops=2)
    >>> augment(tf.zeros((32, 32, 3)), seed=(0, 1)).shape
    TensorShape([32, 32, 3])
    """

    def __init__(self, num_ops, strength=0.3):
        self.num_ops = num_ops
        geometry = {"fill_mode": "constant", "fill_value": 128.0}
        colour = {"value_range": (0, 255)}
        # Layers keep a variable, so they cannot be made inside a graph.
        self.layers = [
            layer(**arguments, dtype="float32")
            for layer, arguments in (
                (
                    keras.layers.RandomShear,
                    {"x_factor": strength, "y_factor": strength, **geometry},
                ),
                (
                    keras.layers.RandomTranslation,
                    {
                        "height_factor": strength,
                        "width_factor": strength,
                        **geometry,
                    },
                ),
                (  # in turns: 30 degrees at a strength of 1
                    keras.layers.RandomRotation,
                    {"factor": strength * 30 / 360, **geometry},
                ),
                (
                    keras.layers.RandomBrightness,
                    {"factor": strength, **colour},
                ),
                (keras.layers.RandomContrast, {"factor": strength, **colour}),
                (
                    keras.layers.RandomColorDegeneration,
                    {"factor": strength, **colour},
                ),
                (  # 0.5 leaves the image as it is
                    keras.layers.RandomSharpness,
                    {
                        "factor": (0.5 - strength / 2, 0.5 + strength / 2),
                        **colour,
                    },
                ),
                (  # bits that are kept, drawn below the second number
                    keras.layers.RandomPosterization,
                    {"factor": (max(1, round(8 - 4 * strength)), 8), **colour},
                ),
                (  # inverts what is brighter than a threshold
                    _Solarization,
                    {"threshold_factor": (1 - strength, 1.0), **colour},
                ),
                (keras.layers.AutoContrast, colour),
                (keras.layers.Equalization, colour),
            )
        ]

    def __call__(self, image, seed):
        """Applies the operations that the seed draws."""
        for i in range(self.num_ops):
            seeds = tf.random.split(tf.random.fold_in(seed, i))
            image = self._apply_one(image, seeds[0], seeds[1])
        return image

    def _apply_one(self, image, seed_of_choice, seed_of_strength):
        def apply(layer):
            # Some layers take batches only.
            drawn = layer.get_random_transformation(
                image[None],
                training=True,
                seed=_StatelessSeed(seed_of_strength),
            )
            changed = layer.transform_images(image[None], drawn)[0]
            return tf.ensure_shape(changed, image.shape)

        choice = tf.random.stateless_uniform(
            (), seed_of_choice, 0, len(self.layers), dtype="int32"
        )
        changed = tf.switch_case(
            choice, [functools.partial(apply, layer) for layer in self.layers]
        )
        return tf.clip_by_value(changed, 0, 255)


class _Solarization(keras.layers.Solarization):
    """Draws the threshold from all of its range.

    Keras 3.15 scales the range's upper end to pixels, but not its lower end.
    """

    def get_random_transformation(self, data, training=True, seed=None):
        low, high = (255 * factor for factor in self.threshold_factor)
        threshold = keras.random.uniform((1, 1, 1, 1), low, high, seed=seed)
        return {"additions": 0.0, "thresholds": threshold}


class _StatelessSeed(keras.random.SeedGenerator):
    """Gives Keras' layers seeds that follow from one seed.

    Keras' own generator counts its calls in a variable, so that what an image
    gets would depend on the images before it.
    """

    def __init__(self, seed):
        self.seed = seed
        self.count = 0

    def next(self, ordered=True):
        self.count += 1
        return tf.random.fold_in(self.seed, self.count)
