"""What RARL's recipe does beyond that of the other methods."""

import csv
import json
import pathlib
import re
import tempfile
from types import SimpleNamespace
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from tensorboard.backend.event_processing import event_accumulator

from recipes import cli, evaluate, predict, steps
from recipes import train_rarl as recipe_of
from recipes.answers import answers_of
from recipes.data import read_data
from tests.recipes.command import run, stopping_at
from zoo import metrics, training
from zoo.data import pipeline, scenes

LOGS = ("classification_loss", "policy_loss", "baseline_loss")
LOGS += ("reward", "location_spread")


class RecipeTest(parameterized.TestCase, tf.test.TestCase):
    def test_the_papers_numbers(self):
        flags = ["--dataset", "voc2007", "--data_dir", "x"]
        flags += ["--backbone", "vgg16"]
        _, recipe = cli.parse("", recipe_of.RECIPES, flags)
        names = ("image_size", "resize", "batch_size", "optimizer")
        names += ("head_learning_rate", "backbone_learning_rate")
        names += ("num_steps", "num_regions", "region_size", "level")
        names += ("locations", "lstm", "crop_area", "weight_decay")
        self.assertEqual(
            tuple(getattr(recipe, name) for name in names),
            (448, 512, 16, "adamw", 1e-5, 1e-5, 5, 9, 7, "P4")
            + ("learned", "both", 1.0, 0.0),
        )

    @parameterized.parameters(
        (("--image_size", "448", "--resize", "512"), 80 / 448),
        (("--image_size", "576", "--resize", "640"), 100 / 576),
        (("--image_size", "128"), 80 / 448),
        (("--image_size", "448", "--num_regions", "1"), 224 / 448),
    )
    def test_regions_have_the_papers_sizes(self, flags, smallest):
        flags = ["--pretrained", "none", "--num_steps", "1", *flags]
        _, recipe = cli.parse("", recipe_of.RECIPES, flags)
        data = SimpleNamespace(classes="abc")
        model = recipe_of.build(recipe, steps.make_backbone(recipe), data)
        scales = model.get_layer("attention").scales
        self.assertAllClose(scales[0], smallest)
        self.assertLen(scales, 1 if recipe.num_regions == 1 else 3)

    @parameterized.parameters(("paper", True), ("cross_entropy", False))
    def test_only_its_own_loss_needs_a_border(self, loss, is_relative):
        flags = ["--loss", loss]
        with mock.patch.object(steps, "train") as train:
            recipe_of.main(flags)
        *_, phases, settle = train.call_args.args
        self.assertEqual(settle is not None, is_relative)
        _, recipe = cli.parse("", recipe_of.RECIPES, flags)
        run_of = mock.MagicMock(recipe=recipe)
        with (
            mock.patch.object(recipe_of, "learner"),
            mock.patch.object(steps, "fit") as fit,
        ):
            phases(run_of)
        self.assertEqual(fit.call_args.kwargs["relative"], is_relative)

        logits = np.array([[3.0, 2.0, 1.0, -1.0]], "float32")
        answers = answers_of({"method": "rarl", "loss": loss}, logits)
        self.assertAllClose(answers.probabilities, training.sigmoid(logits))
        if is_relative:  # 0.66 0.24 0.09 0.01 by the softmax
            self.assertAllEqual(answers.predicted, [[1, 1, 0, 0]])
        else:
            self.assertIsNone(answers.predicted)


