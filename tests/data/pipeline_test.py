import contextlib
import dataclasses
import io
import pathlib
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image

from tests.encodings import encoded, exif, jpeg, picture, segment, upright
from zoo import preprocess
from zoo.data import augment, pipeline, progress
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

    @pytest.mark.heavy
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

    def test_mixes_images_and_targets_alike(self):
        def batches(**arguments):
            arguments = {"epochs": 2, **arguments}
            made = list(self.make(**arguments).as_numpy_iterator())
            return [np.stack(part) for part in zip(*made, strict=True)]

        images, targets = batches()
        before, targets_before = (
            np.roll(part, 1, axis=1) for part in (images, targets)
        )
        grey, grey_before = (x.mean(axis=(2, 3, 4)) for x in (images, before))
        mixed, found = batches(mixup=1.0, cutmix=1.0)
        # What is seen of an image, by its brightness.
        share = mixed.mean(axis=(2, 3, 4)) - grey_before
        share = (share / (grey - grey_before))[..., None]
        expected = share * targets + (1 - share) * targets_before
        self.assertAllClose(found, expected, atol=1e-4)
        self.assertGreater(np.std(share), 0.1)
        has_window = mixed.std(axis=(2, 3, 4)) > 1  # two greys in one image
        self.assertBetween(has_window.mean(), 0.2, 0.8)
        # Made anew, as in a run that was resumed.
        late, late_targets = batches(mixup=1.0, cutmix=1.0, first_epoch=1)
        self.assertAllEqual(late, mixed[2:])
        self.assertAllEqual(late_targets, found[2:])

    def test_mixes_what_is_unknown_as_the_loss_takes_it(self):
        made = examples(self.get_temp_dir(), 4)
        made[2] = dataclasses.replace(made[2], targets=-np.ones(3, "float32"))
        for unknown, num_unknown in (("absent", 0), ("ignore", 2)):
            [(_, targets)] = pipeline.training_batches(
                made, 16, 4, 1, 0, mixup=1.0, unknown=unknown
            )
            rows = np.all(targets == -1, axis=1)
            self.assertEqual(rows.sum(), num_unknown)
            self.assertAllInRange(targets[~rows], 0, 1)

    def test_refuses_to_mix_what_it_cannot(self):
        made = examples(self.get_temp_dir(), 2)
        with self.assertRaisesRegex(ValueError, "cutmix=0.0, batch_size=1"):
            pipeline.training_batches(made, 16, 1, 1, 0, mixup=0.2)

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


def rectangles(directory, count=4):
    """Writes black PNGs with a white rectangle each, its first region.

    Example `i` has `i` more regions, and target `i`. The pictures are small,
    so that a pixel of the file is many of the batch.
    """
    made = examples(directory, count)
    rng = np.random.default_rng(0)
    for i, example in enumerate(made):
        top, left = rng.integers(2, 7), rng.integers(3, 9)
        bottom, right = rng.integers(14, 19), rng.integers(20, 27)
        picture = np.zeros((20, 30, 3), "uint8")
        picture[top:bottom, left:right] = 255
        path = pathlib.Path(directory) / f"rectangle_{i}.png"
        path.write_bytes(tf.io.encode_png(picture).numpy())
        corners = np.sort(rng.uniform(size=(i, 2, 2)), axis=1)
        edges = np.divide((top, left, bottom, right), (20, 30, 20, 30))
        made[i] = dataclasses.replace(
            example,
            image_path=str(path),
            targets=np.eye(count, dtype="float32")[i],
            regions=np.float32([edges, *corners.reshape(i, 4)]),
        )
    return made


def white(image):
    """Finds the rectangle: ymin xmin ymax xmax, 0 to 1, or zeros for none.

    Bilinear filters leave half of the brightness exactly at an edge.
    """
    rows, columns = np.where(image[..., 0] > 127.5)
    if not len(rows):
        return np.zeros(4)
    pixels = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    return np.divide(pixels, (*image.shape[:2], *image.shape[:2]))


class RegionsTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.named_parameters(
        ("none", {"crop_area": 1.0, "flip": False}),
        ("crop", {"crop_area": 0.2}),
        ("resize", {"crop_area": 1.0, "resize": 288}),
        ("own_crop", {"crop_area": 0.5, "own": (0.22, 0.1, 0.9, 0.8)}),
        ("whole_own_crop", {"crop_area": 1.0, "own": (0.22, 0.1, 0.9, 0.8)}),
    )
    def test_regions_lie_where_the_image_shows_them(self, arguments):
        self.check(**arguments)

    def test_regions_shift_with_the_image(self):
        # The rectangles are so far inside that no gap mirrors them.
        self.check(crop_area=0.9, shift=0.02)

    # A rectangle of which little is white has no region, but has edges.
    @mock.patch.object(augment, "LEAST_SEEN", 1e-4)
    def check(self, own=None, **arguments):
        made = rectangles(self.get_temp_dir())
        if own is not None:
            # The window that is cut, since it has whole pixels.
            start, end = np.reshape(own, (2, 2)) * (20, 30)
            start, end = np.round(start), np.round(end)
            for i, example in enumerate(made):
                regions = example.regions.reshape(-1, 2, 2) * (20, 30)
                regions = np.clip((regions - start) / (end - start), 0, 1)
                made[i] = dataclasses.replace(
                    example,
                    crop=own,
                    regions=regions.reshape(-1, 4).astype("float32"),
                )
        batches = pipeline.training_batches(
            made, 240, 4, epochs=6, seed=0, **arguments
        )
        self.assertEqual(
            batches.element_spec,
            (
                {
                    "image": tf.TensorSpec((4, 240, 240, 3)),
                    "regions": tf.TensorSpec((4, 4, 4)),
                },
                tf.TensorSpec((4, 4)),
            ),
        )
        for inputs, targets in batches.as_numpy_iterator():
            for image, regions, target in zip(
                inputs["image"], inputs["regions"], targets, strict=True
            ):
                self.assertAllClose(
                    regions[0], white(image), rtol=0, atol=1 / 240
                )
                own_regions = target.argmax() + 1
                self.assertAllEqual(
                    regions[own_regions:], np.zeros((4 - own_regions, 4))
                )
                self.assertAllInRange(regions, 0, 1)

    def test_regions_that_a_crop_loses_become_padding(self):
        made = rectangles(self.get_temp_dir())
        own = np.float32([[0, 0, 0.2, 0.2], [0.5, 0, 0.7, 0.1], [0, 0, 1, 1]])
        made = [dataclasses.replace(e, regions=own) for e in made]
        batches = pipeline.training_batches(made, 16, 4, 9, 0, crop_area=0.2)
        regions = np.concatenate(
            [x["regions"] for x, _ in batches.as_numpy_iterator()]
        )
        lost = np.all(regions == 0, axis=2)
        self.assertBetween(lost[:, :2].sum(), 5, 67)  # of 72
        # The whole image, of which some crops show less than a quarter.
        self.assertBetween(lost[:, 2].sum(), 1, 18)  # of 36
        sides = regions[~lost][:, 2:] - regions[~lost][:, :2]
        self.assertAllGreater(sides, 0)

    def test_holds_lists_of_regions_without_padding(self):
        made = rectangles(self.get_temp_dir())
        long = np.tile(np.float32([[0, 0, 1, 1]]), (1000, 1))
        made[0] = dataclasses.replace(made[0], regions=long)
        columns = pipeline._columns(made)
        self.assertEqual(columns["regions"].values.shape, (1000 + 9, 4))
        [(inputs, _)] = pipeline.evaluation_batches(made, 16, 4)
        self.assertEqual(inputs["regions"].shape, (4, 1000, 4))

    def test_evaluation_gives_the_examples_regions(self):
        made = rectangles(self.get_temp_dir())
        [(inputs, targets)] = pipeline.evaluation_batches(made, 240, 8)
        self.assertAllEqual(targets, np.eye(4))
        for i, example in enumerate(made):
            regions = inputs["regions"][i]
            self.assertAllEqual(regions[: i + 1], example.regions)
            self.assertAllEqual(regions[i + 1 :], np.zeros((3 - i, 4)))
            self.assertAllClose(
                regions[0], white(inputs["image"][i]), rtol=0, atol=1 / 240
            )

    def test_no_region_at_all_is_one_row_of_padding(self):
        made = [
            dataclasses.replace(e, regions=np.zeros((0, 4), "float32"))
            for e in rectangles(self.get_temp_dir())
        ]
        for batches in (
            pipeline.training_batches(made, 16, 4, 1, 0, shift=0.2),
            pipeline.evaluation_batches(made, 16, 4),
        ):
            [(inputs, _)] = batches
            self.assertAllEqual(inputs["regions"], np.zeros((4, 1, 4)))

    def test_same_seed_same_regions_also_when_resumed(self):
        made = rectangles(self.get_temp_dir())

        def draw(**arguments):
            batches = pipeline.training_batches(
                made, 16, 4, 3, seed=3, shift=0.2, **arguments
            )
            return [x["regions"] for x, _ in batches.as_numpy_iterator()]

        regions = draw()
        self.assertAllEqual(regions[1:], draw(first_epoch=1))
        self.assertNotAllClose(regions[0], regions[1])

    def test_region_targets(self):
        box = np.float32([[0, 0, 0.5, 0.5], [0.6, 0.6, 1, 1]])
        regions = [
            # The box, a bit more than half of it, just half, and nothing.
            [box[0], (0, 0, 0.5, 0.3), (0, 0, 0.5, 0.25), (0.5, 0, 0.6, 1)],
            [(0, 0, 1, 1), box[1]],  # the second box counts too
            [box[0]],  # of an image that is known to have no boxes
            np.zeros((0, 4)),
        ]
        made = [
            dataclasses.replace(
                example,
                regions=np.reshape(own, (-1, 4)).astype("float32"),
                boxes=box if i != 2 else box[:0],
            )
            for i, (example, own) in enumerate(
                zip(rectangles(self.get_temp_dir()), regions, strict=True)
            )
        ]
        arguments = {"crop_area": 1.0, "region_targets": True}
        batches = pipeline.training_batches(made, 16, 4, 1, 0, **arguments)
        [(inputs, targets)] = batches.as_numpy_iterator()
        order = targets["targets"].argmax(axis=1)
        self.assertAllEqual(np.sort(order), range(4))
        self.assertAllEqual(
            targets["region_targets"][np.argsort(order)],
            [[1, 1, 0, 0], [0, 1, -1, -1], [0, -1, -1, -1], [-1] * 4],
        )
        # What the crop loses is padding, about which nothing is known.
        arguments["crop_area"] = 0.2
        batches = pipeline.training_batches(made, 16, 4, 9, 0, **arguments)
        num_known = 0
        for inputs, targets in batches.as_numpy_iterator():
            known = targets["region_targets"] >= 0
            self.assertAllEqual(known, inputs["regions"].any(axis=2))
            num_known += known.sum()
        self.assertBetween(num_known, 9, 7 * 9 - 1)

    def test_knows_no_region_where_no_example_has_boxes(self):
        made = rectangles(self.get_temp_dir())
        [(_, targets)] = pipeline.training_batches(
            made, 16, 4, 1, 0, region_targets=True
        )
        self.assertAllEqual(targets["region_targets"], np.full((4, 4), -1))

    def test_refuses_regions_of_some_examples(self):
        made = rectangles(self.get_temp_dir())
        made[2] = dataclasses.replace(made[2], regions=None)
        message = "Received: regions=None in '2' and 0 others of 4 examples"
        with self.assertRaisesRegex(ValueError, message):
            pipeline.training_batches(made, 16, 4, 1, 0)
        with self.assertRaisesRegex(ValueError, message):
            pipeline.evaluation_batches(made, 16, 4)

    def test_refuses_what_regions_cannot_follow(self):
        made = rectangles(self.get_temp_dir())
        with self.assertRaisesRegex(ValueError, "Received: rand_augment=2"):
            pipeline.training_batches(made, 16, 4, 1, 0, rand_augment=2)
        with self.assertRaisesRegex(ValueError, "Received: mixup=0.0, cutmix"):
            pipeline.training_batches(made, 16, 4, 1, 0, cutmix=1.0)

    def test_refuses_targets_of_no_regions(self):
        made = examples(self.get_temp_dir())
        with self.assertRaisesRegex(
            ValueError, "Received: region_targets=True"
        ):
            pipeline.training_batches(made, 16, 4, 1, 0, region_targets=True)


