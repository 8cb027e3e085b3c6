import io
import pathlib

import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image

from zoo import preprocess

MINI = pathlib.Path(__file__).parents[2] / "shared/data/voc_mini"


def picture(height=90, width=120, seed=0):
    """Smooth colours with edges, so that a resampling error shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 10, width // 10, 3), "uint8")
    image = Image.fromarray(coarse).resize((width, height), Image.BICUBIC)
    pixels = np.array(image)
    pixels[20:40, 30:60] = (255, 0, 0)
    return Image.fromarray(pixels)


def encoded(image, format="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def by_pillow(image_bytes, size):
    image = Image.open(io.BytesIO(image_bytes)).convert("RGB")
    resized = image.resize((size, size), Image.BILINEAR)
    return np.asarray(resized, "float32")


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

    @parameterized.parameters("L", "P", "RGBA")
    def test_other_modes_of_png(self, mode):
        image_bytes = encoded(picture().convert(mode), "PNG")
        self.assertEqual(preprocess.load(image_bytes, 32).shape, (32, 32, 3))

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
        self.assertAllEqual(preprocess.image_shape(image_bytes), (90, 120))

    @parameterized.named_parameters(
        ("empty", b""),
        ("text", b"not an image"),
        ("truncated", encoded(picture())[:-400]),
        ("truncated_png", encoded(picture(), "PNG")[:-400]),
        ("webp", encoded(picture(), "WEBP")),
    )
    def test_refuses(self, image_bytes):
        load = tf.function(lambda image_bytes: preprocess.load(image_bytes, 32))
        for function in (load, lambda b: preprocess.load(b, 32)):
            with self.assertRaises(tf.errors.InvalidArgumentError):
                function(tf.constant(image_bytes))
