import contextlib
import dataclasses
import io
import pathlib
from unittest import mock

import numpy as np
import tensorflow as tf

from zoo import preprocess
from zoo.data import pipeline
from zoo.data.example import Example


def examples(directory, count=10):
    """Writes JPEGs of one grey level each, so that a pixel tells the index."""
    made = []
    for i in range(count):
        path = pathlib.Path(directory) / f"{i}.jpg"
        grey = tf.fill((20, 30, 3), tf.constant(i * 20, "uint8"))
        path.write_bytes(tf.io.encode_jpeg(grey, quality=100).numpy())
        targets = np.zeros(3, "float32")
        targets[i % 3] = 1
        made.append(
            Example(
                image_id=str(i),
                image_path=str(path),
                targets=targets,
                boxes=np.zeros((0, 4), "float32"),
                box_classes=np.zeros(0, "int32"),
                box_difficult=np.zeros(0, bool),
            )
        )
    return made


def indices(batches):
    """Gives the index of each image, and checks that targets belong to it."""
    order = []
    for images, targets in batches.as_numpy_iterator():
        index = np.round(images.mean(axis=(1, 2, 3)) / 20).astype(int)
        np.testing.assert_array_equal(targets.argmax(axis=1), index % 3)
        order.append(index.tolist())
    return order


class TrainingBatchesTest(tf.test.TestCase):
    def make(self, count=10, **arguments):
        made = examples(self.get_temp_dir(), count)
        arguments = {"epochs": 3, "seed": 5, **arguments}
        return pipeline.training_batches(made, 16, 4, **arguments)

    def test_each_epoch_is_another_order_of_distinct_examples(self):
        order = indices(self.make())
        self.assertLen(order, 3 * 2)  # 10 // 4 whole batches an epoch
        epochs = [sum(order[i : i + 2], []) for i in (0, 2, 4)]
        for epoch in epochs:
            self.assertLen(set(epoch), 8)
        self.assertLen({tuple(epoch) for epoch in epochs}, 3)
        self.assertLen(set(sum(epochs, [])), 10)

    def test_same_seed_same_pixels_another_seed_others(self):
        a, b, c = (
            list(self.make(seed=seed).as_numpy_iterator()) for seed in (5, 5, 6)
        )
        for (x, y), (u, v) in zip(a, b, strict=True):
            self.assertAllEqual(x, u)
            self.assertAllEqual(y, v)
        self.assertNotAllEqual(
            np.stack([y for _, y in a]), np.stack([y for _, y in c])
        )

    def test_a_resumed_epoch_is_the_one_that_was_missed(self):
        whole = list(self.make().as_numpy_iterator())
        late = list(self.make(first_epoch=1).as_numpy_iterator())
        self.assertLen(late, 4)
        for (x, y), (u, v) in zip(whole[2:], late, strict=True):
            self.assertAllEqual(x, u)
            self.assertAllEqual(y, v)

    def test_rand_augment_follows_from_the_seed_too(self):
        def images(**arguments):
            arguments = {"epochs": 2, "rand_augment": 2, **arguments}
            batches = self.make(**arguments).as_numpy_iterator()
            return np.stack([x for x, _ in batches])

        changed = images()
        # Made anew, as in a run that was resumed.
        self.assertAllEqual(images(first_epoch=1), changed[2:])
        difference = np.abs(changed - images(rand_augment=0))
        self.assertGreater((difference.max(axis=(2, 3, 4)) > 1).mean(), 0.5)

    def test_crops_and_flips(self):
        gradient = np.tile(np.arange(0, 240, 8, "uint8")[None, :, None], 3)
        gradient = np.tile(gradient, (20, 1, 1))
        path = pathlib.Path(self.get_temp_dir()) / "a.jpg"
        path.write_bytes(tf.io.encode_jpeg(gradient, quality=100).numpy())
        example = dataclasses.replace(
            examples(self.get_temp_dir(), 1)[0], image_path=str(path)
        )
        batches = pipeline.training_batches(
            [example] * 4, 16, 4, epochs=10, seed=0, crop_area=0.3
        )
        images = np.concatenate([x for x, _ in batches.as_numpy_iterator()])
        rising = images[:, 8, -1, 0] > images[:, 8, 0, 0]
        self.assertBetween(rising.sum(), 8, 32)
        span = np.abs(images[:, 8, -1, 0] - images[:, 8, 0, 0])
        self.assertGreater(span.max() - span.min(), 30)

    def test_no_crop_and_no_shift_leaves_the_pixels(self):
        made = examples(self.get_temp_dir(), 4)
        batches = pipeline.training_batches(
            made, 16, 4, epochs=1, seed=0, crop_area=1.0
        )
        expected = pipeline.evaluation_batches(made, 16, 4)
        (images, _), (whole, _) = (
            next(b.as_numpy_iterator()) for b in (batches, expected)
        )
        self.assertAllEqual(sorted(images[:, 0, 0, 0]), whole[:, 0, 0, 0])

    def test_shift(self):
        stripe = np.zeros((32, 32, 3), "uint8")
        stripe[:, 16] = 255
        path = pathlib.Path(self.get_temp_dir()) / "stripe.png"
        path.write_bytes(tf.io.encode_png(stripe).numpy())
        example = dataclasses.replace(
            examples(self.get_temp_dir(), 1)[0], image_path=str(path)
        )
        batches = pipeline.training_batches(
            [example] * 4, 32, 4, 10, seed=0, crop_area=1.0, shift=0.1
        )
        images = np.concatenate([x for x, _ in batches.as_numpy_iterator()])
        columns = {int(image[0, :, 0].argmax()) for image in images}
        self.assertBetween(min(columns), 12, 14)
        self.assertBetween(max(columns), 17, 19)

    def test_stays_in_the_examples_own_crop(self):
        half = np.zeros((20, 30, 3), "uint8")
        half[:, 15:] = 200
        path = pathlib.Path(self.get_temp_dir()) / "a.png"
        path.write_bytes(tf.io.encode_png(half).numpy())
        example = dataclasses.replace(
            examples(self.get_temp_dir(), 1)[0],
            image_path=str(path),
            crop=(0.0, 0.5, 1.0, 1.0),
        )
        for area in (0.3, 1.0):
            batches = pipeline.training_batches(
                [example] * 4, 16, 4, epochs=5, seed=0, crop_area=area
            )
            for images, _ in batches.as_numpy_iterator():
                self.assertAllClose(images, np.full_like(images, 200))
        (images, _) = next(
            pipeline.evaluation_batches([example], 16, 4).as_numpy_iterator()
        )
        self.assertAllClose(images, np.full_like(images, 200))

    def test_needs_one_batch(self):
        with self.assertRaisesRegex(ValueError, "3 examples, batch_size=4"):
            self.make(count=3)


