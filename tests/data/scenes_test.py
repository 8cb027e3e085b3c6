import functools
import os
import pathlib
import tempfile
from collections import Counter
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image

from zoo.data import scenes, voc

TRAINVAL, TEST = 0, 1  # indices of splits


def files(directory):
    return sorted(
        path.relative_to(directory).as_posix()
        for path in pathlib.Path(directory).rglob("*")
        if path.is_file()
    )


def pixels(directory, image_id):
    path = pathlib.Path(directory, "JPEGImages", f"{image_id}.jpg")
    with Image.open(path) as image:
        return np.asarray(image)


def square(side):
    return Image.new("RGBA", (side, side), (200, 60, 40, 255))


class DrawTest(tf.test.TestCase):
    def test_does_not_depend_on_order(self):
        forwards = [scenes.draw(0, TEST, i) for i in range(4)]
        backwards = [scenes.draw(0, TEST, i) for i in reversed(range(4))]
        for (image, objects), (again, same) in zip(
            forwards, reversed(backwards), strict=True
        ):
            self.assertAllEqual(image, again)
            self.assertEqual(objects, same)

    def test_depends_on_each_of_its_numbers(self):
        image, _ = scenes.draw(0, TRAINVAL, 7)
        for other in ((1, TRAINVAL, 7), (0, TEST, 7), (0, TRAINVAL, 8)):
            self.assertNotAllEqual(image, scenes.draw(*other)[0])

    def test_what_an_image_holds(self):
        sides = []
        for index in range(150):
            image, objects = scenes.draw(0, TEST, index)
            self.assertEqual(image.shape, (128, 128, 3))
            self.assertEqual(image.dtype, np.uint8)
            self.assertBetween(len({o.name for o in objects}), 1, 6)
            self.assertFalse(all(o.difficult for o in objects))
            for thing in objects:
                self.assertIn(thing.name, scenes.CLASSES)
                xmin, ymin, xmax, ymax = thing.box
                self.assertTrue(1 <= xmin <= xmax <= 128, thing)
                self.assertTrue(1 <= ymin <= ymax <= 128, thing)
                touches = 1 in thing.box or 128 in thing.box
                self.assertTrue(touches or not thing.truncated, thing)
                if not thing.truncated:
                    sides.append(max(xmax - xmin, ymax - ymin) + 1)
        self.assertBetween(min(sides), 0.12 * 128, 0.18 * 128)
        self.assertBetween(max(sides), 0.50 * 128, 0.61 * 128)

    def test_pixels_belong_to_the_version(self):
        # When this fails on purpose, count `scenes.VERSION` up: the caches
        # of users hold what the older version has drawn.
        image, objects = scenes.draw(0, TEST, 0)
        quarters = image.reshape(2, 64, 2, 64, 3).mean(axis=(1, 3, 4))
        boxes = [
            (56, 99, 90, 117),
            (39, 64, 71, 113),
            (1, 15, 33, 51),
            (5, 72, 31, 114),
        ]
        self.assertEqual(scenes.VERSION, 1)
        self.assertEqual(
            [thing.name for thing in objects], ["car", "tree", "star", "tree"]
        )
        self.assertAllClose([thing.box for thing in objects], boxes, atol=1)
        self.assertAllClose(quarters, [[46.4, 33.9], [41.3, 32.5]], atol=1)


class ComposeTest(tf.test.TestCase):
    def label_sets(self, split, number):
        return [
            set(scenes.compose(np.random.default_rng([0, split, i]))[1])
            for i in range(number)
        ]

    def test_statistics(self):
        for split, number in ((TRAINVAL, 2000), (TEST, 1000)):
            label_sets = self.label_sets(split, number)
            lengths = [len(labels) for labels in label_sets]
            self.assertEqual((min(lengths), max(lengths)), (1, 6))
            self.assertBetween(np.mean(lengths), 2.3, 3.1)
            counts = Counter(sum(map(list, label_sets), []))
            self.assertEqual(tuple(sorted(counts)), scenes.CLASSES)
            self.assertGreaterEqual(
                max(counts.values()) / min(counts.values()), 5
            )
            self.assertGreaterEqual(min(counts.values()), 0.03 * number)

    def test_classes_go_together(self):
        label_sets = self.label_sets(TRAINVAL, 2000)
        with_fish = [labels for labels in label_sets if "fish" in labels]
        boats = np.mean(["boat" in labels for labels in label_sets])
        boats_with_fish = np.mean(["boat" in labels for labels in with_fish])
        self.assertGreater(boats_with_fish, 2 * boats)


