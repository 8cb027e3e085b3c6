"""Image bytes -> pixels: the one definition for training and serving.

Pillow is the reference: pixels are those of

    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    image.resize((image_size, image_size), Image.BILINEAR)

or there is an error that says why not, but for two things. The orientation is
read from EXIF, as its standard writes it: one 16-bit number. Pillow also takes
a 32-bit one, XMP, and the profiles that ImageMagick writes as text into a PNG.
And training, where it augments, takes cheaper pixels: of an image that shrinks
by less than `zoo.data.pipeline.TRAINING_ANTIALIAS` see `resize`, of a large
JPEG and of the edges of a crop see `decode_window`.

Sizes and crops speak of the upright image, as it is seen, not as it is stored.
All is made of TensorFlow's ops, since it becomes a part of the SavedModel.
What is traced once is copied (`_inspected`), not called as a `tf.function`: of
several workers TensorFlow places a function within a pipeline on all of their
devices, and fails.
"""

import functools
import threading
from typing import NamedTuple

import tensorflow as tf

MARGIN = 16  # pixels, the largest block of a JPEG
TAKEN = "JPEG, PNG and WebP are taken"

_OTHER_FORMATS = {  # first bytes, `\C` is any byte -> name
    r"": "empty",
    r"GIF8\C*": "a GIF",
    r"BM\C*": "a BMP",
    r"(II\*\x00|MM\x00\*)\C*": "a TIFF",
    r"\C{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)\C*": "a HEIC",
    r"\C{4}ftypavi[fs]\C*": "an AVIF",
    r"\s*<\C*": "HTML or XML",  # what a failed download leaves
}
_MAX_SEGMENTS = 1000  # of a JPEG's header, to be safe from a hostile one

_tracing = threading.Lock()


class Opened(NamedTuple):
    """An image of which the size is known; a JPEG is not decoded yet.

    To find out takes a while, so that it is done once, by `open_image`.

    Args:
        image_bytes: string scalar, the encoded image, without a `fault`.
        is_jpeg: bool scalar.
        pixels: uint8 tensor of shape `(height, width, 3)`, the image as it is
            stored; of a JPEG an empty one.
        orientation: int32 scalar, 1 to 8, as in EXIF.
        shape: int32 tensor of shape `(2,)`: height and width, in pixels.
    """

    image_bytes: tf.Tensor
    is_jpeg: tf.Tensor
    pixels: tf.Tensor
    orientation: tf.Tensor
    shape: tf.Tensor


def decode(image_bytes, ratio=1):
    """Decodes a JPEG, PNG or WebP image and turns it upright.

    The slow but accurate inverse DCT gives the pixels that Pillow gives. Of
    an animation the first picture is taken, and transparency is dropped.

    Args:
        image_bytes: string scalar, the encoded image.
        ratio: int. 1, or 2, 4 or 8 for a JPEG at that fraction of its size.

    Returns:
        uint8 tensor of shape `(height, width, 3)`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not a whole image or
            have a `fault`.
    """
    image_bytes, orientation = _inspected(image_bytes)
    return _upright(_pixels(image_bytes, ratio), orientation)


def open_image(image_bytes):
    """Finds out what decoding a part of an image takes.

    Args:
        image_bytes: string scalar, the encoded image.

    Returns:
        `Opened`.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not an image or have
            a `fault`.
    """

    def of_others():
        pixels = _pixels(image_bytes)
        return pixels, tf.shape(pixels)[:2]

    image_bytes, orientation = _inspected(image_bytes)
    is_jpeg = tf.io.is_jpeg(image_bytes)
    pixels, stored_shape = tf.cond(
        is_jpeg,
        lambda: (
            tf.zeros((0, 0, 3), "uint8"),
            tf.io.extract_jpeg_shape(image_bytes)[:2],
        ),
        of_others,
    )
    shape = _swap_sides(stored_shape, orientation)
    return Opened(image_bytes, is_jpeg, pixels, orientation, shape)