class RunTest(tf.test.TestCase):
    """Whole runs on 24 drawn images."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        cls.enterClassContext(
            mock.patch.dict("os.environ", XDG_CACHE_HOME=str(cls.home))
        )
        scenes.write(cls.home / "scenes", num_trainval=24, num_test=6)
        cls.directory = cls.home / "learned"
        cls.printed = cls.train(cls.directory)

    @classmethod
    def train(cls, directory, *flags):
        return run(
            *(recipe_of.main, "--data_dir", cls.home / "scenes"),
            *("--output_dir", directory, "--image_size", 64, "--epochs", 2),
            *("--batch_size", 8, "--units", 16, "--num_steps", 2, *flags),
        )

    def predictions(self, directory):
        return np.load(directory / "predictions.npz")["probabilities"]

    @pytest.mark.heavy
    def test_shows_what_the_policy_does(self):
        out, err, code = self.printed
        self.assertEqual(code, 0, err)
        rows = (self.directory / "history.csv").read_text().splitlines()
        self.assertLen(rows, 3)
        self.assertContainsSubset(LOGS, rows[0].split(","))
        events = event_accumulator.EventAccumulator(
            str(self.directory / "tensorboard")
        ).Reload()
        tags = events.Tags()["tensors"]
        self.assertContainsSubset([f"epochs/{name}" for name in LOGS], tags)
        self.assertIn("attention/1", tags)
        for name in LOGS:  # Keras' own line, beside the loss
            self.assertIn(f"{name}: ", out)

    @pytest.mark.heavy
    def test_half_is_a_border_of_what_is_served(self):
        model = keras.saving.load_model(self.directory / "model.keras")
        data = read_data("scenes", self.home / "scenes", 0.1)
        batches = pipeline.evaluation_batches(data.validation, 64, 8)
        targets = np.stack([e.targets for e in data.validation])
        probabilities = training.sigmoid(model.predict(batches, verbose=0))
        of1 = metrics.precision_recall_f1(targets, probabilities)["OF1"]
        with open(self.directory / "history.csv") as file:
            rows = list(csv.DictReader(file))
        best = max(rows, key=lambda row: float(row["val_mAP"]))
        self.assertAlmostEqual(of1, float(best["val_OF1"]), places=5)
        card = json.loads((self.directory / "card.json").read_text())
        self.assertNotEqual(card["scores_moved_by"], 0)
        self.assertEqual(
            card["scores_moved_on"], f"{len(targets)} validation images, by OF1"
        )
        version = tf.saved_model.load(self.directory / "export/rarl/1")
        answer = version.signatures["serving_default"](
            image_bytes=tf.stack(
                [tf.io.read_file(example.image_path) for example in data.test]
            )
        )
        self.assertAllClose(
            answer["probabilities"],
            self.predictions(self.directory),
            atol=1e-5,
        )

    @pytest.mark.by_hand
    def test_resumes_with_the_same_draws(self):
        directory = self.home / "stopped"
        with stopping_at(2) as seen:
            with self.assertRaises(KeyboardInterrupt):
                self.train(directory)
            _, err, code = self.train(directory, "--resume")
        self.assertEqual(code, 0, err)
        self.assertEqual([epoch for _, epoch in seen], [0, 1, 1])
        self.assertAllClose(
            self.predictions(directory),
            self.predictions(self.directory),
            atol=1e-5,
        )

    @pytest.mark.by_hand
    def test_looks_elsewhere(self):
        directory = self.home / "proposals"
        flags = ("--locations", "proposals", "--loss", "asymmetric")
        _, err, code = self.train(directory, *flags)
        self.assertEqual(code, 0, err)
        model = keras.saving.load_model(directory / "model.keras")
        self.assertEqual(
            model.get_layer("attention").locations,
            recipe_of.LOCATIONS["proposals"],
        )
        rows = (directory / "history.csv").read_text().splitlines()
        self.assertNotIn("policy_loss", rows[0])
        self.assertNotAllClose(
            self.predictions(directory), self.predictions(self.directory)
        )
        card = json.loads((directory / "card.json").read_text())
        self.assertEqual(
            card["regions"],
            {"method": "edge_boxes", "num_regions": 2, "nms": 0.7},
        )
        out, err, code = run(evaluate.main, directory)
        self.assertEqual(code, 0, err)

    @pytest.mark.heavy
    def test_evaluates_ten_views_and_predicts(self):
        out, err, code = run(
            *(evaluate.main, self.directory, "--views", "ten"),
            *("--sizes", 128),
        )
        self.assertEqual(code, 0, err)
        self.assertIn("rarl on scenes test, ten views at 128", out)
        photo = self.home / "scenes/JPEGImages/test_000000.jpg"
        out, err, code = run(
            *(predict.main, photo, "--run", self.directory),
            *("--output_dir", self.home / "drawn"),
        )
        self.assertEqual(code, 0, err)
        self.assertTrue((self.home / "drawn/test_000000.png").exists())
        # The labels that a client prints.
        probabilities = self.predictions(self.directory)[0]
        names = [scenes.CLASSES[k] for k in np.flatnonzero(probabilities > 0.5)]
        printed = out.split("test_000000.jpg: ")[1].split("  (")[0]
        self.assertCountEqual(
            re.findall("[a-z]+(?= [01])", printed), names, printed
        )
