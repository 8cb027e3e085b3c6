import contextlib
import csv
import io
import json
import pathlib
import shutil
import tempfile
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from recipes import data as recipe_data
from recipes import (
    evaluate,
    predict,
    steps,
    train_baseline,
    train_csra,
    train_fan,
)
from tests.data import trees
from tests.recipes.command import run
from zoo import training
from zoo.data import pipeline, scenes
from zoo.data.shards import __main__ as write_shards

SHORT = ("--image_size", 64, "--batch_size", 4, "--epochs", 1)


def nus_wide_with_a_hole(root):
    """Writes NUS-WIDE without the first test image; gives what is left."""
    targets = trees.nus_wide(root)
    (root / "Flickr/actor/0000_4000.jpg").unlink()
    return {**targets, "test": targets["test"][1:]}


BENCHMARKS = (
    ("voc2012", trees.voc2012, "voc2012 trainval, TRAINING images"),
    ("coco2014", trees.coco2014, "coco2014 val2014"),
    ("wider", trees.wider_attribute, "wider test"),
    ("nus_wide", nus_wide_with_a_hole, "nus_wide test (missing images: 1)"),
)


class BenchmarksTest(parameterized.TestCase, tf.test.TestCase):
    def expected(self, dataset, images, targets):
        targets = targets[images.split(" ")[1].rstrip(",")]
        # Images without a label are left out.
        of_labels = dataset in ("coco2014", "nus_wide")
        return targets[targets.any(axis=1)] if of_labels else targets

    @parameterized.parameters(*BENCHMARKS)
    def test_reads(self, dataset, write, images):
        root = pathlib.Path(self.get_temp_dir())
        targets = write(root / "data")
        data = recipe_data.read_data(dataset, root / "data", 0)
        self.assertEqual(data.test_name, images)
        self.assertEqual(data.num_missing, int(dataset == "nus_wide"))
        found = [example.targets for example in data.test]
        self.assertAllEqual(found, self.expected(dataset, images, targets))

    @pytest.mark.heavy
    def test_fan_on_what_is_there_of_nus_wide(self):
        data_dir, directory = self.check_run(
            "fan", train_fan.main, *BENCHMARKS[3], "--dim", 16
        )
        test = recipe_data.read_data("nus_wide", data_dir, 0).test
        photos = [tf.io.read_file(example.image_path) for example in test]
        version = tf.saved_model.load(directory / "export/fan/1")
        serve = version.signatures["serving_default"]
        answer = serve(image_bytes=tf.stack(photos))
        stored = np.load(directory / "predictions.npz")
        self.assertAllClose(
            answer["probabilities"], stored["probabilities"], atol=1e-5
        )

    @pytest.mark.by_hand
    def test_csra_on_the_people_of_wider(self):
        self.check_run("csra", train_csra.main, *BENCHMARKS[2])

    def check_run(self, method, main, dataset, write, images, *flags):
        root = pathlib.Path(self.get_temp_dir())
        targets = write(root / "data")
        directory = root / "run"
        out, err, code = run(
            *(main, "--dataset", dataset, *SHORT, *flags),
            *("--data_dir", root / "data", "--output_dir", directory),
        )
        self.assertEqual(code, 0, err)
        self.assertIn(f"{method} on {images}", out)
        stored = np.load(directory / "predictions.npz")
        expected = self.expected(dataset, images, targets)
        self.assertAllEqual(stored["targets"], expected)
        self.assertEqual(stored["probabilities"].shape, expected.shape)
        report = json.loads((directory / "metrics.json").read_text())
        self.assertEqual(report["images"], images)
        self.assertEqual(report["num_missing"], int(dataset == "nus_wide"))
        self.assertNotEmpty(list((directory / "pictures").glob("*.png")))
        return root / "data", directory