def image_shape(image_bytes):
    """Gives the height and width of an image, int32 `(2,)`; see `Opened`."""
    return open_image(image_bytes).shape


def decode_crop(image_bytes, crop):
    """Decodes a part of an image; the rest of a JPEG is skipped.

    Args:
        image_bytes: string scalar, the encoded image.
        crop: float tensor `(4,)`: ymin xmin ymax xmax, 0 to 1 of the image,
            rounded to whole pixels and at least one of them.

    Returns:
        uint8 tensor of shape `(height, width, 3)`, RGB.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not an image or have
            a `fault`.
    """
    opened = open_image(image_bytes)
    crop = tf.convert_to_tensor(crop, "float32")
    shape = opened.shape
    size = tf.cast(shape, "float32")
    start = tf.minimum(tf.cast(tf.round(crop[:2] * size), "int32"), shape - 1)
    end = tf.cast(tf.round(crop[2:] * size), "int32")
    end = tf.maximum(end, start + 1)
    # A decoder smooths colours over neighbours: to give the edge of the crop
    # the pixels that it has in the whole image, read a margin and cut it off.
    outer_start = tf.maximum(start - MARGIN, 0)
    outer_end = tf.minimum(end + MARGIN, shape)
    image, _ = decode_window(opened, outer_start, outer_end)
    top, left = tf.unstack(start - outer_start)
    bottom, right = tf.unstack(end - outer_start)
    return image[top:bottom, left:right]


