import itertools
import pathlib
import struct

import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image

from tests.encodings import (
    ENCODINGS,
    REFUSED,
    encoded,
    exif,
    jpeg,
    noise,
    picture,
    png,
    rotated,
    segment,
    upright,
)
from zoo import preprocess

MINI = pathlib.Path(__file__).parents[2] / "shared/data/voc_mini"


def by_pillow(image_bytes, size):
    resized = upright(image_bytes).resize((size, size), Image.BILINEAR)
    return np.asarray(resized, "float32")


BYTES = tf.TensorSpec((), "string")
decode = tf.function(preprocess.decode, input_signature=[BYTES])
decode_crop = tf.function(
    preprocess.decode_crop, input_signature=[BYTES, tf.TensorSpec((4,))]
)
image_shape = tf.function(preprocess.image_shape, input_signature=[BYTES])


class PreprocessTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.product(
        size=(32, 90, 200),
        options=(
            {"format": "JPEG", "quality": 90},
            {"format": "JPEG", "quality": 40, "subsampling": 2},
            {"format": "JPEG", "progressive": True},
            {"format": "PNG"},
        ),
    )
    def test_pixels_are_pillows(self, size, options):
        image_bytes = encoded(picture(), **options)
        image = preprocess.load(image_bytes, size)
        self.assertEqual(image.dtype, "float32")
        self.assertEqual(image.shape, (size, size, 3))
        difference = np.abs(image - by_pillow(image_bytes, size))
        self.assertLessEqual(difference.max(), 1.001)

    def test_every_encoding_has_pillows_pixels(self):
        for name, encode in ENCODINGS.items():
            with self.subTest(name):
                image_bytes = encode()
                expected = np.asarray(upright(image_bytes), int)
                shape = expected.shape[:2]
                self.assertAllEqual(image_shape(image_bytes), shape)
                # Multiplying by black rounds differently.
                atol = 1 if name in ("cmyk_jpeg", "ycck_jpeg") else 0
                for function in (decode, preprocess.decode):
                    image = function(image_bytes)
                    self.assertEqual(image.dtype, "uint8")
                    self.assertAllClose(image, expected, rtol=0, atol=atol)
                part = decode_crop(image_bytes, (0.25, 0.5, 0.9, 0.8))
                (top, left), (bottom, right) = np.round(
                    np.multiply(shape, ((0.25, 0.5), (0.9, 0.8)))
                ).astype(int)
                self.assertAllEqual(part, image[top:bottom, left:right])

    @parameterized.parameters(128, 448)
    def test_photos_are_pillows(self, size):
        if not MINI.exists():
            self.skipTest(f"needs {MINI.name}, which is not beside this")
        for path in sorted((MINI / "voc2007_demo").glob("*.jpg")):
            image_bytes = path.read_bytes()
            image = preprocess.load(image_bytes, size)
            difference = np.abs(image - by_pillow(image_bytes, size))
            self.assertLessEqual(difference.max(), 1.001, path.name)

    @parameterized.parameters("JPEG", "PNG")
    def test_a_crop_is_the_part_of_the_whole(self, format):
        image_bytes = encoded(picture(), format)
        whole = preprocess.decode(image_bytes)
        part = preprocess.decode_crop(image_bytes, (0.2, 0.25, 0.7, 0.5))
        self.assertAllEqual(part, whole[18:63, 30:60])
        full = preprocess.decode_crop(image_bytes, (0.0, 0.0, 1.0, 1.0))
        self.assertAllEqual(full, whole)
        least = preprocess.decode_crop(image_bytes, (1.0, 1.0, 1.0, 1.0))
        self.assertAllEqual(least, whole[-1:, -1:])

    @parameterized.parameters("JPEG", "PNG")
    def test_image_shape(self, format):
        image_bytes = encoded(picture(), format)
        self.assertAllEqual(preprocess.open_image(image_bytes).shape, (90, 120))

    def test_refuses(self):
        for name, (encode, reason) in REFUSED.items():
            for function in (decode, preprocess.decode):
                with (
                    self.subTest(name),
                    self.assertRaisesRegex(
                        tf.errors.InvalidArgumentError, reason
                    ),
                ):
                    function(tf.constant(encode()))

    def test_a_branch_decodes_what_is_outside_of_it(self):
        @tf.function(input_signature=[tf.TensorSpec((), "bool"), BYTES])
        def decode_if(wanted, image_bytes):
            return tf.cond(
                wanted,
                lambda: preprocess.decode(image_bytes),
                lambda: tf.zeros((0, 0, 3), "uint8"),
            )

        image_bytes = tf.constant(encoded(picture(), "JPEG"))
        self.assertAllEqual(
            decode_if(True, image_bytes), preprocess.decode(image_bytes)
        )
        self.assertEmpty(decode_if(False, image_bytes))

    def test_plain_resize_is_the_same_up_to_its_limit(self):
        image = np.asarray(picture(), "uint8")
        for size in (90, 120, 300):
            plain = preprocess.resize(image, size, antialias_above=1.5)
            exact = tf.image.resize(image, (size, size), antialias=True)
            same = np.allclose(plain, exact, atol=1e-3)
            self.assertEqual(same, size >= 120)
        plain = preprocess.resize(image, 79, antialias_above=1.5)
        exact = preprocess.resize(image, 79)
        self.assertAllEqual(plain, exact)

    @parameterized.parameters(
        (90, 120, 48), (90, 120, 119), (31, 200, 64), (200, 31, 64), (1, 7, 5)
    )
    def test_antialiasing_is_tensorflows(self, height, width, size):
        image = np.uint8(noise(height, width, 3))
        expected = tf.image.resize(image, (size, size), antialias=True)
        self.assertAllEqual(preprocess.resize(image, size), expected)
        image = image.astype("float32")
        self.assertAllEqual(preprocess.resize(image, size), expected)


