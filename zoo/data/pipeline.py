"""Examples -> batches of images and targets, by tf.data.

The order of operations stands here once:

    training     shuffle indices -> read -> crop, decode -> resize -> shift
                 -> RandAugment -> flip -> batch -> mix -> prefetch
    cached       shuffle indices -> batch -> read features -> prefetch
    evaluation   read -> decode -> resize -> batch -> prefetch

A crop is drawn first, so that of a JPEG only a part is decoded. It lies on
whole pixels of the file, and shift and flip on whole pixels of the image, so
that regions, where the examples have them, follow exactly.

Everything random follows from the seed, the epoch and the example's index, so
an epoch gives the same pixels in a run that was resumed before it.
"""

import contextlib
import re

import numpy as np
import tensorflow as tf

from zoo import preprocess
from zoo.data import augment, boxes, cores, encoded
from zoo.data.progress import Progress

# Shrinking by less than this, augmentation mixes four pixels instead of
# averaging all. It takes a third of the time, and crops differ by more. A JPEG
# that shrinks by at least twice as much is halved by its decoder, once or more.
TRAINING_ANTIALIAS = 1.5
IOU = 0.5  # with a true box, above which a region counts as an object
# Lines of TensorFlow's errors, of files and shards.
_UNREADABLE = re.compile(
    r".*(No such file|(corrupted|truncated) record|Invalid JPEG|Invalid PNG"
    f"|{preprocess.TAKEN}).*"
)
MANY = 1000  # images that take long enough to show progress

# To look for Python's own control flow, of which there is none over tensors,
# takes seconds at every start.
_without_autograph = tf.autograph.experimental.do_not_convert


