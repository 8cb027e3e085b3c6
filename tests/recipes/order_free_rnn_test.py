"""What Order-Free RNN's recipe does beyond that of the other methods."""

import json
import pathlib
import subprocess
import sys
import tempfile
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import cli, evaluate, predict, steps
from recipes import train_order_free_rnn as recipe_of
from tests.recipes.command import run, stopping_at
from zoo import feature_cache
from zoo.data import scenes


class RecipeTest(tf.test.TestCase):
    def test_sequences_are_as_long_as_an_images_labels(self):
        rows = [[1, 0, 1, -1], [1, 1, 1, -1], [0, 0, 0, 0]]
        data = SimpleNamespace(
            classes="abcd",
            training=[SimpleNamespace(targets=np.array(r)) for r in rows],
        )
        _, recipe = cli.parse("", recipe_of.RECIPES, ["--pretrained", "none"])
        model = recipe_of.build(recipe, steps.make_backbone(recipe), data)
        self.assertEqual(model.output["sequence"].shape, (None, 3))
        self.assertFalse(model.get_layer("tiny").trainable)

    def test_the_papers_numbers(self):
        flags = ["--dataset", "coco2014", "--data_dir", "x"]
        flags += ["--backbone", "resnet152"]
        _, recipe = cli.parse("", recipe_of.RECIPES, flags)
        names = ("image_size", "backbone_learning_rate", "head_learning_rate")
        names += ("preliminary_learning_rate", "dropout", "level", "schedule")
        self.assertEqual(
            tuple(getattr(recipe, name) for name in names),
            (224, 0.0, 3e-4, 3e-4, 0.8, "P4", "constant"),
        )


class RunTest(tf.test.TestCase):
    """Whole runs on 24 drawn images."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        scenes.write(cls.home / "scenes", num_trainval=24, num_test=6)
        cls.directory = cls.home / "images"
        cls.printed = cls.train(cls.directory)

    @classmethod
    def flags(cls, directory):
        return (
            *("--data_dir", cls.home / "scenes", "--output_dir", directory),
            *("--image_size", 96, "--batch_size", 8, "--units", 16),
            *("--epochs", 2, "--preliminary_epochs", 1, "--flip", "false"),
            *("--backbone_learning_rate", 0, "--shift", 0),
        )

    @classmethod
    def train(cls, directory, *flags):
        return run(recipe_of.main, *cls.flags(directory), *flags)

    def predictions(self, directory):
        return np.load(directory / "predictions.npz")["probabilities"]

    @pytest.mark.heavy
    def test_the_threshold_is_in_the_model_and_the_card(self):
        out, err, code = self.printed
        self.assertEqual(code, 0, err)
        card = json.loads((self.directory / "card.json").read_text())
        model = keras.saving.load_model(self.directory / "model.keras")
        decoder = model.get_layer("decoder")
        self.assertAllClose(decoder.threshold, card["threshold"])
        self.assertEqual(card["max_labels"], decoder.max_labels)
        self.assertIn(f"The threshold is {card['threshold']:.4g}", out)
        self.assertIn("the model's own sequences", out)
        self.assertIn("mAP (continuous), mean over steps", out)
        for name in ("preliminary/history.csv", "history.csv"):
            self.assertTrue((self.directory / name).exists(), name)

    @pytest.mark.heavy
    def test_a_frozen_backbone_stays_as_it_was(self):
        model = keras.saving.load_model(self.directory / "model.keras")
        _, recipe = cli.parse("", recipe_of.RECIPES, ["--image_size", "96"])
        before = steps.make_backbone(recipe)
        after = model.get_layer("tiny")
        self.assertTrue(any("moving" in w.path for w in after.weights))
        for old, new in zip(before.weights, after.weights, strict=True):
            self.assertAllEqual(old, new, new.path)

    @pytest.mark.by_hand
    def test_cached_features_give_the_same_also_when_it_is_resumed(self):
        directory = self.home / "cached"
        compute = feature_cache.load_or_compute
        # The second epoch of the second phase.
        with (
            stopping_at(3) as seen,
            mock.patch.object(
                feature_cache, "load_or_compute", side_effect=compute
            ) as computed,
        ):
            with self.assertRaises(KeyboardInterrupt):
                self.train(directory, "--cache_features")
            self.assertEqual(computed.call_count, 4)  # two phases, two splits
            self.assertFalse((directory / "card.json").exists())
            self.assertTrue((directory / "features").exists())
            _, err, code = self.train(directory, "--cache_features", "--resume")
        self.assertEqual(code, 0, err)
        second = ("order_free_rnn_steps_head", 1)
        self.assertEqual(seen[2:], [second, second])
        self.assertFalse((directory / "features").exists())
        self.assertAllClose(
            self.predictions(directory),
            self.predictions(self.directory),
            atol=1e-4,
        )
        first, second = (
            (d / "history.csv").read_text().splitlines()
            for d in (self.directory, directory)
        )
        self.assertLen(first, 3)
        for rows in zip(first[1:], second[1:], strict=True):
            numbers = [np.array(row.split(","), float) for row in rows]
            self.assertAllClose(*numbers, atol=1e-4)

    @pytest.mark.by_hand
    def test_a_fixed_order_in_half_precision_on_two_replicas(self):
        # In a process of its own: TensorFlow fixes its devices once.
        directory = self.home / "rare"
        command = [sys.executable, "-m", "recipes.train_order_free_rnn"]
        command += map(str, self.flags(directory))
        command += ["--devices", "cpu:2", "--cache_features"]
        command += ["--order", "rare", "--precision", "mixed_bfloat16"]
        command += ["--attention", "false", "--beam_width", "1"]
        command += ["--loss", "class_balanced", "--label_smoothing", "0.1"]
        ended = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(ended.returncode, 0, ended.stderr[-2000:])
        self.assertNotAllClose(
            self.predictions(directory), self.predictions(self.directory)
        )

    @pytest.mark.heavy
    def test_evaluate_and_predict(self):
        out, err, code = run(
            evaluate.main, self.directory, "--beam_width", 1, 3
        )
        self.assertEqual(code, 0, err)
        stored = json.loads((self.directory / "metrics.json").read_text())
        map_of_run = f"{100 * stored['mAP']:.2f}"
        self.assertIn(f"mAP (continuous)  {map_of_run}", out)
        self.assertEqual(out.splitlines()[-1].split()[:2], ["3", map_of_run])
        photo = self.home / "scenes/JPEGImages/test_000000.jpg"
        flags = ("--run", self.directory, "--output_dir", self.home / "drawn")
        out, err, code = run(predict.main, photo, *flags)
        self.assertEqual(code, 0, err)
        self.assertTrue((self.home / "drawn/test_000000.png").exists())
        _, err, code = run(predict.main, photo, *flags, "--threshold", 0.5)
        self.assertEqual(code, 1)
        self.assertIn("own threshold", err)
