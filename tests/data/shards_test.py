import contextlib
import dataclasses
import hashlib
import io
import json
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image, ImageOps

from recipes import data as recipe_data
from recipes import steps
from tests.data import trees
from tests.recipes.command import run
from zoo import feature_cache, runs
from zoo.data import (
    encoded,
    manifest,
    nus_wide,
    pipeline,
    proposals,
    scenes,
    shards,
    sources,
    voc,
)
from zoo.data.example import Dataset, Example
from zoo.data.shards import __main__ as command
from zoo.data.shards import writing

VOC_MINI = pathlib.Path(__file__).parents[3] / "shared/data/voc_mini/VOCdevkit"
SMALL = 0.003  # megabytes: a few images a shard


def own_photos(root):
    """Writes a manifest with all that one may have; gives its path."""
    root = pathlib.Path(root)
    root.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for i in range(12):
        pixels = rng.integers(256, size=(20, 30, 3), dtype="uint8")
        if i in (5, 7):  # copies
            pixels[:] = 99
        name = f"{i}.{('jpg', 'png', 'webp')[i % 3 if i < 5 else 0]}"
        Image.fromarray(pixels).save(root / name)
        split = ("train", "train", "val", "test")[i % 4]
        if i in (5, 7):
            split = "train"
        box = "cat xmin=0.1 ymin=0.2 xmax=0.55 ymax=0.9"
        region = f"xmin=0.{i % 4} ymin=0.2 xmax=0.5 ymax=0.9"
        lines.append(
            {
                "image": name,
                "labels": ["cat"] if i % 2 else ["cat", "sofa"],
                "unknown": ["dog"] if i % 3 else [],
                "split": split,
                "boxes": box,
                "regions": [] if i == 4 else f"{region}|{region}",
            }
        )
    path = root / "photos.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def few_scenes(root):
    scenes.write(root, num_trainval=6, num_test=4)


TREES = {
    "scenes": few_scenes,
    "voc2007": trees.voc2007,
    "voc2012": trees.voc2012,
    "coco2014": trees.coco2014,
    "wider": trees.wider_attribute,
    "nus_wide": trees.nus_wide,
    "nus_wide_with_unlabelled": trees.nus_wide,
    "nus_wide_150k": trees.nus_wide,
    "manifest": own_photos,
}


def quietly(function, *arguments, **options):
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        return function(*arguments, **options)


def contents(directory):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
        if path.name != runs.LOCK
    }