class CanvasTest(parameterized.TestCase, tf.test.TestCase):
    def test_box_counts_from_one_and_is_inclusive(self):
        canvas = scenes.Canvas(Image.new("RGB", (128, 128)))
        canvas.paste(square(10), "ball", 20, 30)
        (thing,) = canvas.objects()
        self.assertEqual(thing.box, (21, 31, 30, 40))
        self.assertFalse(thing.difficult or thing.truncated)

    def test_box_is_around_what_is_painted(self):
        canvas = scenes.Canvas(Image.new("RGB", (128, 128)))
        tile = Image.new("RGBA", (20, 20))
        tile.paste((255, 255, 255, 255), (3, 5, 12, 9))
        canvas.paste(tile, "ball", 40, 50)
        (thing,) = canvas.objects()
        rows, columns = np.nonzero(np.asarray(canvas.image)[..., 0])
        painted = (columns.min(), rows.min(), columns.max(), rows.max())
        self.assertAllEqual(np.subtract(thing.box, 1), painted)

    @parameterized.parameters((59, [False]), (61, [True]), (91, []))
    def test_difficult_by_the_hidden_share(self, hidden, expected):
        for cover in ("tree", None):  # an object or clutter
            canvas = scenes.Canvas(Image.new("RGB", (128, 128)))
            canvas.paste(square(100), "house", 0, 0)
            canvas.paste(square(100), cover, 0, 100 - hidden)
            houses = [o for o in canvas.objects() if o.name == "house"]
            self.assertEqual([o.difficult for o in houses], expected)

    def test_what_lies_beyond_the_image_is_hidden(self):
        canvas = scenes.Canvas(Image.new("RGB", (100, 100)))
        canvas.paste(square(20), "ball", -13, 0)
        canvas.paste(square(20), "ball", 85, 90)
        ball, other = canvas.objects()
        self.assertEqual(ball.box, (1, 1, 7, 20))
        self.assertEqual(other.box, (86, 91, 100, 100))
        self.assertTrue(ball.difficult and ball.truncated)
        self.assertTrue(other.difficult and other.truncated)

    def test_foresees_what_a_paste_leaves(self):
        canvas = scenes.Canvas(Image.new("RGB", (128, 128)))
        canvas.paste(square(40), "car", 0, 0)
        canvas.paste(square(40), None, 0, 30)
        # A quarter of the car is covered; the clutter may be.
        self.assertAllClose(canvas.would_leave(square(40), 20, 0), 0.375)
        self.assertAllClose(canvas.would_leave(square(40), 0, 40), 1.0)


class WriteTest(parameterized.TestCase, tf.test.TestCase):
    def folder(self):
        """Gives a name in a folder of its own, at which nothing is yet."""
        return os.path.join(tempfile.mkdtemp(dir=self.get_temp_dir()), "scenes")

    def test_does_not_depend_on_number(self):
        small, large = self.folder(), self.folder()
        scenes.write(small, num_trainval=3, num_test=2)
        scenes.write(large, num_trainval=6, num_test=4)
        self.assertLess(set(files(small)), set(files(large)))
        for image_id in ("trainval_000002", "test_000001"):
            self.assertAllEqual(
                pixels(small, image_id), pixels(large, image_id)
            )
            annotation = f"Annotations/{image_id}.xml"
            self.assertEqual(
                pathlib.Path(small, annotation).read_text(),
                pathlib.Path(large, annotation).read_text(),
            )

    def test_is_a_devkit_of_what_was_drawn(self):
        directory = self.folder()
        scenes.write(directory, num_trainval=25, num_test=15, seed=3)
        for split, number in ((TRAINVAL, 25), (TEST, 15)):
            name = scenes.SPLITS[split]
            dataset = voc.read(directory, name, classes=scenes.CLASSES)
            self.assertEqual(dataset.classes, scenes.CLASSES)
            self.assertLen(dataset.examples, number)
            for index, example in enumerate(dataset.examples):
                image, objects = scenes.draw(3, split, index)
                decoded = pixels(directory, example.image_id).astype(float)
                # JPEG loses some of the noise, and little else.
                self.assertLess(np.abs(decoded - image).mean(), 12)
                self.assertEqual(
                    [scenes.CLASSES[k] for k in example.box_classes],
                    [thing.name for thing in objects],
                )
                self.assertAllEqual(
                    example.box_difficult, [o.difficult for o in objects]
                )
                boxes = np.array([thing.box for thing in objects])
                xmin, ymin, xmax, ymax = boxes.T
                self.assertAllClose(
                    example.boxes * 128,
                    np.stack([ymin - 1, xmin - 1, ymax, xmax], axis=1),
                )

    def test_a_killed_run_leaves_nothing(self):
        directory = pathlib.Path(self.folder())
        draw = scenes.draw

        def killed(seed, split_index, index):
            self.assertFalse(directory.exists())
            if (split_index, index) == (TEST, 1):
                raise KeyboardInterrupt
            return draw(seed, split_index, index)

        with mock.patch.object(scenes, "draw", killed):
            with self.assertRaises(KeyboardInterrupt):
                scenes.write(directory, num_trainval=2, num_test=2)
        self.assertEmpty(list(directory.parent.iterdir()))

    def test_two_at_once(self):
        directory = pathlib.Path(self.folder())
        write = functools.partial(scenes.write, directory, 2, 2)
        draw = scenes.draw

        def overtaken(*numbers):
            with mock.patch.object(scenes, "draw", draw):
                if not directory.exists():
                    write()
            return draw(*numbers)

        with mock.patch.object(scenes, "draw", overtaken):
            write()
        self.assertLen(files(directory), 2 * 4 + 2)
        self.assertEqual(list(directory.parent.iterdir()), [directory])

    def test_others_may_read_it(self):
        directory = self.folder()
        scenes.write(directory, num_trainval=1, num_test=1)
        sibling = os.path.join(os.path.dirname(directory), "sibling")
        os.mkdir(sibling)
        self.assertEqual(os.stat(directory).st_mode, os.stat(sibling).st_mode)

    def test_fills_an_empty_folder(self):
        directory = self.folder()
        os.mkdir(directory)
        scenes.write(directory, num_trainval=1, num_test=1)
        self.assertLen(files(directory), 2 * 2 + 2)

    def test_never_overwrites(self):
        directory = self.folder()
        os.mkdir(directory)
        pathlib.Path(directory, "thesis.txt").write_text("mine")
        with self.assertRaisesRegex(FileExistsError, "Received: directory="):
            scenes.write(directory, num_trainval=1, num_test=1)
        self.assertEqual(files(directory), ["thesis.txt"])

    @parameterized.parameters("num_trainval", "num_test")
    def test_names_a_bad_number(self, name):
        with self.assertRaisesRegex(ValueError, f"Received: {name}=0"):
            scenes.write(self.folder(), **{name: 0})


class ReadTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        few = functools.partial(scenes.write, num_trainval=3, num_test=2)
        self.write = self.enter_context(
            mock.patch.object(scenes, "write", side_effect=few)
        )

    def test_writes_into_the_cache_once(self):
        cache = self.get_temp_dir()
        with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": cache}):
            trainval = scenes.read(None, "trainval")
            test = scenes.read(None, "test")
        self.write.assert_called_once()
        self.assertLen(trainval.examples, 3)
        self.assertLen(test.examples, 2)
        folder = os.path.join(
            cache, "multilabel_zoo", f"scenes_{scenes.VERSION}"
        )
        self.assertStartsWith(test.examples[0].image_path, folder + os.sep)

    def test_the_cache_is_in_the_home_folder(self):
        home = self.get_temp_dir()
        environment = {"HOME": home, "XDG_CACHE_HOME": ""}
        with mock.patch.dict(os.environ, environment):
            dataset = scenes.read(None, "test")
        self.assertStartsWith(
            dataset.examples[0].image_path,
            os.path.join(home, ".cache", "multilabel_zoo"),
        )

    def test_reads_a_folder_of_the_user(self):
        root = os.path.join(self.get_temp_dir(), "mine")
        for _ in range(2):
            self.assertLen(scenes.read(root, "test").examples, 2)
        self.write.assert_called_once()

    def test_names_a_bad_split(self):
        with self.assertRaisesRegex(ValueError, "Received: split=train"):
            scenes.read(None, "train")
        self.write.assert_not_called()


class StampsTest(parameterized.TestCase, tf.test.TestCase):
    def test_shape_and_balance(self):
        images, labels = scenes.stamps(40, size=32)
        self.assertEqual(images.shape, (40, 32, 32, 3))
        self.assertEqual((images.dtype, labels.dtype), (np.uint8, np.int32))
        counts = np.bincount(labels, minlength=16)
        self.assertBetween(min(counts), 2, 3)
        self.assertBetween(max(counts), 2, 3)

    def test_does_not_depend_on_number(self):
        images, labels = scenes.stamps(20, seed=2)
        few, few_labels = scenes.stamps(5, seed=2)
        self.assertAllEqual(images[:5], few)
        self.assertAllEqual(labels[:5], few_labels)
        self.assertNotAllEqual(few, scenes.stamps(5, seed=3)[0])

    def test_the_object_is_near_the_middle(self):
        magenta = Image.new("RGBA", (12, 12), (255, 0, 255, 255))
        tile = mock.Mock(return_value=magenta)
        with mock.patch.object(scenes, "_object_tile", tile):
            images, _ = scenes.stamps(48)
        red, green, blue = np.moveaxis(images.astype(int), -1, 0)
        centres = [
            np.median(np.nonzero(shown), axis=1)  # clutter may be magenta too
            for shown in np.minimum(red, blue) - green > 90
        ]
        self.assertAllClose(np.mean(centres, axis=0), (23.5, 23.5), atol=2)
        self.assertAllInRange(np.std(centres, axis=0), 1.5, 6)

    @parameterized.parameters(
        ({"num_stamps": 0}, "num_stamps=0"),
        ({"num_stamps": 1, "size": 23}, "size=23"),
        ({"num_stamps": 1, "size": 129}, "size=129"),
    )
    def test_names_a_bad_argument(self, arguments, received):
        with self.assertRaisesRegex(ValueError, f"Received: {received}"):
            scenes.stamps(**arguments)