def edges(image):
    """Finds a white rectangle on black to a part of a pixel, 0 to 1.

    Resizing keeps the sum and the middle of what is bright.
    """
    found = []
    for axis in (1, 0):
        profile = image[..., 0].mean(axis=axis)
        profile = profile / np.median(profile[profile > profile.max() / 2])
        middle = (profile * (np.arange(len(profile)) + 0.5)).sum()
        middle, side = middle / profile.sum(), profile.sum()
        found.append(np.array([middle - side / 2, middle + side / 2]))
    return np.stack(found, axis=1).flatten() / len(image)


class LargePhotosTest(parameterized.TestCase, tf.test.TestCase):
    """A large JPEG is decoded at a part of its size, but in training only."""

    def make(self, image_bytes, **changes):
        path = pathlib.Path(self.get_temp_dir()) / "photo"
        path.write_bytes(image_bytes)
        [example] = examples(self.get_temp_dir(), 1)
        return dataclasses.replace(example, image_path=str(path), **changes)

    def first(self, example, size, **arguments):
        batches = pipeline.training_batches(
            [example], size, 1, epochs=1, seed=0, crop_area=1.0, **arguments
        )
        [(images, _)] = batches.as_numpy_iterator()
        return images[0]

    def test_is_halved_while_it_still_shrinks(self):
        self.assertEqual(pipeline.TRAINING_ANTIALIAS, 1.5)
        sizes = {10: 3, 25: 3, 26: 2, 50: 2, 51: 1, 100: 1, 101: 0, 300: 0}
        for size, expected in sizes.items():
            with self.subTest(size):
                for sides in ((300.0, 400.0), (400.0, 300.0)):
                    found = pipeline._halvings(tf.constant(sides), size)
                    self.assertEqual(found, expected)

    @parameterized.parameters(
        (300, 400, 48, "JPEG"), (3000, 4000, 448, "JPEG"), (300, 400, 48, "PNG")
    )
    def test_pixels_are_near_the_exact_ones(self, height, width, size, format):
        example = self.make(encoded(picture(height, width), format))
        [(exact, _)] = pipeline.evaluation_batches([example], size, 1)
        pillows = upright(pathlib.Path(example.image_path).read_bytes())
        pillows = pillows.resize((size, size), Image.BILINEAR)
        self.assertAllClose(exact[0], pillows, rtol=0, atol=1.001)
        image = self.first(example, size)
        difference = min(
            (np.abs(x - exact[0]) for x in (image, image[:, ::-1])),
            key=np.mean,
        )
        if format == "PNG":
            self.assertAllEqual(difference, np.zeros_like(difference))
        else:
            # On this picture, which is all edges; on photos it is less.
            self.assertBetween(difference.mean(), 0.01, 1.5)
        # No augmentation, no cheaper pixels.
        image = self.first(example, size, flip=False)
        self.assertAllEqual(image, exact[0])

    @parameterized.parameters(1, 3, 6, 8)
    def test_regions_follow_exactly(self, orientation):
        pixels = np.zeros((603, 907, 3), "uint8")
        pixels[211:401, 307:613] = 255
        block = segment(0xE1, b"Exif\0\0" + exif(orientation))
        image_bytes = jpeg(block, image=Image.fromarray(pixels), quality=95)
        shown = np.asarray(upright(image_bytes))
        region = np.float32([white(shown)])
        example = self.make(image_bytes, regions=region)
        batches = pipeline.training_batches(
            [example] * 4, 48, 4, epochs=6, seed=0, crop_area=0.7
        )
        for inputs, _ in batches.as_numpy_iterator():
            for image, [found] in zip(
                inputs["image"], inputs["regions"], strict=True
            ):
                # A twelfth of a pixel is one of the file, which has 12 in it.
                self.assertAllClose(
                    edges(image), found, rtol=0, atol=1 / 48 / 12
                )


