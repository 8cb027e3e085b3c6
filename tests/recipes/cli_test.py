import dataclasses
import json
import pathlib
import shutil
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from recipes import (
    cli,
    evaluate,
    predict,
    train_baseline,
    train_csra,
    train_fan,
    train_order_free_rnn,
    train_rarl,
    train_rgnn,
)
from recipes.data import DATASETS
from tests.recipes.command import run
from zoo import preprocess
from zoo.data import scenes

TRAINERS = (
    *(train_baseline, train_csra, train_fan, train_order_free_rnn),
    *(train_rarl, train_rgnn),
)
REFUSED = {  # fields that a recipe shares and does not take
    train_rarl: ("label_smoothing",),
    train_rgnn: ("label_smoothing", "rand_augment", "mixup", "cutmix"),
}


class ParseTest(parameterized.TestCase, tf.test.TestCase):
    def test_data_set_and_backbone_choose_the_recipe(self):
        _, recipe = cli.parse("", train_csra.RECIPES, [])
        self.assertEqual(
            (recipe.backbone, recipe.image_size, recipe.residual_weight),
            ("tiny", 128, 0.5),
        )
        flags = ["--dataset", "voc2007", "--data_dir", "x"]
        _, recipe = cli.parse("", train_csra.RECIPES, flags)
        self.assertEqual((recipe.backbone, recipe.image_size), ("tiny", 224))
        flags += ["--backbone", "resnet101"]
        _, recipe = cli.parse("", train_csra.RECIPES, flags)
        self.assertEqual(
            dataclasses.asdict(recipe),
            {
                "backbone": "resnet101",
                "pretrained": "imagenet",
                "normalization": "unit",
                "image_size": 448,
                "batch_size": 16,
                "epochs": 30,
                "optimizer": "sgd",
                "backbone_learning_rate": 0.01,
                "head_learning_rate": 0.1,
                "weight_decay": 1e-4,
                "schedule": "step",
                "warmup_epochs": 2.0,
                "decay_epochs": 4.0,
                "crop_area": 0.7,
                "resize": 0,
                "shift": 0.0,
                "flip": True,
                "rand_augment": 0,
                "mixup": 0.0,
                "cutmix": 0.0,
                "unknown": "absent",
                "loss": "paper",
                "label_smoothing": 0.0,
                "ema_momentum": 0.0,
                "precision": "float32",
                "validation_fraction": 0.1,
                "seed": 0,
                "num_heads": 1,
                "residual_weight": 0.1,
                "pooling": "residual",
                "normalize": True,
            },
        )

    @parameterized.parameters(
        ("absent",),
        ("absent", "--loss", "cross_entropy"),
        ("absent", "--label_smoothing", "0"),
        ("absent", "--loss", "focal", "--unknown", "absent"),
        ("ignore", "--unknown", "ignore"),
        ("ignore", "--loss", "asymmetric"),
        ("ignore", "--loss", "focal"),
        ("ignore", "--loss", "class_balanced"),
        ("ignore", "--label_smoothing", "0.1"),
    )
    def test_losses_beside_the_papers_leave_out_the_unknown(
        self, expected, *flags
    ):
        given = ["--dataset", "voc2007", "--data_dir", "x", *flags]
        _, recipe = cli.parse("", train_csra.RECIPES, given)
        self.assertEqual(recipe.unknown, expected)

    @parameterized.parameters(
        ("voc2012", "resnet101", (448, 16, 1, 0.1, 4.0, "unit")),
        ("coco2014", "resnet101", (448, 16, 6, 0.5, 5.0, "unit")),
        ("coco2014", "vit_l16", (448, 16, 8, 1.0, 5.0, "symmetric")),
        ("wider", "vit_b16", (224, 64, 1, 0.3, 5.0, "symmetric")),
        ("wider", "resnet101", (224, 64, 1, 0.3, 5.0, "symmetric")),
        ("manifest", "efficientnet_b3", (448, 16, 1, 0.1, 4.0, "weights")),
        ("voc2007", "vit_b16", (448, 16, 1, 0.1, 4.0, "symmetric")),
        ("coco2014", "tiny", (224, 16, 1, 0.5, 5.0, "weights")),
    )
    def test_the_papers_numbers(self, dataset, backbone, expected):
        flags = ["--dataset", dataset, "--data_dir", "x"]
        flags += ["--backbone", backbone]
        _, recipe = cli.parse("", train_csra.RECIPES, flags)
        names = ("image_size", "batch_size", "num_heads", "residual_weight")
        names += ("decay_epochs", "normalization")
        self.assertEqual(
            tuple(getattr(recipe, name) for name in names), expected
        )
        shared = ("normalization", "decay_epochs", "image_size", "batch_size")
        _, twin = cli.parse("", train_baseline.RECIPES, flags)
        for name in shared:
            self.assertEqual(getattr(twin, name), getattr(recipe, name), name)
        if backbone != "tiny":
            for each, head_learning_rate in ((recipe, 0.1), (twin, 0.01)):
                self.assertEqual(
                    dataclasses.astuple(each)[5:12],
                    (30, "sgd", 0.01, head_learning_rate, 1e-4, "step", 2.0),
                )

    @parameterized.parameters("voc2007", "coco2014")
    def test_the_papers_numbers_of_fan(self, dataset):
        flags = ["--dataset", dataset, "--data_dir", "x"]
        flags += ["--backbone", "resnet101"]
        _, recipe = cli.parse("", train_fan.RECIPES, flags)
        names = ("image_size", "batch_size", "optimizer", "weight_decay")
        names += ("backbone_learning_rate", "head_learning_rate", "schedule")
        names += ("warmup_epochs", "dim", "pooling", "normalization")
        self.assertEqual(
            tuple(getattr(recipe, name) for name in names),
            (
                *(448, 16, "sgd", 1e-4, 0.01, 0.1, "plateau"),
                *(0.0, 512, "max", "weights"),
            ),
        )

    def test_each_recipe_knows_each_data_set_and_no_other_backbone(self):
        for module in TRAINERS:
            for name in module.RECIPES:
                dataset, _, backbone = name.partition("/")
                self.assertIn(dataset, DATASETS)
                self.assertIn(backbone or "tiny", cli.BACKBONES)
            self.assertContainsSubset(DATASETS, module.RECIPES)

    @parameterized.parameters(*TRAINERS)
    def test_every_field_is_a_typed_flag(self, module):
        _, recipe = cli.parse("", module.RECIPES, [])
        other = {int: 64, float: 0.25, str: "x"}
        for field in dataclasses.fields(recipe):
            if field.name in ("backbone", *REFUSED.get(module, ())):
                continue
            value = other.get(field.type) if field.type in other else None
            if field.name == "num_heads":
                value = 4
            if field.type is bool:
                value = not getattr(recipe, field.name)
            if value is None:  # a choice: the last one
                value = field.type.__args__[-1]
            changes = {field.name: value}
            if field.name == "cache_features":  # not with random pixels
                changes |= {"flip": False, "shift": 0.0}
            if field.name == "resize":  # to more than what is cropped
                changes |= {"image_size": 32, "crop_area": 1.0}
            if field.name == "schedule":  # the last one has no rise
                changes |= {"warmup_epochs": 0.0}
            if field.name in ("loss", "label_smoothing"):  # of no paper
                changes |= {"unknown": "ignore"}
            flags = [f"--{key}={value}" for key, value in changes.items()]
            _, changed = cli.parse("", module.RECIPES, flags)
            expected = dataclasses.replace(recipe, **changes)
            self.assertEqual(changed, expected)

    def test_a_bare_flag_is_true(self):
        flags = ["--cache_features", "--flip", "false", "--shift", "0"]
        _, recipe = cli.parse("", train_order_free_rnn.RECIPES, flags)
        self.assertIs(recipe.cache_features, True)
        self.assertIs(recipe.flip, False)
        _, err, code = run(train_order_free_rnn.main, "--cache_features")
        self.assertEqual(code, 2)
        self.assertIn("shift=0.08, flip=True", err)

    @parameterized.parameters(
        ("--epoch 3", "--epoch"),  # no prefixes: another field might be meant
        ("--dataset coco", "voc2007"),
        ("--backbone vgg", "resnet101"),
        ("--optimizer adam", "adamw"),
        ("--normalize maybe", "--normalize"),
        ("--epochs many", "--epochs"),
        ("--dataset voc2007", "--data_dir"),
        ("--batch_size 0", "`batch_size` must be from 1"),
        ("--resize 100", "resize=100, image_size=128"),
        ("--resize 140 --crop_area 0.5", "resize=140, crop_area=0.5"),
        ("--shift 1.5", "`shift` must be from 0 to 0.9"),
        ("--seed -1", "`seed` must be from 0"),
        ("--num_heads 3", "`num_heads` must be one of [1, 2, 4, 6, 8]"),
        ("--residual_weight nan", "`residual_weight` must be from"),
        ("--flip maybe", "--flip"),
        (
            "--schedule plateau --warmup_epochs 0 --decay_epochs 0.5",
            "a whole number",
        ),
        ("--schedule constant", "`warmup_epochs` must be 0"),
        ("--loss hinge", "class_balanced"),
        ("--mixup -0.1", "`mixup` must be from 0"),
        ("--cutmix 1e9", "`cutmix` must be from 0 to 100"),
        (
            "--cutmix 1 --batch_size 1",
            "no other. Received: mixup=0.0, cutmix=1",
        ),
        (
            "--loss focal --label_smoothing 0.1",
            "Received: loss=focal, label_smoothing=0.1",
        ),
        (
            "--loss asymmetric --label_smoothing 0.1",
            "Received: loss=asymmetric, label_smoothing=0.1",
        ),
        ("--profile -1", "at least 0 steps. Received: profile=-1"),
        ("--profile some", "--profile"),
    )
    def test_names_a_bad_flag_and_what_exists(self, flags, message):
        _, err, code = run(train_csra.main, *flags.split())
        self.assertEqual(code, 2)
        self.assertIn(message, err.splitlines()[-1])

    @parameterized.parameters(
        (train_rarl, "--label_smoothing 0.1", "loss=paper"),
        (train_rgnn, "--label_smoothing 0.1", "loss=paper"),
        (train_rgnn, "--mixup 0.2", "regions are of one image"),
        (
            train_rarl,
            "--locations proposals --cutmix 1",
            "regions are of one image",
        ),
        (
            train_order_free_rnn,
            "--order rare --mixup 0.2",
            'order="rare" takes whole labels',
        ),
        (
            train_order_free_rnn,
            "--cache_features --flip false --shift 0 --cutmix 1",
            "`cache_features` needs the same pixels in every epoch. "
            "Received: cutmix=1.0",
        ),
    )
    def test_names_what_does_not_go_together(self, module, flags, message):
        _, err, code = run(module.main, *flags.split())
        self.assertEqual(code, 2)
        self.assertIn(message, err.splitlines()[-1])

    @parameterized.parameters(train_rarl, train_rgnn)
    def test_a_cross_entropy_may_be_smoothed(self, module):
        flags = ["--loss", "cross_entropy", "--label_smoothing", "0.1"]
        _, recipe = cli.parse("", module.RECIPES, flags)
        self.assertEqual(recipe.label_smoothing, 0.1)

    @parameterized.parameters(*TRAINERS, evaluate, predict)
    def test_help(self, module):
        out, _, code = run(module.main, "--help")
        self.assertEqual(code, 0)
        self.assertIn("python recipes/", out)