class WindowTest(parameterized.TestCase, tf.test.TestCase):
    def decode(self, image_bytes, start, end, halvings):
        opened = preprocess.open_image(image_bytes)
        image, window = preprocess.decode_window(opened, start, end, halvings)
        return image.numpy().astype(int), np.array(window)

    @parameterized.product(
        orientation=tuple(range(1, 9)), halvings=tuple(range(4))
    )
    def test_halved_pixels_are_means_of_the_window(self, orientation, halvings):
        # No side is a multiple of 2.
        photo = picture(290, 370).crop((0, 0, 361, 283))
        block = segment(0xE1, b"Exif\0\0" + exif(orientation))
        image_bytes = jpeg(block, image=photo, quality=95, subsampling=0)
        whole = preprocess.decode(image_bytes).numpy().astype(int)
        ratio = 2**halvings
        asked = np.array([(29, 38), whole.shape[:2]])
        part, window = self.decode(image_bytes, *asked, halvings)
        inside = np.stack([window[0] - asked[0], asked[1] - window[1]])
        self.assertAllInRange(inside, 0, ratio - 1)
        sides = window[1] - window[0]
        self.assertAllEqual(sides, ratio * np.array(part.shape[:2]))
        (top, left), (bottom, right) = window
        rows, columns = part.shape[:2]
        means = whole[top:bottom, left:right].reshape(
            rows, ratio, columns, ratio, 3
        )
        difference = np.abs(part - means.mean(axis=(1, 3)))
        # With a window a single pixel of the file beside it, 6 and more.
        self.assertLess(difference.mean(), 1.0 if halvings else 0.1)

    def test_the_middle_is_that_of_the_whole(self):
        image_bytes = encoded(picture())
        whole = preprocess.decode(image_bytes)
        part, window = self.decode(image_bytes, (20, 30), (70, 101), 0)
        self.assertAllEqual(window, [(20, 30), (70, 101)])
        self.assertAllEqual(part[2:-2, 2:-2], whole[22:68, 32:99])

    @parameterized.parameters("png", "webp", "cmyk_jpeg")
    def test_other_encodings(self, name):
        image_bytes = ENCODINGS[name]()
        whole = preprocess.decode(image_bytes).numpy().astype(int)
        part, window = self.decode(image_bytes, (16, 32), (80, 112), 2)
        self.assertAllEqual(window, [(16, 32), (80, 112)])
        if name == "cmyk_jpeg":
            means = whole[16:80, 32:112].reshape(16, 4, 20, 4, 3)
            difference = np.abs(part - means.mean(axis=(1, 3)))
            self.assertLess(difference.mean(), 3)
        else:
            self.assertAllEqual(part, whole[16:80, 32:112])