class ResizeTest(parameterized.TestCase, tf.test.TestCase):
    def test_shows_windows_of_the_resized_image(self):
        # Brightness tells the place; four pixels of the file are one here.
        ramp = np.arange(160, dtype="uint8")
        picture = np.stack([*np.meshgrid(ramp, ramp), np.zeros((160, 160))], 2)
        path = pathlib.Path(self.get_temp_dir()) / "ramp.png"
        path.write_bytes(tf.io.encode_png(picture.astype("uint8")).numpy())
        example = dataclasses.replace(
            examples(self.get_temp_dir(), 1)[0], image_path=str(path)
        )
        [(resized, _)] = pipeline.evaluation_batches([example], 40, 1)
        batches = pipeline.training_batches(
            *([example] * 4, 30, 4, 10, 0), 0, 1.0, flip=False, resize=40
        )
        images = np.concatenate([x for x, _ in batches.as_numpy_iterator()])
        # Without rounding to the file's pixels: a crop of the resized image.
        starts = (images.mean(axis=(1, 2))[:, :2] - 79.5) / 4 + 5
        self.assertAllInRange(starts, -0.2, 10.2)
        self.assertLess(starts.min(), 1)
        self.assertGreater(starts.max(), 9)
        for image, (left, top) in zip(images, starts, strict=True):
            rows, columns = (int(round(start)) for start in (top, left))
            window = resized[0, rows : rows + 30, columns : columns + 30]
            # Half a pixel for the rounding here, and one of the file's.
            self.assertAllClose(image, window, rtol=0, atol=2 + 1)

    @parameterized.parameters(
        (15, 1.0, "Received: resize=15, image_size=16"),
        (20, 0.7, "Received: resize=20, crop_area=0.7"),
    )
    def test_refuses(self, resize, crop_area, message):
        made = examples(self.get_temp_dir(), 4)
        with self.assertRaisesRegex(ValueError, message):
            pipeline.training_batches(
                *(made, 16, 4, 1, 0), 0, crop_area, resize=resize
            )


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

    def test_one_batch_at_once_is_the_same(self):
        for made in (
            rectangles(self.get_temp_dir()),
            examples(self.get_temp_dir(), 3),
            [
                dataclasses.replace(example, crop=(0.1, 0.2, 0.7, 0.8))
                for example in examples(self.get_temp_dir(), 3)
            ],
        ):
            batches = pipeline.evaluation_batches(made, 16, 4)
            expected = next(batches.as_numpy_iterator())
            found = pipeline.evaluation_batch(made, 16)
            tf.nest.map_structure(self.assertAllEqual, found, expected)


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
        for many, printed in ((7, ""), (6, "Checked: 5 of 6 images\n")):
            with (
                mock.patch.object(pipeline, "MANY", many),
                mock.patch.object(progress, "SECONDS", 0),
                contextlib.redirect_stdout(io.StringIO()) as out,
            ):
                pipeline.unreadable(made)
            self.assertStartsWith(out.getvalue(), printed)
            self.assertEqual(bool(printed), bool(out.getvalue()))


class UnreadableInTrainingTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        (None, "NotFoundError: .*lost.jpg; No such file"),
        (
            b"\xff\xd8\xff\xe0 not a JPEG",
            "InvalidArgumentError: .*Invalid JPEG",
        ),
        (b"GIF89a", "InvalidArgumentError: .*a GIF; JPEG, PNG and WebP"),
    )
    def test_fit_ends_with_a_clear_error(self, left, message):
        folder = pathlib.Path(self.get_temp_dir())
        image = np.random.default_rng(0).integers(256, size=(20, 30, 3))
        path = folder / "lost.jpg"
        Image.fromarray(np.uint8(image)).save(path)
        example = Example(
            image_id="lost",
            image_path=str(path),
            targets=np.ones(2, "float32"),
            boxes=np.zeros((0, 4), "float32"),
            box_classes=np.zeros(0, "int32"),
            box_difficult=np.zeros(0, bool),
        )
        batches = pipeline.training_batches([example] * 2, 8, 2, 1, seed=0)
        path.unlink()
        if left:
            path.write_bytes(left)
        model = keras.Sequential(
            [keras.layers.Flatten(), keras.layers.Dense(2)]
        )
        model.compile("sgd", "mse", jit_compile=False)
        with (
            self.assertRaisesRegex(OSError, f"--resume, names.*{message}"),
            pipeline.named_if_unreadable([]),
        ):
            model.fit(batches, steps_per_epoch=1, shuffle=False, verbose=0)

    def test_other_errors_stay(self):
        error = tf.errors.NotFoundError(None, None, "No algorithm worked!")
        with (
            self.assertRaisesRegex(tf.errors.NotFoundError, "No algorithm"),
            pipeline.named_if_unreadable([]),
        ):
            raise error