class CachedBatchesTest(tf.test.TestCase):
    def test_order_is_that_of_training(self):
        made = examples(self.get_temp_dir())
        path = pathlib.Path(self.get_temp_dir()) / "features.npy"
        grey = np.arange(10, dtype="float32").reshape(10, 1, 1, 1) * 20
        np.save(path, np.tile(grey, (1, 2, 3, 4)))
        features = [np.load(path, mmap_mode="r"), grey[:, 0, 0] / 20]
        targets = np.stack([example.targets for example in made])
        for first_epoch in (0, 1):
            arguments = {"epochs": 2, "seed": 5, "first_epoch": first_epoch}
            batches = pipeline.cached_batches(features, targets, 4, **arguments)
            expected = pipeline.training_batches(
                made, 16, 4, crop_area=1.0, **arguments
            )
            found = indices(batches.map(lambda x, y: (x[0], y)))
            self.assertLen(found, (2 - first_epoch) * 2)
            self.assertEqual(found, indices(expected))
            for (maps, index), _ in batches.as_numpy_iterator():
                self.assertAllEqual(maps[:, 0, 0, 0], index[:, 0] * 20)
        self.assertEqual(
            batches.element_spec,
            (
                (tf.TensorSpec((4, 2, 3, 4)), tf.TensorSpec((4, 1))),
                tf.TensorSpec((4, 3)),
            ),
        )

    def test_needs_one_batch(self):
        with self.assertRaisesRegex(ValueError, "3 examples, batch_size=4"):
            pipeline.cached_batches([np.ones(3)], np.ones((3, 1)), 4, 1, 0)


class EvaluationBatchesTest(tf.test.TestCase):
    def test_keeps_the_order_and_the_last_batch(self):
        made = examples(self.get_temp_dir())
        order = indices(pipeline.evaluation_batches(made, 16, 4))
        self.assertEqual(order, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]])

    def test_pixels_are_those_of_preprocess(self):
        made = examples(self.get_temp_dir(), 1)
        (images, _) = next(
            pipeline.evaluation_batches(made, 16, 4).as_numpy_iterator()
        )
        image_bytes = pathlib.Path(made[0].image_path).read_bytes()
        self.assertAllEqual(images[0], preprocess.load(image_bytes, 16))


class UnreadableTest(tf.test.TestCase):
    def test_names_each_bad_file(self):
        made = examples(self.get_temp_dir(), 9)
        paths = [pathlib.Path(example.image_path) for example in made]
        paths[1].unlink()
        paths[2].write_bytes(b"")
        paths[3].write_bytes(paths[3].read_bytes()[:-100])
        paths[5].write_bytes(b"GIF89a and more")
        paths[6].unlink()
        paths[6].mkdir()
        deep = tf.zeros((9, 9, 1), "uint16")
        paths[7].write_bytes(tf.io.encode_png(deep).numpy())
        paths[8].write_bytes(paths[8].read_bytes()[:50])
        reasons = pipeline.unreadable(made)
        taken = "JPEG, PNG and WebP are taken"
        self.assertEqual(
            reasons,
            {
                1: f"{paths[1]}: there is no such file",
                2: f"{paths[2]}: empty; {taken}",
                3: f"{paths[3]}: not a whole JPEG, PNG or WebP image",
                5: f"{paths[5]}: a GIF; {taken}",
                6: f"{paths[6]}: there is no such file",
                7: f"{paths[7]}: a 16-bit greyscale PNG; 8 bits are taken",
                8: f"{paths[8]}: not a whole JPEG, PNG or WebP image",
            },
        )

    def test_finds_nothing_in_good_files(self):
        self.assertEqual(
            pipeline.unreadable(examples(self.get_temp_dir(), 6)), {}
        )

    def test_shows_progress_of_many(self):
        made = examples(self.get_temp_dir(), 6)
        pathlib.Path(made[5].image_path).write_bytes(b"")
        for many, printed in ((7, ""), (6, "6/6")):
            with (
                mock.patch.object(pipeline, "MANY", many),
                contextlib.redirect_stdout(io.StringIO()) as out,
            ):
                pipeline.unreadable(made)
            self.assertIn(printed, out.getvalue())
            self.assertEqual(bool(printed), bool(out.getvalue()))