def decode_window(opened, start, end, halvings=0):
    """Decodes whole pixels of an image, of a large JPEG at a part of its size.

    The colours at the edges differ a little from those in the whole image,
    unlike `decode_crop`'s, which decodes more and cuts that off.

    Args:
        opened: `Opened`.
        start: int32 tensor of shape `(2,)`: ymin and xmin, in pixels.
        end: int32 tensor of shape `(2,)`: ymax and xmax, in pixels.
        halvings: int32 scalar, 0 to 3. How many times a JPEG is halved, which
            must leave a pixel; other images are not halved.

    Returns:
        uint8 tensor of shape `(height, width, 3)`, RGB, and the window that
        it shows, start and end as above: inside the one that was asked for,
        by less than a pixel of the result at each edge.
    """
    image_bytes, is_jpeg, stored, orientation, shape = opened
    ratio = tf.where(is_jpeg, 2**halvings, 1)
    # As the image is stored. Only whole pixels of the halved one: the last may
    # lie beyond the image in part.
    start, end = _mirror(start, end, shape, orientation)
    first = -(-_swap_sides(start, orientation) // ratio)
    last = _swap_sides(end, orientation) // ratio
    window = tf.concat([first, last - first], axis=0)

    def jpeg(ratio):
        return tf.io.decode_and_crop_jpeg(
            *(image_bytes, window, 3, ratio), dct_method="INTEGER_ACCURATE"
        )

    ways = [functools.partial(jpeg, ratio) for ratio in (1, 2, 4, 8)]
    ways.append(
        lambda: tf.image.crop_to_bounding_box(stored, *tf.unstack(window))
    )
    image = tf.switch_case(tf.where(is_jpeg, halvings, len(ways) - 1), ways)
    start = _swap_sides(first * ratio, orientation)
    end = _swap_sides(last * ratio, orientation)
    start, end = _mirror(start, end, shape, orientation)
    return _upright(image, orientation), (start, end)


def resize(image, image_size, antialias_above=1.0):
    """Resizes to a square, whatever the shape, as Pillow's bilinear filter.

    Args:
        image: uint8 or float tensor of shape `(height, width, 3)`.
        image_size: int. Height and width of the result, in pixels.
        antialias_above: float, at least 1. Where a side shrinks by a larger
            factor, all pixels are averaged, as Pillow does, else only the
            nearest four, in a third of the time; up to 1 that is the same.

    Returns:
        float32 tensor of shape `(image_size, image_size, 3)`, in the range of
        the input, not rounded.
    """
    longest = tf.reduce_max(tf.shape(image)[:2])
    image = tf.cond(
        tf.cast(longest, "float32") > antialias_above * image_size,
        lambda: _antialiased(image, image_size),
        # Integers take longer.
        lambda: tf.image.resize(tf.cast(image, "float32"), (image_size,) * 2),
    )
    return tf.ensure_shape(image, (image_size, image_size, 3))


def load(image_bytes, image_size, crop=None):
    """Turns encoded bytes into what every model takes.

    Args:
        image_bytes: string scalar, an encoded JPEG, PNG or WebP image.
        image_size: int. Height and width of the result, in pixels.
        crop: `None`, or a float tensor `(4,)`: ymin xmin ymax xmax, 0 to 1 of
            the image.

    Returns:
        float32 tensor of shape `(image_size, image_size, 3)`, RGB, 0 to 255.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not an image or have
            a `fault`.

    Example:

    >>> png = tf.io.encode_png(tf.zeros((20, 30, 3), "uint8"))
    >>> tuple(load(png, image_size=8).shape)
    (8, 8, 3)
    """
    if crop is None:
        image = decode(image_bytes)
    else:
        image = decode_crop(image_bytes, crop)
    return resize(image, image_size)


def fault(image_bytes):
    """Says why an image is refused, from its first bytes.

    Args:
        image_bytes: string scalar, the encoded image.

    Returns:
        string scalar, "" for an image that `decode` takes if it is whole.

    Raises:
        tf.errors.InvalidArgumentError: If the header of a JPEG is broken.

    Example:

    >>> fault(b"GIF89a").numpy().decode()
    'a GIF; JPEG, PNG and WebP are taken'
    """

    def of_jpeg():
        return tf.cond(
            tf.io.extract_jpeg_shape(image_bytes)[2] == 4,
            of_cmyk,
            lambda: tf.constant(""),
        )

    def of_cmyk():
        # TensorFlow and Pillow then differ in whether 0 is all ink or none.
        has_marker = _jpeg_segment(image_bytes, 0xEE, b"Adobe") != b""
        reason = "a CMYK JPEG without Adobe's marker, its colours are unclear"
        return tf.where(has_marker, "", reason)

    def of_png():
        # Pillow makes all above 1/256 of its range white.
        is_deep_grey = tf.reduce_all(_bytes(image_bytes, 24, 2) == (16, 0))
        reason = "a 16-bit greyscale PNG; 8 bits are taken"
        return tf.where(is_deep_grey, reason, "")

    def of_others():
        head = tf.strings.substr(image_bytes, 0, 64)
        name = tf.constant("of an unknown format")
        for pattern, text in _OTHER_FORMATS.items():
            name = tf.where(
                tf.strings.regex_full_match(head, pattern), text, name
            )
        return tf.strings.join([name, "; ", TAKEN])

    return tf.case(
        [
            (tf.io.is_jpeg(image_bytes), of_jpeg),
            (_is_png(image_bytes), of_png),
            (_is_webp(image_bytes), lambda: tf.constant("")),
        ],
        default=of_others,
    )


def _antialiased(image, image_size):
    """Gives what `tf.image.resize` gives, to the bit, in less time.

    Its operation resizes rows, then columns. Rows it adds as whole vectors,
    columns pixel by pixel: so let it see the columns as rows, too. A matrix is
    transposed faster than pixels of three numbers are.
    """

    def resize_rows(image, height):
        image = tf.reshape(image, (1, height, 1, -1))
        rows = tf.raw_ops.ScaleAndTranslate(
            images=image,
            size=(image_size, 1),
            scale=(image_size / tf.cast(height, "float32"), 1.0),
            translation=(0.0, 0.0),
            kernel_type="triangle",
        )
        return rows[0, :, 0]

    height, width = tf.unstack(tf.shape(image)[:2])
    rows = resize_rows(image, height)  # y, by x and colour
    columns = resize_rows(tf.transpose(rows), width)  # x, by colour and y
    columns = tf.reshape(columns, (-1, image_size))
    return tf.reshape(tf.transpose(columns), (image_size, image_size, 3))


def _inspected(image_bytes):
    """Gives the bytes, which have no `fault`, and the image's orientation.

    These are most of the operations that read an image, which a run does in
    half a dozen pipelines. They are made once and copied from then on, which
    takes a fifth of the time.
    """
    if tf.executing_eagerly():
        return _inspect(image_bytes)
    with _tracing:  # else a second thread might make another one
        graph_def, function = _inspecting_function()
    (argument,) = function.inputs
    # An import takes in no tensor of an outer graph, as other operations do.
    image_bytes = tf.identity(image_bytes)
    return tf.graph_util.import_graph_def(
        graph_def,
        {argument.name: image_bytes},
        [result.name for result in function.outputs],
        name="inspect",
    )


@functools.cache
def _inspecting_function():
    """Gives `_inspect` as a graph, and a function that outlives its copies."""
    function = tf.function(_inspect, autograph=False).get_concrete_function(
        tf.TensorSpec((), "string")
    )
    return function.graph.as_graph_def(), function


def _inspect(image_bytes):
    reason = fault(image_bytes)
    with tf.control_dependencies([tf.debugging.Assert(reason == "", [reason])]):
        image_bytes = tf.identity(image_bytes)
    return image_bytes, _orientation(image_bytes)


def _is_png(image_bytes):
    return tf.strings.substr(image_bytes, 0, 8) == b"\x89PNG\r\n\x1a\n"


def _is_webp(image_bytes):
    head = tf.strings.substr(image_bytes, 0, 12)
    return tf.strings.regex_full_match(head, r"RIFF\C{4}WEBP")


def _pixels(image_bytes, ratio=1):
    """Decodes an image as it is stored."""
    image = tf.cond(
        _is_webp(image_bytes),
        lambda: tf.io.decode_image(image_bytes, expand_animations=False),
        # This op reads PNG too, and it alone lets us choose the inverse DCT.
        lambda: tf.io.decode_jpeg(
            image_bytes,
            channels=3,
            ratio=ratio,
            dct_method="INTEGER_ACCURATE",
        ),
    )
    return tf.ensure_shape(image[..., :3], (None, None, 3))


# The eight orientations: those above 4 swap rows and columns, then two bits
# say which sides of what that gives are mirrored.
def _swap_sides(pair, orientation):
    return tf.where(orientation > 4, pair[::-1], pair)


def _mirrored(orientation):
    """Tells whether the image is upside down, and left side right."""
    upside_down_left_right = ((0, 0), (0, 1), (1, 1), (1, 0))
    return tf.gather(upside_down_left_right, (orientation - 1) % 4) == 1


def _mirror(start, end, shape, orientation):
    """Gives the window that shows the same where the image is mirrored."""
    mirrored = _mirrored(orientation)
    return (
        tf.where(mirrored, shape - end, start),
        tf.where(mirrored, shape - start, end),
    )


def _upright(image, orientation):
    def turn():
        swapped = tf.cond(
            orientation > 4,
            lambda: tf.transpose(image, (1, 0, 2)),
            lambda: image,
        )
        return tf.reverse(swapped, tf.where(_mirrored(orientation))[:, 0])

    return tf.cond(orientation > 1, turn, lambda: image)


def _orientation(image_bytes):
    """Reads how an image is to be turned: 1 to 8, 1 where nothing says it."""

    def read():
        return _tiff_orientation(
            tf.cond(
                is_jpeg,
                lambda: _jpeg_segment(image_bytes, 0xE1, b"Exif\0\0"),
                lambda: _exif_chunk(image_bytes),
            )
        )

    # Most JPEGs have no EXIF; to look for its name takes microseconds.
    is_jpeg = tf.io.is_jpeg(image_bytes)
    without = tf.strings.regex_replace(
        image_bytes, r"Exif\x00\x00", "", replace_global=False
    )
    is_plain = is_jpeg & (
        tf.strings.length(without) == tf.strings.length(image_bytes)
    )
    return tf.cond(is_plain, lambda: 1, read)


def _jpeg_segment(image_bytes, marker, name):
    """Gives what follows the name of a segment of a JPEG's header, or ""."""
    start = (0xFF, marker, *name)
    size = tf.strings.length(image_bytes)

    def read(position):
        return position, _bytes(image_bytes, position, 4 + len(name))

    def is_found(head):
        return tf.reduce_all(tf.concat([head[:2], head[4:]], 0) == start)

    def is_before(position, head):
        is_image_data = tf.reduce_all(head[:2] == (0xFF, 0xDA))
        return (position < size) & ~is_image_data & ~is_found(head)

    def go_on(position, head):
        # Zeros and repeated 0xFF are padding, other bytes are skipped too.
        is_segment = (head[0] == 0xFF) & (head[1] != 0xFF) & (head[1] != 0)
        length = 2 + 256 * head[2] + head[3]
        return read(position + tf.where(is_segment, length, 1))

    position, head = tf.while_loop(
        is_before, go_on, read(2), maximum_iterations=_MAX_SEGMENTS
    )
    length = 256 * head[2] + head[3] - 2 - len(name)
    content = _substr(image_bytes, position + 4 + len(name), length)
    return tf.where(is_found(head), content, "")


def _exif_chunk(image_bytes):
    """Gives the EXIF of a PNG or WebP image, which may come last, or ""."""
    name = tf.where(_is_png(image_bytes), b"eXIf", b"EXIF")
    chunks = tf.raw_ops.StringSplitV2(input=image_bytes[None], sep=name)
    # WebP has the length before it. The name may occur by chance in pixels,
    # but not with the first bytes of EXIF behind it.
    prefix, start = r"^(\C{4})?(Exif\x00\x00)?", r"(II\*\x00|MM\x00\*)"
    found = tf.boolean_mask(
        chunks.values,
        tf.strings.regex_full_match(chunks.values, f"{prefix}{start}\\C*"),
    )
    first = tf.concat([found, [""]], axis=0)[0]
    return tf.strings.regex_replace(first, prefix + start, r"\3")


def _tiff_orientation(tiff):
    """Reads the orientation from EXIF, which has the format of a TIFF."""
    is_big_endian = tf.strings.substr(tiff, 0, 4) == b"MM\0*"
    is_little_endian = tf.strings.substr(tiff, 0, 4) == b"II*\0"

    def number(position, size):
        digits = _bytes(tiff, position, size)
        digits = tf.where(is_big_endian, digits[::-1], digits)
        return tf.reduce_sum(digits * 256 ** tf.range(size))

    directory = number(4, 4)
    entries = tf.io.decode_raw(
        _substr(tiff, directory + 2, 12 * number(directory, 2)), "uint8"
    )
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], (-1, 12))
    # As little-endian: tag 0x112, type 3, one number, and the number itself.
    swapped = (1, 0, 3, 2, 7, 6, 5, 4, 9, 8)
    order = tf.where(is_big_endian, swapped, sorted(swapped))
    entries = tf.cast(tf.gather(entries, order, axis=1), "int32")
    is_orientation = tf.reduce_all(
        entries[:, :8] == (0x12, 0x01, 3, 0, 1, 0, 0, 0), axis=1
    )
    value = tf.boolean_mask(entries[:, 8] + 256 * entries[:, 9], is_orientation)
    value = tf.concat([value, [1]], axis=0)[0]
    is_valid = (is_big_endian | is_little_endian) & (value > 1) & (value < 9)
    return tf.where(is_valid, value, 1)


def _substr(text, position, length):
    """Gives a part of a string; no error where it is beyond the end."""
    position = tf.clip_by_value(position, 0, tf.strings.length(text))
    return tf.strings.substr(text, position, length)


def _bytes(text, position, count):
    """Gives bytes as int32 of shape `(count,)`, zeros beyond the end."""
    part = _substr(text, position, count)
    return tf.cast(tf.io.decode_raw(part, "uint8", fixed_length=count), "int32")
