import contextlib
import io
import json
import pathlib
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from zoo import feature_cache

KEY = {"weights": "ab12", "image_size": (32, 48)}


def images(count=10):
    return np.arange(count, dtype="float32").reshape(count, 1, 1, 1)


def batches(count=10):
    return tf.data.Dataset.from_tensor_slices(
        (images(count), np.zeros((count, 2), "float32"))
    ).batch(4)


def compute(pixels):
    """Stands for a network with two outputs."""
    return [
        pixels * tf.ones((1, 2, 3, 5)),
        tf.cast(pixels[:, 0, 0], "bfloat16"),
    ]


def must_not_compute(pixels):
    raise AssertionError("the features were there")


class LoadOrComputeTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(self.get_temp_dir()) / "features"
        self.directory = self.root / "train"

    def run_it(self, key=KEY, compute=compute, batches=batches, count=10):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            arrays = feature_cache.load_or_compute(
                self.directory, key, compute, batches(), count
            )
        self.printed = out.getvalue()
        return arrays

    def assertNothingLeft(self):
        self.assertEqual(list(self.root.iterdir()), [])

    def assertRight(self, arrays):
        maps, vectors = arrays
        self.assertAllEqual(maps, np.tile(images(), (1, 2, 3, 5)))
        self.assertAllEqual(vectors, images()[:, 0, 0])
        for array in arrays:
            self.assertIsInstance(array, np.memmap)
            self.assertEqual(array.dtype, "float32")
            self.assertFalse(array.flags.writeable)

    def test_computes_once(self):
        self.assertRight(self.run_it())
        self.assertIn("10 of 10 images", self.printed)
        self.assertRight(self.run_it(compute=must_not_compute))
        self.assertIn("used again", self.printed)
        self.assertEqual(
            sorted(path.name for path in self.directory.iterdir()),
            ["00.npy", "01.npy", "key.json"],
        )
        self.assertEqual(list(self.root.iterdir()), [self.directory])

    def test_a_single_output_need_not_be_a_list(self):
        (vectors,) = self.run_it(compute=lambda pixels: pixels[:, 0, 0])
        self.assertAllEqual(vectors, images()[:, 0, 0])

    def test_names_what_differs(self):
        self.run_it()
        key = {"weights": "cd34", "image_size": [32, 48], "level": "P4"}
        with self.assertRaisesRegex(
            ValueError,
            "Received: level: None there, 'P4' now; "
            "weights: 'ab12' there, 'cd34' now$",
        ):
            self.run_it(key)
        with self.assertRaisesRegex(ValueError, "Received: image_size: "):
            self.run_it({"weights": "ab12"})

    def test_a_broken_off_computation_leaves_nothing(self):
        def breaks_off():
            yield from batches().take(2)
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            self.run_it(batches=breaks_off)
        self.assertNothingLeft()
        self.assertRight(self.run_it())

    def test_takes_no_notice_of_what_a_killed_run_left(self):
        killed = self.root / ".writing-train"
        killed.mkdir(parents=True)
        (killed / "02.npy").write_bytes(b"half")
        self.assertRight(self.run_it())
        self.assertFalse(killed.exists())

    def test_takes_an_empty_folder_and_no_other(self):
        self.directory.mkdir(parents=True)
        self.assertRight(self.run_it())
        (self.directory / "key.json").unlink()
        with self.assertRaisesRegex(FileExistsError, "Received: directory="):
            self.run_it(compute=must_not_compute)

    def test_a_full_disk_is_told_before_the_work(self):
        needed = 10 * (2 * 3 * 5 + 1) * 4
        usage = mock.Mock(free=needed - 1)
        with mock.patch.object(
            feature_cache.shutil, "disk_usage", return_value=usage
        ):
            with self.assertRaisesRegex(OSError, "10 images need .* GB"):
                self.run_it()
            self.assertNothingLeft()
            usage.free += 1
            self.assertRight(self.run_it())

    def test_counts_the_images(self):
        for count, message in (
            (11, "num_examples=11, .* add up to 10$"),
            (9, "num_examples=9, .* add up to 10 or more$"),
            (3, "num_examples=3, .* add up to 4 or more$"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                self.run_it(count=count)
            self.assertNothingLeft()

    def test_key_is_ready_to_read(self):
        self.run_it()
        stored = json.loads((self.directory / "key.json").read_text())
        self.assertEqual(stored, {"weights": "ab12", "image_size": [32, 48]})


class DigestTest(tf.test.TestCase):
    def test_tells_values_shapes_types_and_order(self):
        def weights(*values, dtype="float32"):
            return [keras.Variable(value, dtype=dtype) for value in values]

        different = [
            weights([1.0, 2.0]),
            weights([1.0, 3.0]),
            weights([[1.0, 2.0]]),
            weights([1.0], [2.0]),
            weights([2.0], [1.0]),
            weights([0.0]),
            weights([0], dtype="int32"),  # the same bytes
            [],
        ]
        digests = [feature_cache.digest(weights) for weights in different]
        self.assertLen(set(digests), len(different))
        self.assertEqual(digests[0], feature_cache.digest(weights([1.0, 2.0])))