class RunTest(parameterized.TestCase, tf.test.TestCase):
    """One run on 40 drawn images, from files to a served-ready version."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        cls.data = cls.home / "scenes"
        scenes.write(cls.data, num_trainval=40, num_test=10)
        broken = cls.data / "JPEGImages/trainval_000003.jpg"
        broken.write_bytes(broken.read_bytes()[:500])
        cls.flags = ("--data_dir", cls.data, "--batch_size", 8)
        cls.csra = cls.home / "runs/csra"
        cls.printed = run(
            *(train_csra.main, *cls.flags, "--epochs", 2, "--profile", 2),
            *("--output_dir", cls.csra),
        )

    def test_prints_the_table_and_the_next_commands(self):
        out, err, code = self.printed
        self.assertEqual(code, 0, err)
        self.assertIn("35 training and 4 validation images", out)
        self.assertIn("mAP (continuous)", out)
        self.assertIn("umbrella", out)
        self.assertIn("serving.server --port 8500", out)
        self.assertIn(f"--model csra={self.csra}/export/csra", out)
        self.assertIn("serving.client --target localhost:8500", out)

    def test_traces_steps_where_it_is_asked(self):
        out, _, _ = self.printed
        self.assertIn(
            f"Steps 3 to 4 of epoch 1 are traced in {self.csra}/tensor", out
        )
        profiles = self.csra / "tensorboard/plugins/profile"
        self.assertLen(list(profiles.glob("*/*.xplane.pb")), 1)

    def test_an_unreadable_training_image_is_named_and_skipped(self):
        _, err, _ = self.printed
        self.assertIn("1 of 40 images of trainval cannot be read", err)
        self.assertIn("trainval_000003.jpg: not a whole JPEG", err)

    def test_an_unreadable_test_image_is_an_error(self):
        other = self.home / "other"
        scenes.write(other, num_trainval=20, num_test=3)
        (other / "JPEGImages/test_000001.jpg").unlink()
        _, err, code = run(
            *(train_csra.main, "--data_dir", other),
            *("--output_dir", self.home / "runs/none"),
        )
        self.assertEqual(code, 1)
        self.assertIn("1 of 3 images of test", err)
        self.assertIn("test_000001.jpg: there is no such file", err)
        self.assertFalse((self.home / "runs/none").exists())

    def test_leaves_every_file(self):
        for name in (
            *("model.keras", "metrics.json", "predictions.npz", "card.json"),
            *("recipe.json", "history.csv", "tensorboard", "checkpoints"),
            *("export/csra/1/saved_model.pb", "pictures/test_000000.png"),
        ):
            self.assertTrue((self.csra / name).exists(), name)
        self.assertLen(list((self.csra / "pictures").iterdir()), 8)

    def test_metrics_and_predictions(self):
        report = json.loads((self.csra / "metrics.json").read_text())
        self.assertBetween(report["mAP"], 0, 1)
        self.assertEqual(report["mAP_mode"], "continuous")
        self.assertEqual(report["images"], "scenes test")
        stored = np.load(self.csra / "predictions.npz")
        self.assertEqual(stored["probabilities"].shape, (10, 16))
        self.assertEqual(stored["image_ids"][3], "test_000003")
        data = scenes.read(self.data, "test")
        self.assertAllEqual(stored["targets"], data.targets())
        model = keras.saving.load_model(self.csra / "model.keras")
        image_bytes = tf.io.read_file(data.examples[3].image_path)
        expected = model(preprocess.load(image_bytes, 128)[None])
        expected = tf.sigmoid(expected)[0]
        self.assertAllClose(stored["probabilities"][3], expected, atol=1e-5)

    def test_card(self):
        card = json.loads((self.csra / "card.json").read_text())
        self.assertContainsSubset(
            {
                *("method", "backbone", "dataset", "classes", "preprocessing"),
                *("seed", "versions", "commit", "metrics", "command"),
            },
            card,
        )
        self.assertEqual(card["classes"], list(scenes.CLASSES))
        exported = self.csra / "export/csra/1/assets.extra/card.json"
        self.assertEqual(json.loads(exported.read_text()), card)

    def test_a_finished_run_is_not_overwritten(self):
        before = (self.csra / "model.keras").read_bytes()
        flags = (*self.flags, "--epochs", 2, "--output_dir", self.csra)
        _, err, code = run(train_csra.main, *flags)
        self.assertEqual(code, 1)
        self.assertIn("holds a finished run", err)
        out, err, code = run(train_csra.main, *flags, "--resume")
        self.assertEqual(code, 0, err)
        self.assertIn("has ended: nothing is left to do", out)
        self.assertEqual((self.csra / "model.keras").read_bytes(), before)

    def test_evaluate_gives_the_same_numbers(self):
        results = self.home / "results"
        out, err, code = run(
            evaluate.main, self.csra, "--output_dir", results, "--batch_size", 3
        )
        self.assertEqual(code, 0, err)
        self.assertIn("csra on scenes test", out)
        mine, theirs = (
            np.load(folder / "predictions.npz")
            for folder in (results, self.csra)
        )
        self.assertAllClose(
            mine["probabilities"], theirs["probabilities"], atol=1e-5
        )
        _, err, code = run(evaluate.main, self.csra, "--output_dir", results)
        self.assertEqual(code, 1)
        self.assertIn("never overwritten", err)

    def test_evaluate_adds_the_maximum_to_no_other_method(self):
        _, err, code = run(evaluate.main, self.csra, "--residual_weight", 0.2)
        self.assertEqual(code, 1)
        self.assertIn("baseline", err)

    def test_evaluate_names_what_is_wrong(self):
        _, err, code = run(evaluate.main, self.home)
        self.assertEqual(code, 1)
        self.assertIn("card.json", err)
        _, err, code = run(evaluate.main, self.csra, "--split", "val")
        self.assertEqual(code, 1)
        self.assertIn("split=val", err)

    def test_predict(self):
        photo = self.data / "JPEGImages/test_000000.jpg"
        pictures = self.home / "predicted"
        arguments = (photo, "none.jpg", "--run", self.csra, "--threshold", 0)
        arguments += ("--output_dir", pictures)
        out, err, code = run(predict.main, *arguments)
        self.assertEqual(code, 1)
        self.assertIn("none.jpg: there is no such file", err)
        self.assertIn(f"{photo}: ", out)
        for name in scenes.CLASSES:
            self.assertIn(name, out)
        run(predict.main, *arguments)
        names = sorted(path.name for path in pictures.iterdir())
        self.assertEqual(names, ["test_000000.png", "test_000000_2.png"])

    def test_does_not_resume_on_other_data(self):
        stopped = self.home / "runs/stopped"
        stopped.mkdir(parents=True)
        shutil.copy(self.csra / "recipe.json", stopped)
        other = self.home / "other_data"
        scenes.write(other, num_trainval=41, num_test=1)
        _, err, code = run(
            *(train_csra.main, "--data_dir", other, "--batch_size", 8),
            *("--epochs", 2, "--resume", "--output_dir", stopped),
        )
        self.assertEqual(code, 1)
        self.assertIn("data_sha256", err)
