"""What Order-Free RNN's recipe does beyond that of the other methods."""

import json
import pathlib
import tempfile
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from recipes import cli, evaluate, predict, steps
from recipes import train_order_free_rnn as recipe_of
from tests.recipes.command import run
from zoo import feature_cache, metrics
from zoo.data import scenes


class TeacherTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        ("frequency", [[2, 0, -1], [2, -1, -1], [2, 0, 1]]),
        ("rare", [[0, 2, -1], [2, -1, -1], [1, 0, 2]]),
    )
    def test_labels_come_in_the_recipes_order(self, order, expected):
        targets = np.array(
            [[1, -1, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]], "float32"
        )
        examples = [SimpleNamespace(targets=row) for row in targets]
        sequence = SimpleNamespace(shape=(None, 3))
        fake = SimpleNamespace(
            recipe=SimpleNamespace(order=order),
            data=SimpleNamespace(training=examples),
            model=SimpleNamespace(output={"sequence": sequence}),
        )
        batches = tf.data.Dataset.from_tensors((np.zeros((3, 5)), targets))
        taught = recipe_of._taught(
            lambda first_epoch: batches, recipe_of._teacher(fake), 4, 0
        )
        [((_, labels), next_labels)] = taught.as_numpy_iterator()
        self.assertAllEqual(labels, expected)
        for row, wanted in zip(next_labels, expected, strict=True):
            for step, label in zip(row, wanted, strict=True):
                # After the last label no class is the next one.
                self.assertAllEqual(step, np.arange(4) == label)


class ThresholdTest(tf.test.TestCase):
    def test_is_the_one_of_the_best_of1(self):
        rng = np.random.default_rng(0)
        targets = rng.integers(0, 2, (20, 5))
        order = rng.permuted(np.tile(np.arange(5), (20, 1)), axis=1)[:, :3]
        paths = np.where(np.tri(3, dtype=bool), order[:, None], -1)
        probabilities = np.cumprod(rng.random((20, 3)), axis=1)
        threshold, of1 = recipe_of.choose_threshold(
            targets, paths, probabilities
        )

        def expected(threshold):
            predicted = np.zeros((20, 5))
            for i in range(20):
                for t in range(3):
                    if probabilities[i, t] >= threshold:
                        predicted[i, order[i, t]] = 1
            return metrics.precision_recall_f1(targets, predicted)["OF1"]

        values = [expected(value) for value in recipe_of.THRESHOLDS]
        self.assertAlmostEqual(of1, max(values))
        self.assertAlmostEqual(expected(threshold), max(values))
        self.assertGreater(max(values), min(values))


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


@pytest.mark.heavy
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
    def train(cls, directory, *flags):
        return run(
            *(recipe_of.main, "--data_dir", cls.home / "scenes"),
            *("--image_size", 64, "--batch_size", 8, "--units", 16),
            *("--epochs", 2, "--preliminary_epochs", 1, "--flip", "false"),
            *("--backbone_learning_rate", 0, "--shift", 0),
            *("--output_dir", directory, *flags),
        )

    def predictions(self, directory):
        return np.load(directory / "predictions.npz")["probabilities"]

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
        self.assertIn("mAP, mean over steps", out)
        for name in ("preliminary/history.csv", "history.csv"):
            self.assertTrue((self.directory / name).exists(), name)

    def test_a_frozen_backbone_stays_as_it_was(self):
        model = keras.saving.load_model(self.directory / "model.keras")
        _, recipe = cli.parse("", recipe_of.RECIPES, ["--image_size", "64"])
        before = steps.make_backbone(recipe)
        after = model.get_layer("tiny")
        self.assertTrue(any("moving" in w.path for w in after.weights))
        for old, new in zip(before.weights, after.weights, strict=True):
            self.assertAllEqual(old, new, new.path)

    def test_cached_features_give_the_same(self):
        directory = self.home / "cached"
        compute = feature_cache.load_or_compute
        with mock.patch.object(
            feature_cache, "load_or_compute", side_effect=compute
        ) as computed:
            _, err, code = self.train(directory, "--cache_features")
        self.assertEqual(code, 0, err)
        self.assertEqual(computed.call_count, 4)  # two phases, two splits
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

    def test_a_run_stopped_in_its_second_phase_resumes(self):
        directory = self.home / "stopped"
        fit, calls = keras.Model.fit, []

        def stop(model, *arguments, **options):
            calls.append(model.name)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return fit(model, *arguments, **options)

        with mock.patch.object(keras.Model, "fit", stop):
            with self.assertRaises(KeyboardInterrupt):
                self.train(directory)
            self.assertFalse((directory / "card.json").exists())
            _, err, code = self.train(directory, "--resume")
        self.assertEqual(code, 0, err)
        self.assertEqual(
            calls,
            [
                "order_free_rnn_preliminary",
                "order_free_rnn_steps",
                "order_free_rnn_steps",
            ],
        )
        self.assertAllClose(
            self.predictions(directory),
            self.predictions(self.directory),
            atol=1e-4,
        )

    def test_a_fixed_order_in_half_precision_without_attention(self):
        directory = self.home / "rare"
        _, err, code = self.train(
            directory,
            *("--order", "rare", "--precision", "mixed_bfloat16"),
            *("--attention", "false", "--cache_features", "--beam_width", 1),
        )
        self.assertEqual(code, 0, err)
        self.assertNotAllClose(
            self.predictions(directory), self.predictions(self.directory)
        )

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