class OrientationTest(tf.test.TestCase):
    def check(self, image_bytes):
        """Compares image, size and crops with Pillow, and gives the image."""
        expected = np.asarray(upright(image_bytes))
        image = decode(image_bytes)
        self.assertAllEqual(image, expected)
        self.assertAllEqual(image_shape(image_bytes), expected.shape[:2])
        height, width = expected.shape[:2]
        for crop in ((0.0, 0.1, 0.3, 0.5), (0.4, 0.55, 1.0, 0.95)):
            part = decode_crop(image_bytes, crop)
            ymin, xmin, ymax, xmax = np.float32(crop)
            rows = slice(round(ymin * height), round(ymax * height))
            columns = slice(round(xmin * width), round(xmax * width))
            self.assertAllEqual(part, expected[rows, columns])
        return image

    def test_jpeg(self):
        for orientation, order in itertools.product(range(1, 9), "<>"):
            with self.subTest(f"{orientation} {order}"):
                image = self.check(rotated(orientation, order=order))
                self.assertEqual(image.shape[0], 120 if orientation > 4 else 90)

    def test_other_formats(self):
        for format, orientation, order in itertools.product(
            ("PNG", "WEBP"), (1, 3, 6), "<>"
        ):
            with self.subTest(f"{format} {orientation} {order}"):
                block = exif(orientation, order)
                self.check(encoded(picture(), format, exif=block))

    def test_webp_with_the_name_that_jpeg_has(self):
        plain = encoded(picture(), "WEBP", exif=exif(6))
        at = plain.index(b"EXIF")
        size = struct.pack("<I", len(exif(6)) + 6)
        with_name = plain[:at] + b"EXIF" + size + b"Exif\0\0" + exif(6)
        size = struct.pack("<I", len(with_name) - 8)
        self.check(with_name[:4] + size + with_name[8:])

    def test_png_that_has_the_chunks_name_elsewhere_too(self):
        text = (b"tEXt", b"a\0eXIf eXIfII eXIfMM")
        for chunks in ([text, (b"eXIf", exif(6))], [text]):
            self.check(png(noise(20, 30, 3), chunks=chunks))

    def test_wherever_the_segment_stands(self):
        block = segment(0xE1, b"Exif\0\0" + exif(6))
        others = segment(0xE2, bytes(65000)) + segment(0xFE, b"Exif")
        plain = encoded(picture())
        for image_bytes in (
            jpeg(others, block),
            jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0 "), block),
            jpeg(b"\xff\xff", block),
            jpeg(block, at=plain.index(b"\xff\xdb")),
            jpeg(block, at=plain.index(b"\xff\xda")),
        ):
            self.assertEqual(self.check(image_bytes).shape[0], 120)

    def test_what_is_not_the_images_own(self):
        block = segment(0xE1, b"Exif\0\0" + exif(6))
        grey = Image.new("RGB", (120, 90))  # few bytes of image data
        for image_bytes in (
            jpeg() + jpeg(block),  # another image behind, as in an MPO
            jpeg(image=grey) + bytes(2) + block,
            jpeg(segment(0xE2, block)),  # in a segment of something else
            jpeg(segment(0xFE, b"Exif\0\0" + exif(6))),
            rotated(1, thumbnail=jpeg(block)),
        ):
            self.assertEqual(self.check(image_bytes).shape[:2], (90, 120))

    def test_a_malformed_block_turns_nothing(self):
        for name, block in {
            "nothing": b"",
            "header": exif(6)[:8],
            "truncated": exif(6)[:28],
            "no_such_orientation": exif(9),
            "zero": exif(0),
            "two_values": exif(6, count=2),
            "high_byte": exif(0x0106),
            "high_byte_of_big_endian": exif(0x0106, order=">"),
            "offset_beyond_the_end": b"II*\0\xff\xff\xff\x7f" + exif(6)[8:],
            "negative_offset": b"II*\0\xff\xff\xff\xff" + exif(6)[8:],
            "other_byte_order": b"MM\0*" + exif(6)[4:],
            "no_byte_order": b"abcd" + exif(6)[4:],
            "too_few_entries": exif(6)[:8] + b"\1\0" + exif(6)[10:],
            "too_many_entries": exif(6)[:8] + b"\xff\xff" + exif(1)[10:],
        }.items():
            with self.subTest(name):
                image = decode(jpeg(segment(0xE1, b"Exif\0\0" + block)))
                self.assertAllEqual(image, decode(jpeg()))

    def test_what_is_not_exif_turns_nothing(self):
        """Pillow reads these too, see the head of `zoo.preprocess`."""
        xmp = (
            b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf='
            b'"http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
            b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
            b"</rdf:RDF></x:xmpmeta>"
        )
        name = b"http://ns.adobe.com/xap/1.0/\0"
        for image_bytes in (
            jpeg(segment(0xE1, name + xmp)),
            rotated(6, kind=4),
        ):
            self.assertEqual(upright(image_bytes).height, 120)
            self.assertAllEqual(decode(image_bytes), decode(jpeg()))

    def test_a_block_ends_with_its_segment(self):
        block = b"Exif\0\0" + exif(6)
        image = decode(jpeg(segment(0xE1, block[:24]), block[24:]))
        self.assertAllEqual(image, decode(jpeg()))

    def test_of_two_orientations_the_first_counts(self):
        block = exif(6).replace(b"\2\0\x0f\1", b"\3\0\x0f\1")
        entry = struct.pack("<HHIHH", 0x112, 3, 1, 8, 0)
        block = block[:34] + entry + block[34:]
        self.check(jpeg(segment(0xE1, b"Exif\0\0" + block)))

    def test_a_hostile_header_ends(self):
        image_bytes = jpeg(segment(0xEF, b"") * 5000, rotated(6)[2:])
        self.assertEqual(decode(image_bytes).shape[0], 90)