class ShardsTestCase(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.directory = self.root / "shards"

    def write_tree(self, dataset):
        """Writes a small data set, and gives its `--data_dir`."""
        made = TREES[dataset](self.root / "files")
        return made if dataset == "manifest" else self.root / "files"

    def command(self, dataset, data_dir, *flags):
        return run(
            *(command.main, "--dataset", dataset, "--data_dir", data_dir),
            *("--output_dir", self.directory, *flags),
        )

    def read(self, dataset, data_dir, split):
        return quietly(sources.find(dataset, data_dir).read, data_dir, split)


class WrittenTestCase(ShardsTestCase):
    """Has the small data sets in files and in shards, written once."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        cls.folders = {}
        # There are fewer images than it wants to train on.
        small = dataclasses.replace(
            sources.DATASETS["nus_wide_150k"],
            read=lambda root, split: nus_wide.read(
                root, split, protocol="seed_split", num_training=9
            ),
        )
        cls.enterClassContext(
            mock.patch.dict(sources.DATASETS, {"nus_wide_150k": small})
        )

    def written(self, dataset="voc2007"):
        """Gives the `--data_dir` of the files and that of the shards."""
        if dataset not in self.folders:
            self.root = self.home / dataset
            files, self.directory = self.write_tree(dataset), self.root / "s"
            _, err, code = self.command(
                dataset, files, "--shard_megabytes", SMALL
            )
            self.assertEqual(code, 0, err)
            self.folders[dataset] = files, self.directory
        return self.folders[dataset]

    def read_both(self, dataset="voc2007"):
        """Gives the training split from files and from shards."""
        split = sources.DATASETS[dataset].train_split
        return [
            self.read(dataset, folder, split)
            for folder in self.written(dataset)
        ]


class SameTest(WrittenTestCase):
    @parameterized.parameters(*TREES)
    def test_examples(self, dataset):
        files, folder = self.written(dataset)
        source = sources.find(dataset, files)
        self.assertEqual(
            [getattr(source, f"{x}_split") for x in ("validation", "test")],
            [
                getattr(sources.find(dataset, folder), f"{x}_split")
                for x in ("validation", "test")
            ],
        )
        splits = {source.train_split, source.test_split, "val"} & set(
            shards.splits(folder)
        )
        self.assertLen(splits, len(shards.splits(folder)))
        for split in splits:
            from_files = self.read(dataset, files, split)
            from_shards = self.read(dataset, folder, split)
            self.assertEqual(from_shards.classes, from_files.classes)
            self.assertEqual(from_shards.num_missing, 0)
            self.assertEqual(
                steps.digest(from_shards.examples),
                steps.digest(from_files.examples),
            )
            for ours, theirs in zip(
                from_shards.examples, from_files.examples, strict=True
            ):
                self.assertEqual(ours.image_id, theirs.image_id)
                self.assertEqual(ours.size, theirs.size)
                self.assertEqual(ours.crop is None, theirs.crop is None)
                self.assertAllClose(ours.crop or 0, theirs.crop or 0, 1e-7)
                for name in (
                    *("targets", "boxes", "box_classes", "box_difficult"),
                    "regions",
                ):
                    if getattr(theirs, name) is None:
                        self.assertIsNone(getattr(ours, name))
                        continue
                    self.assertAllEqual(
                        getattr(ours, name), getattr(theirs, name)
                    )
                    self.assertDTypeEqual(
                        getattr(ours, name), getattr(theirs, name).dtype
                    )
                self.assertEqual(
                    encoded.read_bytes(*ours.location),
                    pathlib.Path(theirs.image_path).read_bytes(),
                )
                self.assertIsNotNone(ours.span)
            # The same examples share an image.
            numbers = []
            for data in (from_shards, from_files):
                locations = [example.location for example in data.examples]
                numbers.append([locations.index(x) for x in locations])
            self.assertEqual(*numbers)

    def test_an_image_of_several_people_is_stored_once(self):
        _, folder = self.written("wider")
        again = 0
        for path in folder.glob("*.tfrecord"):
            before = None
            for record in tf.data.TFRecordDataset(str(path)):
                features = tf.train.Example.FromString(record.numpy()).features
                image, name = (
                    features.feature[key].bytes_list.value[0]
                    for key in ("image", "image_file")
                )
                self.assertEqual(image == b"", name == before)
                again += name == before
                before = name
        self.assertGreater(again, 0)

    def test_room_is_for_an_image_of_several_people_once(self):
        files = self.write_tree("wider")
        data = {"x": sources.find("wider", files).read(files, "trainval")}
        locations = {example.location for example in data["x"].examples}
        self.assertLess(len(locations), len(data["x"].examples))
        total = sum(pathlib.Path(path).stat().st_size for path, _ in locations)
        usage = mock.Mock(free=total)
        with mock.patch.object(
            writing.shutil, "disk_usage", return_value=usage
        ):
            index = quietly(
                shards.write,
                *(self.directory, "wider", data),
                shard_megabytes=total / 1e6,
            )
        self.assertLen(index["splits"]["x"]["shards"], 1)

    def check_batches(self, from_files, from_shards, **options):
        """Compares an epoch of training and a pass of evaluation."""
        training, evaluation = [], []
        for data in (from_files, from_shards):
            batches = pipeline.training_batches(
                *(data.examples, 32, 3), epochs=1, seed=3, **options
            )
            training.append(list(batches.as_numpy_iterator()))
            batches = pipeline.evaluation_batches(data.examples, 32, 3)
            evaluation.append(list(batches.as_numpy_iterator()))
        for ours, theirs in (training, evaluation):
            self.assertNotEmpty(ours)
            tf.nest.map_structure(self.assertAllEqual, ours, theirs)

    def test_batches_with_regions(self):
        self.check_batches(*self.read_both("manifest"), region_targets=True)

    @parameterized.parameters("voc2007", "wider")
    @pytest.mark.heavy
    def test_batches(self, dataset):
        self.check_batches(*self.read_both(dataset), shift=0.1)

    @pytest.mark.heavy
    def test_batches_of_real_photos(self):
        if not VOC_MINI.is_dir():
            self.skipTest("there is no ../shared/data/voc_mini")
        data = quietly(voc.read, VOC_MINI, "train")
        data = dataclasses.replace(data, examples=data.examples[:9])
        quietly(shards.write, self.directory, "voc2012", {"train": data})
        self.check_batches(data, quietly(shards.read, self.directory, "train"))

    def test_files_and_shards_together(self):
        from_files, from_shards = self.read_both()
        mixed = dataclasses.replace(
            from_files,
            examples=from_files.examples[:3] + from_shards.examples[3:],
        )
        batches = [
            list(pipeline.evaluation_batches(data.examples, 32, 8))
            for data in (from_files, mixed)
        ]
        tf.nest.map_structure(self.assertAllEqual, *batches)

    @parameterized.parameters(("wider", False), ("manifest", True))
    def test_holds_out_the_same(self, dataset, look_for_copies):
        held_out = []
        for data in self.read_both(dataset):
            parts = quietly(
                recipe_data._hold_out, data.examples, 0.4, look_for_copies
            )
            held_out.append([[e.image_id for e in part] for part in parts])
        self.assertEqual(*held_out)
        if look_for_copies:
            copies = [{"5", "7"} <= set(part) for part in held_out[0]]
            self.assertEqual(sum(copies), 1)

    def test_edge_boxes(self):
        pytest.importorskip("cv2")
        found = [
            quietly(
                proposals.propose,
                data.examples,
                num_regions=5,
                cache_dir=self.root / "cache",
            )
            for data in self.read_both("wider")
        ]
        for ours, theirs in zip(*found, strict=True):
            self.assertAllEqual(ours.regions, theirs.regions)

    def test_cached_features(self):
        from_files, from_shards = self.read_both()
        digests = {
            feature_cache.digest_of_images(examples)
            for examples in (
                from_files.examples,
                from_shards.examples,
                from_shards.examples[::-1],
            )
        }
        self.assertLen(digests, 3)

    def test_need_no_check(self):
        _, from_shards = self.read_both()
        with mock.patch.object(pipeline.encoded, "read_bytes") as read:
            self.assertEqual(pipeline.unreadable(from_shards.examples), {})
        read.assert_not_called()

    def test_other_tools_read_them(self):
        _, folder = self.written()
        index = json.loads((folder / "shards.json").read_text())
        paths = [
            str(folder / entry["file"])
            for entry in index["splits"]["trainval"]["shards"]
        ]
        features = {
            "image": tf.io.FixedLenFeature((), "string"),
            "image_id": tf.io.FixedLenFeature((), "string"),
            "targets": tf.io.FixedLenFeature((20,), "float32"),
            "boxes": tf.io.RaggedFeature("float32"),
        }
        data, _ = self.read_both()
        dataset = tf.data.TFRecordDataset(paths)
        for record, example in zip(dataset, data.examples, strict=True):
            found = tf.io.parse_single_example(record, features)
            self.assertEqual(found["image_id"], example.image_id)
            self.assertAllEqual(found["targets"], example.targets)
            self.assertAllEqual(found["boxes"], example.boxes.ravel())
            self.assertEqual(tf.io.decode_jpeg(found["image"]).shape[2], 3)

    def test_from_shards_to_shards(self):
        files, folder = self.written()
        self.directory = self.root / "again"
        _, err, code = self.command("voc2007", folder)
        self.assertEqual(code, 0, err)
        ours = self.read("voc2007", self.directory, "test")
        theirs = self.read("voc2007", files, "test")
        self.assertEqual(
            [encoded.read_bytes(*e.location) for e in ours.examples],
            [encoded.read_bytes(*e.location) for e in theirs.examples],
        )

    def test_smaller_images_stay_known_as_such(self):
        files = self.write_tree("voc2007")
        source = sources.find("voc2007", files)
        splits = ("trainval", "test")
        data = {split: source.read(files, split) for split in splits}
        self.assertIsNone(data["test"].largest_side)
        for side, more in ((20, 20), (None, 20), (30, 20), (10, 10)):
            folder = self.root / f"{side}"
            quietly(shards.write, folder, "voc2007", data, side)
            data = {x: quietly(shards.read, folder, x) for x in splits}
            self.assertEqual(data["test"].largest_side, more)
        self.assertEqual(
            recipe_data.name_of("voc2007", "test", data["test"]),
            "voc2007 test (resized to at most 10 pixels a side)",
        )
        found = quietly(recipe_data.read_data, "voc2007", folder, 0.0)
        self.assertEqual(found.largest_side, 10)


class ReadTest(WrittenTestCase):
    def setUp(self):
        super().setUp()
        shutil.copytree(self.written()[1], self.root / "copy")
        self.directory = self.root / "copy"
        self.paths = sorted(self.directory.glob("trainval-*"))
        self.assertGreater(len(self.paths), 2)

    def refused(self, message, kind=ValueError, split="trainval"):
        with self.assertRaisesRegex(kind, message):
            self.read("voc2007", self.directory, split)

    def test_a_missing_shard(self):
        self.paths[1].unlink()
        self.refused(
            rf"^1 of {len(self.paths)} shards of trainval cannot .*"
            rf"{self.paths[1]}: No such file"
        )
        self.read("voc2007", self.directory, "test")

    def test_a_truncated_shard(self):
        whole = self.paths[2].read_bytes()
        self.paths[2].write_bytes(whole[:-1])
        self.refused(
            f"{self.paths[2]}: expected {len(whole)} bytes, "
            f"found {len(whole) - 1}"
        )

    @parameterized.parameters(3, 500, -1)
    def test_a_flipped_bit(self, place):
        content = bytearray(self.paths[0].read_bytes())
        content[place] ^= 1
        self.paths[0].write_bytes(content)
        self.refused(
            f"{self.paths[0]}: expected the sha256 [0-9a-f]{{64}}, found "
        )

    def test_all_bad_shards_are_named(self):
        for path in self.paths[:2]:
            path.write_bytes(b"")
        self.refused(f"{self.paths[0]}: .*; {self.paths[1]}: ")

    def test_another_split(self):
        self.refused(
            r"have the splits \['trainval', 'test'\]. Received: split='val'",
            split="val",
        )

    def test_another_data_set(self):
        with self.assertRaisesRegex(
            ValueError, "of the data set 'voc2007'. Received: dataset='voc2012'"
        ):
            sources.find("voc2012", self.directory)

    @parameterized.parameters(
        ("not JSON", "shards.json is not an index of shards. JSONDecodeError"),
        ("[]", "shards.json is not an index of shards. TypeError"),
        ('{"format": 9}', r"'format' must be one of \(1, 2\).* format=9"),
    )
    def test_a_bad_index(self, text, message):
        (self.directory / "shards.json").write_text(text)
        self.refused(message)

    def test_the_format_before(self):
        path = self.directory / "shards.json"
        index = json.loads(path.read_text())
        path.write_text(json.dumps(index | {"format": 1}))
        found = self.read("voc2007", self.directory, "test")
        self.assertNotEmpty(found.examples)

    def test_no_index(self):
        (self.directory / "shards.json").unlink()
        self.assertFalse(shards.are_in(self.directory))
        self.assertFalse(shards.are_in(None))
        with self.assertRaisesRegex(FileNotFoundError, "no shards.json"):
            shards.read(self.directory, "trainval")

    def test_what_changes_later_is_an_error(self):
        data = self.read("voc2007", self.directory, "trainval")
        # Every shard has a record at this place.
        content = bytearray(self.paths[1].read_bytes())
        content[500] ^= 1
        self.paths[1].write_bytes(content)
        batches = pipeline.evaluation_batches(data.examples, 32, 4)
        with self.assertRaises(tf.errors.DataLossError):
            list(batches)
        with (
            self.assertRaisesRegex(
                OSError,
                f"damaged.*--resume.* Received: {self.paths[1]}: DataLossError",
            ),
            pipeline.named_if_unreadable(data.examples),
        ):
            list(batches)
        self.paths[0].write_bytes(b"")
        path, span = data.examples[0].location
        with self.assertRaisesRegex(ValueError, rf"{path} .*span=\({span[0]}"):
            encoded.read_bytes(path, span)
        self.paths[0].unlink()
        with self.assertRaises(FileNotFoundError) as raised:
            encoded.read_bytes(path, span)
        self.assertEqual(raised.exception.filename, path)


class OwnDataTest(WrittenTestCase):
    def test_classes_of_a_trained_model(self):
        files, folder = self.written("manifest")
        classes = ("tree", "sofa", "dog", "cat")
        ours = quietly(shards.read, folder, "train", classes)
        theirs = manifest.read(files, "train", classes)
        self.assertEqual(ours.classes, classes)
        for shard, file in zip(ours.examples, theirs.examples, strict=True):
            self.assertAllEqual(shard.targets, file.targets)
            self.assertAllEqual(shard.box_classes, file.box_classes)
        with self.assertRaisesRegex(
            ValueError, r"of the 2 classes given. Received: \['dog', 'sofa'\]"
        ):
            quietly(shards.read, folder, "train", ("cat", "tree"))

    def test_reports_before_writing(self):
        out, _, _ = self.command("manifest", self.write_tree("manifest"))
        self.assertLess(out.index("same image more than once"), out.index("Wr"))


class LargestSideTest(ShardsTestCase):
    def images(self, largest_side):
        """Writes images of several kinds, and gives them, by number, after."""
        rng = np.random.default_rng(0)
        noise = rng.integers(256, size=(9, 12, 3), dtype="uint8")
        picture = Image.fromarray(noise).resize((120, 90), Image.BICUBIC)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by a quarter
        picture.save(self.root / "0.jpg")
        picture.save(self.root / "1.png")
        picture.save(self.root / "2.webp", lossless=True)
        picture.save(self.root / "3.jpg", exif=exif)
        picture.resize((60, 45)).save(self.root / "4.jpg")
        picture.resize((200, 1)).save(self.root / "5.png")
        self.names = ("0.jpg", "1.png", "2.webp", "3.jpg", "4.jpg", "5.png")
        example = example_without_image()
        examples = [
            dataclasses.replace(
                example,
                image_id=name,
                image_path=str(self.root / name),
                size=None if name == "2.webp" else (90, 120),
            )
            for name in self.names
        ]
        data = Dataset(examples, ("a", "b"))
        quietly(shards.write, self.directory, "any", {"x": data}, largest_side)
        return quietly(shards.read, self.directory, "x").examples

    def test_resizes_the_larger_ones(self):
        found = self.images(largest_side=60)
        sizes = [(45, 60), (45, 60), None, (60, 45), (90, 120), (1, 60)]
        self.assertEqual([example.size for example in found], sizes)
        for example, name in zip(found, self.names, strict=True):
            data = encoded.read_bytes(*example.location)
            before = (self.root / name).read_bytes()
            if name == "4.jpg":  # small enough
                self.assertEqual(data, before)
                continue
            image = Image.open(io.BytesIO(data))
            self.assertEqual(max(image.size), 60)
            kind = "PNG" if name.endswith("png") else "JPEG"
            self.assertEqual(image.format, kind)
            self.assertAllEqual(example.boxes, [[0.25, 0.25, 0.5, 1.0]])
            upright = ImageOps.exif_transpose(Image.open(self.root / name))
            expected = upright.resize(image.size, Image.LANCZOS)
            self.assertAllClose(
                np.asarray(image, "float32").mean(axis=(0, 1)),
                np.asarray(expected, "float32").mean(axis=(0, 1)),
                atol=2,
            )
            difference = np.abs(
                np.asarray(image, "float32") - np.asarray(expected, "float32")
            )
            self.assertLess(difference.mean(), 6 * (kind == "JPEG") + 1e-6)

    @parameterized.parameters(None, 200)
    def test_keeps_what_is_small_enough(self, largest_side):
        for example, name in zip(
            self.images(largest_side), self.names, strict=True
        ):
            self.assertEqual(
                encoded.read_bytes(*example.location),
                (self.root / name).read_bytes(),
            )
            self.assertEqual(
                example.size, None if name == "2.webp" else (90, 120)
            )


def example_without_image():
    return Example(
        image_id="",
        image_path="",
        targets=np.array([1, -1], "float32"),
        boxes=np.array([[0.25, 0.25, 0.5, 1.0]], "float32"),
        box_classes=np.array([0], "int32"),
        box_difficult=np.array([False]),
    )


class BadImagesTest(ShardsTestCase):
    def spoil(self, dataset, *names):
        files = self.write_tree(dataset)
        for i, name in enumerate(names):
            [path] = files.rglob(name)
            path.unlink()
            if i:
                path.write_bytes(b"GIF89a and more")
        return files

    def test_are_left_out_and_counted(self):
        files = self.spoil("voc2007", "010001.jpg", "010004.jpg")
        _, err, code = self.command(
            "voc2007", files, "--shard_megabytes", SMALL
        )
        self.assertEqual(code, 0)
        self.assertIn("2 examples of test are left out", err)
        gif = "a GIF; JPEG, PNG and WebP are taken"
        reasons = [
            "010001.jpg: there is no such file",
            f"010004.jpg: {gif}",
        ]
        for reason in reasons:
            self.assertIn(reason, err)
        index = json.loads((self.directory / "shards.json").read_text())
        self.assertEqual(
            index["splits"]["test"]["left_out"],
            [
                {"image_id": "010001", "reason": reasons[0]},
                {"image_id": "010004", "reason": reasons[1]},
            ],
        )
        self.assertEqual(index["splits"]["trainval"]["left_out"], [])
        source = sources.find("voc2007", self.directory)
        data = quietly(
            recipe_data.read_test, source, self.directory, "test", None
        )
        self.assertLen(data.examples, 6)
        self.assertEqual(
            recipe_data.name_of("voc2007", "test", data),
            "voc2007 test (missing images: 2)",
        )
        with contextlib.redirect_stderr(io.StringIO()) as err:
            quiet = io.StringIO()
            with contextlib.redirect_stdout(quiet):
                shards.read(self.directory, "test")
        self.assertIn("2 examples of test were left out", err.getvalue())

    def test_count_beside_those_that_the_reader_left_out(self):
        files = self.spoil("nus_wide", "0000_4000.jpg", "0001_4001.jpg")
        quietly(self.command, "nus_wide", files)
        data = self.read("nus_wide", self.directory, "test")
        self.assertEqual(data.num_missing, 2)

    def test_all_examples_of_a_bad_image(self):
        files = self.write_tree("wider")
        [path] = [p for p in files.rglob("0002.jpg") if "test" in str(p)]
        path.write_bytes(b"")
        self.command("wider", files)
        before = len(self.read("wider", files, "test").examples)
        data = self.read("wider", self.directory, "test")
        self.assertLen(data.examples, before - 3)
        self.assertEqual(data.num_missing, 3)

    def test_no_image_at_all(self):
        files = self.write_tree("voc2007")
        for path in files.rglob("JPEGImages/00*"):
            path.write_bytes(b"")
        _, err, code = self.command("voc2007", files)
        self.assertEqual(code, 1)
        self.assertIn("No image of trainval can be decoded: 000000.jpg", err)
        self.assertFalse((self.directory / "shards.json").exists())


class WriteTest(ShardsTestCase):
    def setUp(self):
        super().setUp()
        # Nothing here is about pixels.
        self.enter_context(
            mock.patch.object(
                writing.images, "fitted", lambda data, side: (data, None)
            )
        )

    def write_voc(self, files, directory=None, **options):
        splits = {
            split: voc.read(files, split, 2007)
            for split in ("trainval", "test")
        }
        options = {"shard_megabytes": SMALL, **options}
        return quietly(
            shards.write,
            directory or self.directory,
            "voc2007",
            splits,
            **options,
        )

    def stop_after(self, files, count):
        """Writes some shards, until the disk is full."""
        write_shard, written = writing._write_shard, []

        def stopping(path, *arguments):
            if len(written) == count:
                raise OSError("disk full")
            written.append(path.name)
            return write_shard(path, *arguments)

        with (
            mock.patch.object(writing, "_write_shard", stopping),
            self.assertRaisesRegex(OSError, "disk full"),
        ):
            self.write_voc(files, num_workers=1)
        return written

    def test_goes_on(self):
        files = self.write_tree("voc2007")
        self.write_voc(files, self.root / "whole")
        written = self.stop_after(files, 2)
        self.assertEqual(
            sorted(contents(self.directory)),
            [*written, "unfinished.json"],
        )
        with self.assertRaisesRegex(FileNotFoundError, "are not finished"):
            sources.find("voc2007", self.directory)
        times = [(self.directory / name).stat().st_mtime_ns for name in written]
        (self.directory / written[1]).write_bytes(b"damaged")
        (self.directory / ".writing-left").write_bytes(b"killed")
        self.write_voc(files)
        found = contents(self.directory)
        del found[".writing-left"]
        self.assertEqual(found, contents(self.root / "whole"))
        self.assertEqual(
            (self.directory / written[0]).stat().st_mtime_ns, times[0]
        )

    def test_one_process_at_a_time(self):
        files = self.write_tree("voc2007")
        self.stop_after(files, 1)
        before = contents(self.directory)
        with (
            runs.claim(self.directory),
            self.assertRaisesRegex(FileExistsError, "Another process is writ"),
        ):
            self.write_voc(files)
        self.assertEqual(contents(self.directory), before)
        self.write_voc(files)

    def test_does_not_depend_on_the_number_of_threads(self):
        files = self.write_tree("voc2007")
        for workers in (1, 3):
            self.write_voc(files, self.root / f"{workers}", num_workers=workers)
        self.assertEqual(contents(self.root / "1"), contents(self.root / "3"))

    def test_other_options_are_refused(self):
        files = self.write_tree("voc2007")
        self.stop_after(files, 1)
        before = contents(self.directory)
        with self.assertRaisesRegex(
            ValueError, "Received: largest_side: None then, 30 now$"
        ):
            self.write_voc(files, largest_side=30)
        self.assertEqual(contents(self.directory), before)

    def test_a_bad_unfinished_index_is_named(self):
        files = self.write_tree("voc2007")
        self.stop_after(files, 1)
        (self.directory / "unfinished.json").write_text("[]")
        with self.assertRaisesRegex(
            ValueError, "unfinished.json is not an index of unfinished shards"
        ):
            self.write_voc(files)

    def test_other_data_is_refused(self):
        files = self.write_tree("voc2007")
        self.stop_after(files, 1)
        [path] = files.rglob("000003.xml")
        path.write_text(path.read_text().replace("<xmin>1", "<xmin>"))
        with self.assertRaisesRegex(
            ValueError, "Received: examples_sha256 of trainval: '"
        ):
            self.write_voc(files)

    def test_a_finished_folder_is_not_overwritten(self):
        files = self.write_tree("voc2007")
        self.write_voc(files)
        before = contents(self.directory)
        with self.assertRaisesRegex(FileExistsError, "never overwritten"):
            self.write_voc(files)
        self.assertEqual(contents(self.directory), before)

    def test_another_folder_is_not_written_to(self):
        self.directory.mkdir()
        (self.directory / "mine.txt").write_text("mine")
        with self.assertRaisesRegex(FileExistsError, "new or empty folder"):
            self.write_voc(self.write_tree("voc2007"))

    def test_too_little_room(self):
        files = self.write_tree("voc2007")
        usage = mock.Mock(free=1000)
        with (
            mock.patch.object(writing.shutil, "disk_usage", return_value=usage),
            self.assertRaisesRegex(OSError, "Received: 0.0 GB free"),
        ):
            self.write_voc(files)

    def test_a_file_that_cannot_grow(self):
        files = self.write_tree("voc2007")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
        try:
            with self.assertRaisesRegex(
                OSError, r"\.tfrecord cannot be written: .*arge"
            ):
                self.write_voc(files, shard_megabytes=1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        self.assertEqual(sorted(contents(self.directory)), ["unfinished.json"])
        self.write_voc(files, shard_megabytes=1)

    @parameterized.parameters(
        ({"largest_side": 0}, "Received: largest_side=0"),
        ({"shard_megabytes": 0}, "Received: shard_megabytes=0"),
        ({"shard_megabytes": float("nan")}, "Received: shard_megabytes=nan"),
    )
    def test_refuses(self, options, message):
        files = self.write_tree("voc2007")
        with self.assertRaisesRegex(ValueError, message):
            self.write_voc(files, **options)
        self.assertFalse(self.directory.exists())

    def test_refuses_nothing(self):
        with self.assertRaisesRegex(ValueError, r"Received: \['x'\]"):
            shards.write(self.directory, "any", {"x": Dataset([], ("a",))})

    def test_refuses_other_classes(self):
        data = Dataset([example_without_image()], ("a", "b"))
        other = dataclasses.replace(data, classes=("b", "a"))
        with self.assertRaisesRegex(ValueError, "the same classes"):
            shards.write(self.directory, "any", {"x": data, "y": other})

    def test_regions_are_found_once_for_all(self):
        pytest.importorskip("cv2")
        files = self.write_tree("voc2012")
        cache = mock.patch.dict("os.environ", XDG_CACHE_HOME=str(self.root))
        with cache:
            _, err, code = self.command("voc2012", files, "--edge_boxes", 5)
        self.assertEqual(code, 0, err)
        examples = quietly(shards.read, self.directory, "trainval").examples
        with cache:
            expected = quietly(
                proposals.propose,
                voc.read(files, "trainval", 2012).examples,
                num_regions=5,
            )
        for found in (examples, proposals.propose(examples, "own")):
            for ours, theirs in zip(found, expected, strict=True):
                self.assertAllEqual(ours.regions, theirs.regions)
        self.assertNotEmpty(examples[0].regions)

    def test_command(self):
        files = self.write_tree("voc2012")
        _, err, code = self.command("voc2012", files, "--splits", "val", "no")
        self.assertEqual(code, 1)
        self.assertIn("Received: split='no'", err)
        out, _, code = self.command("voc2012", files, "--splits", "val", "test")
        self.assertEqual(code, 0)
        self.assertIn("val: 8 examples in 1 shards", out)
        self.assertIn(f"--data_dir {self.directory}", out)
        _, err, code = run(
            *(command.main, "--dataset", "voc2007"),
            *("--output_dir", self.directory),
        )
        self.assertEqual(code, 2)
        self.assertIn("needs --data_dir", err)


@pytest.mark.heavy
class KilledTest(ShardsTestCase):
    def test_goes_on(self):
        files = self.root / "files"
        trees.voc2007(files, num_images=300, size=200)
        flags = ("--shard_megabytes", "0.05", "--largest_side", "150")
        begin = [
            *(sys.executable, "-m", "zoo.data.shards", "--dataset", "voc2007"),
            *("--data_dir", str(files), "--output_dir", str(self.directory)),
            *flags,
        ]
        process = subprocess.Popen(begin, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            if len(list(self.directory.glob("trainval-*"))) > 2:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.assertFalse((self.directory / "shards.json").exists())
        left = len(list(self.directory.glob("*.tfrecord")))
        self.assertGreater(left, 2)
        subprocess.run(begin, check=True, stdout=subprocess.DEVNULL)
        killed, self.directory = self.directory, self.root / "whole"
        self.command("voc2007", files, *flags)
        found = contents(killed)
        self.assertGreater(len(found), left + 1)
        self.assertEqual(found, contents(self.directory))
