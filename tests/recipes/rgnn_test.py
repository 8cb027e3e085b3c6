"""What RGNN's recipe does beyond that of the other methods."""

import json
import pathlib
import tempfile
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from recipes import cli, evaluate, predict, steps
from recipes import train_rgnn as recipe_of
from serving.client import Client
from serving.server import Server
from tests.recipes.command import run, stopping_at
from zoo import backbones
from zoo.data import proposals, scenes

STAGES = ("global", "readout", "open", "gates", "")


class RecipeTest(tf.test.TestCase):
    def test_the_papers_numbers(self):
        flags = ["--dataset", "voc2007", "--data_dir", "x"]
        flags += ["--backbone", "vgg16"]
        _, recipe = cli.parse("", recipe_of.RECIPES, flags)
        names = ("global_epochs", "open_epochs", "gate_epochs", "epochs")
        names += ("head_learning_rate", "backbone_learning_rate", "optimizer")
        names += ("dim", "dropout", "region_size", "level", "proposals")
        self.assertEqual(
            tuple(getattr(recipe, name) for name in names),
            (10, 10, 10, 20, 1e-3, 1e-3, "adamw")
            + (4096, 0.5, 7, "P4", "edge_boxes"),
        )

    def test_open_gates_and_a_single_bin(self):
        flags = ["--gate", "open", "--multi_scale", "false"]
        flags += ["--pretrained", "none"]
        _, recipe = cli.parse("", recipe_of.RECIPES, flags)
        data = SimpleNamespace(classes="abc")
        model = recipe_of.build(recipe, steps.make_backbone(recipe), data)
        self.assertNotIn("gate", [layer.name for layer in model.layers])
        bins = model.get_layer("cross_region_pooling")
        self.assertEqual(tuple(bins.edges), ())

    def test_fc6_and_fc7_start_from_those_of_the_preset(self):
        flags = ["--backbone", "vgg16", "--pretrained", "none", "--dim", "8"]
        flags += ["--dataset", "voc2007", "--data_dir", "x"]
        flags += ["--region_size", "2", "--image_size", "32"]
        _, recipe = cli.parse("", recipe_of.RECIPES, flags)
        data = SimpleNamespace(classes="abc")
        model = recipe_of.build(recipe, steps.make_backbone(recipe), data)
        rng = np.random.default_rng(0)
        for size, message in ((8, "start from"), (9, "start anew")):
            shapes = ((4 * 512, size), (size,)), ((size, 8), (8,))
            found = [[rng.random(shape) for shape in fc] for fc in shapes]
            kept = model.get_layer("fc6").get_weights()
            with (
                mock.patch.object(
                    backbones, "vgg16_fully_connected", return_value=found
                ) as read,
                mock.patch("builtins.print") as printed,
            ):
                recipe_of._take_over(model, "hf://some/preset")
            read.assert_called_once_with("hf://some/preset")
            self.assertIn(message, printed.call_args.args[0])
            fits = size == 8
            for name, weights in zip(("fc6", "fc7"), found, strict=True):
                if fits:
                    self.assertAllClose(
                        model.get_layer(name).get_weights(), weights
                    )
            if not fits:
                self.assertAllClose(model.get_layer("fc6").get_weights(), kept)

    def test_refuses_to_jitter_boxes_that_are_not_there(self):
        flags = ["--training_regions", "jittered_boxes"]
        _, recipe = cli.parse("", recipe_of.RECIPES, flags)
        example = SimpleNamespace(boxes=np.zeros((0, 4)))
        data = SimpleNamespace(classes="abc", training=[example] * 3)
        with self.assertRaisesRegex(ValueError, "3 training images without"):
            recipe_of.build(recipe, None, data)

    def test_refuses_to_move_the_image_beneath_its_regions(self):
        out, err, code = run(recipe_of.main, "--rand_augment", 2)
        self.assertEqual(code, 2)
        self.assertIn("Received: rand_augment=2", err)


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
        cls.directory = cls.home / "whole"
        # By stage: the examples that are watched, and those that it learns.
        cls.seen, fit, batches = {}, steps.fit, steps.image_batches

        def fitting(run, recipe, stage, *arguments, **options):
            cls.seen[stage] = [run.watched]
            fit(run, recipe, stage, *arguments, **options)

        def learning(run, recipe, *arguments, **options):
            list(cls.seen.values())[-1].append(run.data.training)
            return batches(run, recipe, *arguments, **options)

        with (
            mock.patch.object(steps, "fit", fitting),
            mock.patch.object(steps, "image_batches", learning),
        ):
            cls.printed = cls.train(cls.directory)

    @classmethod
    def train(cls, directory, *flags, data_dir=None):
        return run(
            recipe_of.main,
            *("--data_dir", data_dir or cls.home / "scenes"),
            *("--output_dir", directory, "--image_size", 64, "--epochs", 2),
            *("--global_epochs", 1, "--open_epochs", 1, "--gate_epochs", 1),
            *("--readout_epochs", 1, "--batch_size", 8, "--dim", 16),
            *("--hidden", 16, "--training_regions", "jittered_boxes"),
            *("--num_regions", 12, *flags),
        )

    def predictions(self, directory):
        return np.load(directory / "predictions.npz")["probabilities"]

    @pytest.mark.heavy
    def test_trains_in_four_stages(self):
        out, err, code = self.printed
        self.assertEqual(code, 0, err)
        for number in range(1, 5):
            self.assertIn(f"Stage {number} of 4", out)
        histories = [
            (self.directory / stage / "history.csv").read_text().splitlines()
            for stage in STAGES
        ]
        self.assertEqual([len(rows) - 1 for rows in histories], [1, 1, 1, 1, 2])
        for rows, learns in zip(
            histories,
            ((), (), (), ("gate_loss",), ("gate_loss", "classification_loss")),
            strict=True,
        ):
            for name in learns:
                self.assertIn(name, rows[0].split(","))
        # Where new layers learn alone, the backbone has no learning rate.
        self.assertEqual(
            ["learning_rate_backbone" in rows[0] for rows in histories],
            [stage != "readout" for stage in STAGES],
        )
        self.assertFalse((self.directory / "global/checkpoints").exists())
        self.assertTrue((self.directory / "checkpoints").exists())
        # The gates' weight falls to 0 by the end of the last stage.
        names = histories[4][0].split(",")
        weights = [
            float(row.split(",")[names.index("gate_weight")])
            for row in histories[4][1:]
        ]
        self.assertAllClose(weights, [7 / 8, 3 / 8], atol=1e-3)  # 2 steps each

    @pytest.mark.by_hand
    def test_a_run_stopped_in_its_fourth_stage_resumes(self):
        directory = self.home / "stopped"
        with stopping_at(6):  # the second of its two epochs
            with self.assertRaises(KeyboardInterrupt):
                self.train(directory)
            self.assertFalse((directory / "card.json").exists())
            _, err, code = self.train(directory, "--resume")
        self.assertEqual(code, 0, err)
        self.assertAllClose(
            self.predictions(directory),
            self.predictions(self.directory),
            atol=1e-4,
        )

    @pytest.mark.by_hand
    def test_without_boxes_the_gates_learn_from_labels(self):
        dataset = scenes.read(self.home / "scenes", "trainval")
        lines = ["image,labels,split"] + [
            f"{example.image_path},"
            + "|".join(np.array(dataset.classes)[example.targets == 1])
            + f",{'test' if i >= 20 else 'train'}"
            for i, example in enumerate(dataset.examples)
        ]
        manifest = self.home / "photos.csv"
        manifest.write_text("\n".join(lines))
        out, err, code = self.train(
            self.home / "no_boxes",
            *("--dataset", "manifest", "--gate", "feature"),
            *("--training_regions", "proposals", "--loss", "focal"),
            data_dir=manifest,
        )
        self.assertEqual(code, 0, err)
        self.assertIn("Stage 3 of 4 is left out: there are no boxes", out)
        self.assertFalse((self.home / "no_boxes/gates").exists())

    @pytest.mark.heavy
    def test_learns_from_jittered_boxes_but_never_looks_at_them(self):
        watched, learnt = self.seen["open"]
        for examples, around_boxes in ((watched, False), (learnt, True)):
            for example in examples:
                expected = proposals.jitter([example], 6, seed=0)[0].regions
                same = np.array_equal(example.regions[:6], expected)
                self.assertEqual(same, around_boxes)
        # The other half are proposals, which tell gates of the background.
        found = proposals.propose(learnt, num_regions=6)
        self.assertAllEqual(learnt[0].regions[6:], found[0].regions)
        self.assertIsNone(self.seen["global"][1][0].regions)
        card = json.loads((self.directory / "card.json").read_text())
        self.assertEqual(card["training_regions"], "jittered_boxes")

    @pytest.mark.heavy
    def test_evaluates_and_predicts(self):
        stored = json.loads((self.directory / "metrics.json").read_text())
        out, err, code = run(evaluate.main, self.directory)
        self.assertEqual(code, 0, err)
        self.assertIn(f"mAP (continuous)  {100 * stored['mAP']:.2f}", out)
        photo = self.home / "scenes/JPEGImages/test_000000.jpg"
        out, err, code = run(
            *(predict.main, photo, "--run", self.directory),
            *("--output_dir", self.home / "drawn"),
        )
        self.assertEqual(code, 0, err)
        self.assertTrue((self.home / "drawn/test_000000.png").exists())

    @pytest.mark.heavy
    def test_the_served_model_takes_regions(self):
        stored = np.load(self.directory / "predictions.npz")
        dataset = scenes.read(self.home / "scenes", "test")
        card = json.loads((self.directory / "card.json").read_text())
        examples = proposals.propose(dataset.examples, **card["regions"])
        photos = [
            pathlib.Path(example.image_path).read_bytes()
            for example in examples
        ]
        base_path = self.directory / "export/rgnn"
        with Server({"rgnn": base_path}, port=0) as server:
            with Client(server.target) as client:
                answers = client.predict(
                    photos, "rgnn", regions=[e.regions for e in examples]
                )
                on_grid = client.predict(photos, "rgnn")
        self.assertAllClose(
            [answer.probabilities for answer in answers],
            stored["probabilities"],
            atol=1e-5,
        )
        self.assertNotAllClose(
            [answer.probabilities for answer in on_grid],
            stored["probabilities"],
            atol=1e-5,
        )