@pytest.mark.heavy
class OwnDataTest(tf.test.TestCase):
    """A CSV of drawn photos: from the file to labels, by the recipes."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        scenes.write(cls.home / "scenes", num_trainval=30, num_test=6)
        cls.csv = cls.home / "photos.csv"
        rows = []
        for split, name in (("trainval", "train"), ("test", "test")):
            data = scenes.read(cls.home / "scenes", split)
            rows += [(e.image_path, e.targets, name) for e in data.examples]
        rows = [
            (*row[:2], "val") if i < 6 else row for i, row in enumerate(rows)
        ]
        cls.write(cls.csv, rows)
        cls.no_splits = cls.home / "no_splits.csv"
        cls.write(cls.no_splits, [(*row[:2], "") for row in rows])
        broken = cls.home / "scenes/JPEGImages/trainval_000009.jpg"
        broken.write_bytes(broken.read_bytes()[:500])
        cls.directory = cls.home / "run"
        cls.printed = cls.train(cls.csv, cls.directory)

    @classmethod
    def write(cls, path, rows):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            # Regions are for other methods.
            writer.writerow(("image", "labels", "split", "regions"))
            region = "xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9"
            for image, targets, split in rows:
                image = pathlib.Path(image).relative_to(cls.home)
                labels = [scenes.CLASSES[k] for k in np.flatnonzero(targets)]
                writer.writerow((image, "|".join(labels), split, region))

    @classmethod
    def train(cls, path, directory, *flags):
        return run(
            *(train_baseline.main, "--dataset", "manifest", "--data_dir", path),
            *(*SHORT, "--output_dir", directory, *flags),
        )

    def test_takes_the_files_own_splits(self):
        out, err, code = self.printed
        self.assertEqual(code, 0, err)
        self.assertIn("23 training and 6 validation images", out)
        self.assertIn("gap on manifest test", out)
        self.assertIn("trainval_000009.jpg", err)

    def test_reports_on_the_data_first(self):
        out, _, _ = self.printed
        self.assertLess(out.index("kite"), out.index("23 training"))

    def test_without_splits_the_held_out_images_are_measured(self):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            data = recipe_data.read_data("manifest", self.no_splits, 0.2)
        self.assertIn("28 training and 7 validation images", out.getvalue())
        self.assertIn(
            "VALIDATION images, which chose the epoch", data.test_name
        )
        self.assertIs(data.test, data.validation)

    def test_evaluate_knows_the_splits_and_the_classes(self):
        out, err, code = run(evaluate.main, self.directory)
        self.assertEqual(code, 0, err)
        self.assertIn("gap on manifest test", out)
        other = self.home / "other.csv"
        image = "scenes/JPEGImages/test_000000.jpg"
        other.write_text(f"image,labels\n{image},star\n{image[:-5]}1.jpg,sun\n")
        flags = ("--data_dir", other, "--split", "train")
        out, err, code = run(evaluate.main, self.directory, *flags)
        self.assertEqual(code, 0, err)
        self.assertIn("over 2 images", out)
        self.assertNotIn("TRAINING", out)
        other.write_text(f"image,labels\n{image},comet\n")
        out, err, code = run(evaluate.main, self.directory, *flags)
        self.assertEqual(code, 1)
        self.assertIn("other.csv:2", err)
        self.assertIn("'comet'", err)

    def test_shards_are_the_same_data(self):
        found = []
        shards_dir = self.home / "shards"
        _, err, code = run(
            *(write_shards.main, "--dataset", "manifest"),
            *("--data_dir", self.csv, "--output_dir", shards_dir),
        )
        self.assertEqual(code, 0, err)
        for data_dir in (self.csv, shards_dir):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                found.append(recipe_data.read_data("manifest", data_dir, 0.1))
        self.assertNotIn("can be read", out.getvalue())
        from_files, from_shards = found
        for part in ("training", "validation", "test"):
            self.assertEqual(
                *(steps.digest(getattr(data, part)) for data in found)
            )
        self.assertEqual(from_shards.classes, from_files.classes)
        self.assertEqual(from_shards.test_name, "manifest test")

    def test_copies_are_on_one_side_of_what_is_held_out(self):
        names = [f"copy_{i}.jpg" for i in range(10)]
        for i, name in enumerate(names):
            original = f"scenes/JPEGImages/test_00000{i % 2}.jpg"
            shutil.copy(self.home / original, self.home / name)
        examples = [
            mock.Mock(location=(str(self.home / name), None)) for name in names
        ]
        training, validation = recipe_data._hold_out(examples, 0.5, True)
        sides = [
            {examples.index(example) % 2 for example in side}
            for side in (training, validation)
        ]
        self.assertLen(training, 5)
        self.assertEqual([len(side) for side in sides], [1, 1])

    def test_predict(self):
        photo = self.home / "scenes/JPEGImages/test_000000.jpg"
        out, err, code = run(
            *(predict.main, photo, "--run", self.directory, "--threshold", 0),
            *("--output_dir", self.home / "predicted"),
        )
        self.assertEqual(code, 0, err)
        self.assertIn("kite", out)

    def test_refuses_with_the_line(self):
        bad = self.home / "bad.csv"
        bad.write_text("image,labels,split\na.jpg,cat,train\nb.jpg,dog,trian\n")
        _, err, code = self.train(bad, self.home / "none")
        self.assertEqual(code, 1)
        self.assertIn("bad.csv:3", err)
        self.assertFalse((self.home / "none").exists())

    def test_a_missing_test_image_is_an_error_before_training(self):
        rows = self.csv.read_text().replace("test_000002", "test_999999")
        moved = self.home / "moved.csv"
        moved.write_text(rows)
        _, err, code = self.train(moved, self.home / "none")
        self.assertEqual(code, 1)
        self.assertIn("1 of 6 images of test cannot be read", err)
        self.assertFalse((self.home / "none").exists())


class ShardsTest(tf.test.TestCase):
    @pytest.mark.by_hand
    def test_trains_with_all_switches_and_leaves_a_float32_model(self):
        home = pathlib.Path(self.get_temp_dir())
        scenes.write(home / "files", num_trainval=12, num_test=4)
        _, err, code = run(
            *(write_shards.main, "--dataset", "scenes"),
            *("--data_dir", home / "files", "--output_dir", home / "shards"),
        )
        self.assertEqual(code, 0, err)
        out, err, code = run(
            *(train_baseline.main, "--data_dir", home / "shards", *SHORT),
            *("--rand_augment", 2, "--label_smoothing", 0.1),
            *("--ema_momentum", 0.9, "--precision", "mixed_float16"),
            *("--mixup", 0.2, "--cutmix", 1, "--loss", "class_balanced"),
            *("--output_dir", home / "run"),
        )
        self.assertEqual(code, 0, err)
        self.assertIn("--model gap photo.jpg", out)
        card = json.loads((home / "run/card.json").read_text())
        self.assertEqual(card["precision"], "mixed_float16")
        data = recipe_data.read_data("scenes", home / "files", 0.1)
        parts = (data.training + data.validation, data.test)
        for name, part in zip(
            ("data_sha256", "test_sha256"), parts, strict=True
        ):
            self.assertEqual(card[name], steps.digest(part))
        model = keras.saving.load_model(home / "run/model.keras")
        backbone = model.get_layer("tiny")
        self.assertEqual(backbone.output["P5"].dtype, "float32")
        self.assertEqual(keras.config.dtype_policy().name, "float32")
        # From shards as from files.
        stored = np.load(home / "run/predictions.npz")
        images, targets = pipeline.evaluation_batch(data.test, 64)
        self.assertAllEqual(stored["targets"], targets)
        self.assertAllClose(
            stored["probabilities"],
            training.sigmoid(model.predict(images, verbose=0)),
            atol=1e-5,
        )
        out, err, code = run(evaluate.main, home / "run")
        self.assertEqual(code, 0, err)
        self.assertIn("gap on scenes test", out)

    def test_of_another_data_set(self):
        home = pathlib.Path(self.get_temp_dir())
        trees.voc2007(home / "files")
        _, err, code = run(
            *(write_shards.main, "--dataset", "voc2007"),
            *("--data_dir", home / "files", "--output_dir", home / "shards"),
            *("--splits", "trainval"),
        )
        self.assertEqual(code, 0, err)
        for dataset, message in (
            ("voc2012", "data set 'voc2007'. Received: dataset='voc2012'"),
            ("voc2007", "splits ['trainval']. Received: split='test'"),
        ):
            _, err, code = run(
                *(train_csra.main, "--dataset", dataset, *SHORT),
                *("--data_dir", home / "shards", "--output_dir", home / "run"),
            )
            self.assertEqual(code, 1)
            self.assertIn(message, err)
            self.assertFalse((home / "run").exists())