def training_batches(
    examples,
    image_size,
    batch_size,
    epochs,
    seed,
    first_epoch=0,
    crop_area=0.7,
    shift=0.0,
    rand_augment=0,
    flip=True,
    resize=0,
    region_targets=False,
    mixup=0.0,
    cutmix=0.0,
    unknown="absent",
    share=(0, 1),
):
    """Makes the batches of all epochs, one after the other.

    Every epoch has `steps_per_epoch(examples, batch_size)` whole batches; the
    examples that do not fill a batch are others in each epoch. One iterator
    serves all epochs: hand it to `fit` with `steps_per_epoch`.

    Several workers that train together have the same batches as one alone, but
    for mixed images: each reads and decodes its share, and no other image.

    Args:
        examples: list of `Example`, at least `batch_size`; all of them with
            regions, or none.
        image_size: int. Height and width of the images, in pixels.
        batch_size: int. Images in a batch, over all replicas.
        epochs: int. Epoch to stop before.
        seed: int. Of the order and of the augmentation.
        first_epoch: int. Epoch to begin with, not 0 where a run is resumed.
        crop_area: float in `(0, 1]`. Least share of an image that a random
            crop keeps; 1 keeps the whole image, in its own shape.
        shift: float in `[0, 1)`. Most that an image moves in each direction,
            as a share of its size.
        rand_augment: int. Operations of `augment.RandAugment` on an image.
        flip: bool. Whether half of the images are mirrored.
        resize: int. Height and width, in pixels, to which images are brought
            before a random crop of `image_size` pixels; 0 for no such crop.
            The window is cut from the file, on whole pixels of it, and then
            resized: once, and nothing beside it is decoded.
        region_targets: bool. Whether to say which regions lie on an object.
        mixup: float, at least 0. Of `augment.draw_mix`, as `cutmix`; then each
            image of a batch is mixed with the one before it, the first with
            the last, of several workers within each one's share. With `mixup`
            and `cutmix` 0 none is.
        cutmix: float, at least 0.
        unknown: str. What targets of -1 are to `augment.mix`.
        share: `(index, count)`: which of how many workers this is. Of each
            batch it gets the `batch_size // count` examples from
            `index * batch_size // count` on.

    Returns:
        `tf.data.Dataset` of images, float32 `(batch_size, image_size,
        image_size, 3)`, RGB, 0 to 255, and targets, float32 `(batch_size,
        num_classes)`: 1 present, 0 absent, -1 unknown; of mixed images also
        what lies between 0 and 1. Of several workers a batch has its share of
        `batch_size`.

        Where the examples have regions, a dict in place of the images:
        `"image"`, and `"regions"`, float32 `(batch_size, num_regions, 4)`:
        ymin xmin ymax xmax, 0 to 1 of the image that the batch holds, in the
        examples' order. There are as many rows as the example with most
        regions has; a row of zeros is padding, or a region of which crop and
        shift left `augment.LEAST_SEEN` of its area or less.

        With `region_targets`, a dict in place of the targets: `"targets"`,
        and `"region_targets"`, float32 `(batch_size, num_regions)`: 1 where
        the IoU of the whole region with a true box, difficult or not, is
        above `IOU`, else 0; -1 for a row of zeros. Where no example at all
        has boxes, nothing is known and all are -1; where others have, one
        without is an image that is known to hold no object.

    Raises:
        ValueError: If there are fewer examples than a batch has; if some
            examples have regions and some have not; if the workers cannot
            share a batch evenly; if `resize` is less than
            `image_size` or comes with a `crop_area` below 1; if there are
            regions and `rand_augment`, `mixup` or `cutmix`, or no regions but
            `region_targets`; if a batch of one image is to be mixed.
    """
    order = _order(examples, batch_size, epochs, seed, first_epoch, share)
    columns = _columns(examples)
    has_regions = "regions" in columns
    if has_regions and rand_augment:
        raise ValueError(
            "`rand_augment` must be 0 where the examples have regions: some "
            "of its operations move pixels away from them. "
            f"Received: rand_augment={rand_augment}"
        )
    mixed = mixup > 0 or cutmix > 0
    if mixed and (has_regions or batch_size // share[1] < 2):
        raise ValueError(
            "`mixup` and `cutmix` must be 0 where the examples have regions, "
            "which are of one image, and in batches of one. Received: "
            f"mixup={mixup}, cutmix={cutmix}, batch_size={batch_size}, "
            f"share={share}"
        )
    if region_targets:
        if not has_regions:
            raise ValueError(
                "`region_targets` needs examples with regions. "
                f"Received: region_targets={region_targets}"
            )
        # Of the same lengths as the lists of regions.
        columns["region_targets"] = columns["regions"].with_values(
            _region_targets(examples)
        )
    if resize and resize < image_size:
        raise ValueError(
            "`resize` must be 0 or at least `image_size`. "
            f"Received: resize={resize}, image_size={image_size}"
        )
    if resize and crop_area < 1:
        raise ValueError(
            "`resize` is another crop than that of `crop_area`, which must "
            f"be 1 with it. Received: resize={resize}, crop_area={crop_area}"
        )
    read = _reader(columns)
    whole = _all_whole(examples)
    augmented = crop_area < 1 or resize or shift or rand_augment or flip
    if rand_augment:
        change = augment.RandAugment(rand_augment)

    def draw(shape, seed):
        if resize:
            return augment.random_window(image_size / resize, seed)
        if crop_area < 1:
            return augment.random_crop(shape, seed, crop_area)
        return tf.constant((0.0, 0.0, 1.0, 1.0))

    @_without_autograph
    def load(epoch, index):
        row = read(index)
        # A picture has five seeds: of its crop, shift, flip and operations,
        # and of what it keeps of itself in a mix.
        seed_of_image = tf.random.fold_in(tf.stack([seed, epoch]), index)
        seeds = tf.random.split(seed_of_image, 4)
        seed_of_mix = tf.random.fold_in(seed_of_image, 4)
        image_bytes = encoded.read(row["path"], row.get("span"))
        views = []
        if augmented:
            image, view = _draw_part(
                image_bytes, row["crop"], draw, seeds[0], image_size
            )
            views.append(view)
        else:
            crop = None if whole else row["crop"]
            image = preprocess.load(image_bytes, image_size, crop)
        if shift:
            pixels = round(shift * image_size)
            image, view = augment.random_shift(image, seeds[1], pixels)
            views.append(view)
        if rand_augment:
            image = change(image, seeds[3])
        if flip:
            image, view = augment.random_flip(image, seeds[2])
            views.append(view)
        inputs, targets = image, row["targets"]
        if has_regions:
            regions = augment.regions_in_views(row["regions"], views)
            inputs = {"image": image, "regions": regions}
        if region_targets:
            is_region = tf.reduce_any(regions > 0, axis=1)
            known = tf.where(is_region, row["region_targets"], -1)
            targets = {"targets": targets, "region_targets": known}
        if mixed:
            kept = augment.draw_mix(image_size, seed_of_mix, mixup, cutmix)
            return inputs, targets, kept
        return inputs, targets

    def mix(images, targets, kept):
        return augment.mix(images, targets, kept, unknown)

    dataset = order.map(load, num_parallel_calls=cores.count())
    dataset = dataset.batch(batch_size // share[1], drop_remainder=True)
    if mixed:
        dataset = dataset.map(mix, num_parallel_calls=2)
    return _with_options(dataset.prefetch(2))


def cached_batches(features, targets, batch_size, epochs, seed, first_epoch=0):
    """Makes the batches of `training_batches`, with features for images.

    The same seed gives the same examples in the same order and batches.

    Args:
        features: list of arrays of shape `(num_examples, ...)`, such as the
            `np.memmap`s of `zoo.feature_cache`: rows are read when needed.
        targets: float32 array of shape `(num_examples, num_classes)`.
        batch_size: int. Images in a batch, over all replicas.
        epochs: int. Epoch to stop before.
        seed: int. Of the order.
        first_epoch: int. Epoch to begin with, not 0 where a run is resumed.

    Returns:
        `tf.data.Dataset` of a tuple of features, each `(batch_size, ...)`,
        and targets, float32 `(batch_size, num_classes)`.

    Raises:
        ValueError: If there are fewer examples than a batch has.
    """
    order = _order(targets, batch_size, epochs, seed, first_epoch, (0, 1))
    indices = order.map(lambda _, index: index)
    indices = indices.batch(batch_size, drop_remainder=True)
    return _rows(features, targets, indices)


def cached_evaluation_batches(features, targets, batch_size):
    """Makes the batches of `evaluation_batches`, with features for images.

    Args:
        features: as `cached_batches`.
        targets: as `cached_batches`.
        batch_size: int. Images in a batch; the last batch may have fewer.

    Returns:
        `tf.data.Dataset` of a tuple of features and targets.
    """
    indices = tf.data.Dataset.range(len(targets)).batch(batch_size)
    return _rows(features, targets, indices)


def evaluation_batches(examples, image_size, batch_size):
    """Makes one pass over the examples, in their order, unchanged.

    Args:
        examples: list of `Example`.
        image_size: int. Height and width of the images, in pixels.
        batch_size: int. Images in a batch; the last batch may have fewer.

    Returns:
        `tf.data.Dataset` of images, or of dicts of images and regions, and
        targets, as `training_batches`.

    Raises:
        ValueError: If some examples have regions and some have not.
    """
    load = _without_autograph(_loader(examples, image_size))
    dataset = tf.data.Dataset.range(len(examples))
    dataset = dataset.map(load, num_parallel_calls=cores.count())
    return _with_options(dataset.batch(batch_size).prefetch(2))


def evaluation_batch(examples, image_size):
    """Reads a few examples as one batch of `evaluation_batches`, at once.

    To make a pipeline takes as long as to read some hundred images one by one.

    Args:
        examples: list of `Example`.
        image_size: int. Height and width of the images, in pixels.

    Returns:
        Images, or a dict of images and regions, and targets, as NumPy arrays.

    Raises:
        ValueError: If some examples have regions and some have not.
        tf.errors.OpError: If an image cannot be read.
    """
    load = _loader(examples, image_size)
    with tf.device("cpu"):
        rows = [load(index) for index in range(len(examples))]
    return tf.nest.map_structure(lambda *parts: np.stack(parts), *rows)


def _loader(examples, image_size):
    """Gives a function from an index to an example, for evaluation."""
    read = _reader(_columns(examples))
    whole = _all_whole(examples)

    def load(index):
        row = read(index)
        image_bytes = encoded.read(row["path"], row.get("span"))
        crop = None if whole else row["crop"]
        image = preprocess.load(image_bytes, image_size, crop)
        if "regions" in row:
            image = {"image": image, "regions": row["regions"]}
        return image, row["targets"]

    return load


def steps_per_epoch(examples, batch_size):
    """Counts the whole batches in an epoch.

    Raises:
        ValueError: If there is none.
    """
    if len(examples) < batch_size:
        raise ValueError(
            "Training needs at least one whole batch of readable images. "
            f"Received: {len(examples)} examples, batch_size={batch_size}"
        )
    return len(examples) // batch_size


def unreadable(examples):
    """Finds the images that cannot be decoded, before a long job meets them.

    Every file is decoded once, a JPEG at an eighth of its size, which reads
    all of its data but costs a fraction of the time. With `MANY` files or
    more, progress is printed. What lies in shards was decoded when they were
    written.

    Args:
        examples: list of `Example`.

    Returns:
        dict from the index of an example to the reason, a str that names the
        file. Empty if all is well.
    """
    # An image may have several examples.
    names = list(
        dict.fromkeys(e.image_path for e in examples if e.span is None)
    )
    paths = tf.constant(names, "string")

    @_without_autograph
    def check(index):
        image = preprocess.decode(tf.io.read_file(paths[index]), ratio=8)
        return index, tf.shape(image)  # unused, the image would be pruned

    dataset = tf.data.Dataset.range(len(names))
    dataset = dataset.map(check, num_parallel_calls=cores.count())
    # One by one Python would take them more slowly than they are decoded.
    dataset = _with_options(dataset.ignore_errors().batch(128))
    progress = Progress("Checked", len(names), "images", least=MANY)
    readable = set()
    for indices, _ in dataset.as_numpy_iterator():
        readable.update(indices.tolist())
        progress.add(len(indices))
    progress.add(len(names) - progress.done)  # those that cannot be read
    reasons = {
        name: f"{name}: {_reason(name)}"
        for index, name in enumerate(names)
        if index not in readable
    }
    return {
        index: reasons[example.image_path]
        for index, example in enumerate(examples)
        if example.image_path in reasons
    }


@contextlib.contextmanager
def named_if_unreadable(examples):
    """Says what to do where a file cannot be read that could be at the start.

    Args:
        examples: list of `Example`, of which one is read.

    Raises:
        OSError: In place of TensorFlow's error, which names no shard, and an
            image only where its file is gone.
    """
    try:
        yield
    except tf.errors.OpError as error:
        # Keras and TensorFlow put it among where they were.
        found = _UNREADABLE.search(str(error))
        if not found:
            raise
        paths = "".join(f"{path}: " for path in _damaged(examples, found[0]))
        raise OSError(
            "A file of the data set is gone or damaged, which was not so at "
            "the start. The same command, of a training with --resume, names "
            "all such files; with them as they were, it goes on. "
            f"Received: {paths}{type(error).__name__}: {found[0].strip()}"
        ) from error


def _damaged(examples, text):
    """Lists the shards that have no whole record where an error has found so.

    The error knows the place, of the record or of what it holds, not the file.
    """
    place = re.search(r"record at (\d+)", text)
    starts = place and (int(place[1]), int(place[1]) + encoded.RECORD_HEAD)
    paths = {}
    for example in examples if place else ():
        if example.span and example.span[0] in starts:
            try:
                encoded.read_bytes(*example.location)
            except (OSError, ValueError):
                paths[example.image_path] = None
    return list(paths)


def _reason(path):
    try:
        return encoded.fault(encoded.read_bytes(path))
    except OSError:
        return encoded.absence(path)


def _rows(features, targets, indices):
    """Reads rows of arrays, a batch of indices at a time."""
    columns = (*features, targets)

    def read(indices):
        rows = tf.numpy_function(
            lambda indices: [column[indices] for column in columns],
            [indices],
            [column.dtype for column in columns],
        )
        for row, column in zip(rows, columns, strict=True):
            row.set_shape((indices.shape[0], *column.shape[1:]))
        return tuple(rows[:-1]), rows[-1]

    dataset = indices.map(read, num_parallel_calls=cores.count()).prefetch(2)
    return _with_options(dataset)


def _order(examples, batch_size, epochs, seed, first_epoch, share):
    """Gives epoch and index of the examples, in whole batches an epoch.

    Of each batch those of one worker only.
    """
    worker, num_workers = share
    if batch_size % num_workers:
        raise ValueError(
            f"`batch_size` must be a multiple of the {num_workers} workers. "
            f"Received: batch_size={batch_size}"
        )
    num_batches = steps_per_epoch(examples, batch_size)

    def indices(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(examples), dtype="int64"), tf.stack([seed, epoch])
        )[: num_batches * batch_size]
        shares = tf.reshape(order, (num_batches, num_workers, -1))
        own = tf.reshape(shares[:, worker], (-1,))
        return tf.data.Dataset.from_tensor_slices(own).map(
            lambda index: (epoch, index)
        )

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(indices)


def _draw_part(image_bytes, crop, draw, seed, image_size):
    """Draws a part of the part of the file's image that is the example's.

    Gives its pixels, resized, and which part it is, 0 to 1 of the example's;
    that lies on pixels of the file, so that regions can follow exactly.
    """
    opened = preprocess.open_image(image_bytes)
    shape = tf.cast(opened.shape, "float32")
    start, end = _whole_pixels(crop[:2] * shape, crop[2:] * shape, shape)
    sides = end - start
    drawn = draw(sides, seed)
    window = _whole_pixels(
        start + drawn[:2] * sides, start + drawn[2:] * sides, end
    )
    halvings = _halvings(window[1] - window[0], image_size)
    image, window = preprocess.decode_window(
        opened, *(tf.cast(corner, "int32") for corner in window), halvings
    )
    view = [(tf.cast(corner, "float32") - start) / sides for corner in window]
    image = preprocess.resize(image, image_size, TRAINING_ANTIALIAS)
    return image, tf.concat(view, axis=0)


def _halvings(sides, image_size):
    """Counts how often both sides can be halved and still shrink by enough."""
    enough = TRAINING_ANTIALIAS * image_size
    can_halve = tf.reduce_min(sides) >= (2 * enough, 4 * enough, 8 * enough)
    return tf.reduce_sum(tf.cast(can_halve, "int32"))


def _whole_pixels(start, end, limit):
    """Rounds a window to at least one whole pixel before the limit."""
    start = tf.minimum(tf.round(start), limit - 1)
    return start, tf.maximum(tf.round(end), start + 1)


def _all_whole(examples):
    # A whole image needs no window; most data sets have no other.
    return all(example.crop is None for example in examples)


def _columns(examples):
    """Gives what is read of the examples as tensors, one row an example."""
    whole = (0.0, 0.0, 1.0, 1.0)
    columns = {
        "path": tf.constant([example.image_path for example in examples]),
        "crop": tf.constant([example.crop or whole for example in examples]),
        "targets": tf.constant(
            np.stack([example.targets for example in examples])
        ),
    }
    if any(example.span for example in examples):
        columns["span"] = tf.constant(
            [example.span or encoded.NO_SPAN for example in examples], "int64"
        )
    without = [e.image_id for e in examples if e.regions is None]
    if not without:
        # Not padded here: the longest list may be many times the others.
        columns["regions"] = tf.RaggedTensor.from_row_lengths(
            np.concatenate([e.regions for e in examples], dtype="float32"),
            [len(example.regions) for example in examples],
        )
    elif len(without) < len(examples):
        raise ValueError(
            "All examples must have regions, or none. Received: "
            f"regions=None in {without[0]!r} and {len(without) - 1} others "
            f"of {len(examples)} examples"
        )
    return columns


def _reader(columns):
    """Gives a function from an index to what the columns hold there.

    A list is as long as the longest of its column, at least 1, by zeros.
    """
    num_rows = {
        name: max(1, int(column.bounding_shape(axis=1)))
        for name, column in columns.items()
        if isinstance(column, tf.RaggedTensor)
    }

    def read(index):
        row = {name: column[index] for name, column in columns.items()}
        for name, length in num_rows.items():
            own = row[name]
            padding = tf.zeros((length - tf.shape(own)[0], *own.shape[1:]))
            row[name] = tf.ensure_shape(
                tf.concat([own, padding], axis=0), (length, *own.shape[1:])
            )
        return row

    return read


def _region_targets(examples):
    """Tells which regions of all examples lie on an object, end to end.

    Gives 1 or 0, or -1 for all where the data set has no boxes.
    """
    if not any(len(example.boxes) for example in examples):
        num_regions = sum(len(example.regions) for example in examples)
        return tf.fill((num_regions,), -1.0)
    on_object = [
        boxes.iou(example.regions, example.boxes).max(axis=1, initial=0) > IOU
        for example in examples
    ]
    return tf.constant(np.concatenate(on_object, dtype="float32"))


def _with_options(dataset):
    # With autotune on, deleting an iterator can block for seconds, which
    # evaluation would pay after every epoch.
    options = tf.data.Options()
    options.autotune.enabled = False
    # An image is copied into its batch by the thread that made it: 3 to 11 % of
    # the time that one of 448 pixels takes in training.
    options.experimental_optimization.map_and_batch_fusion = True
    return dataset.with_options(options)
