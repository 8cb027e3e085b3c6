import argparse
import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import re
import shutil
import tempfile
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from recipes import evaluate
from recipes import report as html
from tests.data import trees
from zoo import backbones, metrics, models, reports, runs, training
from zoo.data import pipeline, proposals, scenes, voc
from zoo.models.rarl_views import ten_views

IMAGE_SIZE = 64
WEIGHTS = (0.1, 0.5, 2.0)


def save_run(directory, method, dataset, data_dir, classes, seed=0, **settings):
    """Leaves what `evaluate` needs of a run, without training.

    `settings` are of the card; a RARL with `proposals` looks at these.
    """
    keras.utils.set_random_seed(seed)
    build = {
        "csra": models.csra,
        "gap": models.baseline,
        "order_free_rnn": functools.partial(
            models.order_free_rnn, max_labels=3, units=8, threshold=0.01
        ),
        "rarl": functools.partial(
            models.rarl,
            num_steps=1,
            units=8,
            size=2,
            locations="given" if "regions" in settings else "learned",
        ),
    }[method]
    model = build(backbones.tiny(IMAGE_SIZE, "stamps"), len(classes))
    runs.save_model(directory / runs.MODEL, model)
    card = {
        "method": method,
        "backbone": "tiny",
        "pretrained": "stamps",
        "dataset": dataset,
        "data_dir": str(data_dir),
        "classes": list(classes),
        "image_size": IMAGE_SIZE,
        "num_training_images": 0,
        "seed": 0,
        "commit": None,
        "versions": {"keras": "3"},
        "command": "python recipes/train.py",
        **settings,
    }
    runs.write_json(directory / runs.CARD, card)


def run(*arguments):
    """Gives what `evaluate` printed, and what it ended with."""
    out, end = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            evaluate.main([str(argument) for argument in arguments])
        except SystemExit as error:
            end = error.code
    return out.getvalue(), end


class EvaluateTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        cls.data = cls.home / "scenes"
        scenes.write(cls.data, num_trainval=3, num_test=6)
        cls.csra, cls.gap = cls.home / "csra", cls.home / "gap"
        for directory in (cls.csra, cls.gap):
            save_run(
                directory, directory.name, "scenes", cls.data, scenes.CLASSES
            )

        cls.results = cls.home / "results"
        with mock.patch.object(
            training, "predict", wraps=training.predict
        ) as predict:
            cls.out, cls.end = run(
                *(cls.gap, "--output_dir", cls.results),
                *("--residual_weight", *WEIGHTS),
                *("--rarest", 2, "--smallest", 3),
            )
        cls.num_passes = predict.call_count
        cls.page = (cls.results / "report.html").read_text("utf-8")
        cls.report = json.loads((cls.results / "metrics.json").read_text())

    def test_writes_a_report_beside_the_numbers(self):
        self.assertIsNone(self.end)
        self.assertIn(f"{self.results}/report.html", self.out)
        self.assertIn("<h1>gap on scenes test</h1>", self.page)
        self.assertLen(re.findall('<img class="photos"', self.page), 6 + 1)
        self.assertLen(re.findall('<img class="chart"', self.page), 2)
        self.assertLen(re.findall('alt="test_00000[0-5], where', self.page), 6)
        facts = "scenes test, 6 images of 64 pixels, 16 classes"
        self.assertIn(facts, self.page)
        self.assertLess(len(self.page), 3e6)
        self.assertIn(f"{100 * self.report['mAP']:.2f}", self.page)
        stored = np.load(self.results / "predictions.npz")
        self.assertAlmostEqual(
            self.report["mAP"],
            metrics.mean_average_precision(
                stored["targets"], stored["probabilities"]
            ),
        )

    def test_two_passes_give_every_residual_weight(self):
        self.assertEqual(self.num_passes, 2)
        data = scenes.read(self.data, "test")
        model = keras.saving.load_model(self.gap / runs.MODEL)
        batches = pipeline.evaluation_batches(data.examples, IMAGE_SIZE, 6)
        images, targets = next(batches.as_numpy_iterator())
        for weight in WEIGHTS:
            logits = models.add_max_pooling(model, weight)(images).numpy()
            expected = metrics.mean_average_precision(targets, logits)
            found = self.report["mAP_with_max_pooling"][str(weight)]
            self.assertAlmostEqual(found, expected)
            gain = 100 * (expected - self.report["mAP"])
            row = f"  {weight:<6g} {100 * expected:6.2f} {gain:+6.2f}\n"
            self.assertIn(row, self.out + "\n")
            fact = f"mAP (continuous) with {weight:g} of the maximum"
            self.assertIn(fact, self.page)

        found = self.report["mAP_with_max_pooling"].values()
        self.assertNotEqual(set(found), {self.report["mAP"]})

    def test_the_tail_and_the_small(self):
        data = scenes.read(self.data, "test")
        rarest, smallest = self.report["rarest"], self.report["smallest"]
        counts = {
            name: count
            for name, count in self.report["num_positives"].items()
            if count
        }
        self.assertEqual(
            rarest["num_positives"],
            dict(sorted(counts.items(), key=lambda item: item[1])[:2]),
        )
        self.assertFalse(any(e.box_difficult.any() for e in data.examples))
        areas = {}
        for example in data.examples:
            for box, k in zip(example.boxes, example.box_classes, strict=True):
                area = np.prod(box[2:] - box[:2])
                areas.setdefault(data.classes[k], []).append(area)
        order = sorted(areas, key=lambda name: np.mean(areas[name]))
        self.assertEqual(list(smallest["mean_area"]), order[:3])
        for group, amount in (
            (rarest, "num_positives"),
            (smallest, "mean_area"),
        ):
            ap = {name: self.report["AP"][name] for name in group[amount]}
            self.assertEqual(group["AP"], ap)
            self.assertAlmostEqual(group["mAP"], np.mean(list(ap.values())))
        self.assertIn("Rarest classes with positives", self.out)
        self.assertIn("Smallest classes with boxes", self.out)
        self.assertIn("<h2>The rarest classes</h2>", self.page)
        self.assertIn("<h2>The smallest classes</h2>", self.page)

    def test_a_difficult_object_has_no_size(self):
        data = scenes.read(self.data, "test")
        first, *others = data.examples
        others = [
            dataclasses.replace(e, box_difficult=np.ones(len(e.boxes), bool))
            for e in others
        ]
        groups = evaluate._groups(
            argparse.Namespace(rarest=None, smallest=16),
            dataclasses.replace(data, examples=[first, *others]),
            "scenes test",
        )
        _, mean_area = groups["smallest"]
        self.assertEqual(
            set(mean_area), {data.classes[k] for k in first.box_classes}
        )

    def test_refuses_a_number_of_classes_before_it_predicts(self):
        out, end = run(self.csra, "--rarest", 0)
        self.assertIn("rarest classes must be from 1 to 16. Received: k=0", end)
        self.assertEqual(out, "")

    def test_refuses_a_width_of_the_beam_before_it_predicts(self):
        results = self.home / "widths"
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            out, end = run(
                *(self.csra, "--output_dir", results, "--beam_width", 3, 0)
            )
        self.assertEqual((out, end), ("", 2))
        self.assertIn(
            "--beam_width must be at least 1. Received: 3 0", printed.getvalue()
        )
        out, end = run(self.csra, "--output_dir", results, "--beam_width", 3)
        self.assertEqual(out, "")
        self.assertIn("made by `order_free_rnn`. Received: model='csra'", end)
        self.assertFalse(results.exists())

    def test_where_nothing_is_positive_there_is_no_number(self):
        nothing = np.zeros((2, 2))
        report = reports.measure(nothing, nothing, "ab")
        self.assertEqual(
            evaluate._gains(report["mAP"], {0.1: None}).splitlines()[-1],
            "  0.1      none",
        )
        self.assertEqual(
            evaluate._widths({"3": report}).split()[-4:], ["3", *["none"] * 3]
        )

    def test_says_that_images_were_trained_on(self):
        out, _ = run(self.csra, "--split", "trainval")
        self.assertIn("csra on scenes trainval, TRAINING images", out)

    def test_knows_its_images_by_another_name_and_the_missing_ones(self):
        root = self.home / "NUS-WIDE"
        trees.nus_wide(root)
        (root / "Flickr/actor/0000_4000.jpg").unlink()
        (root / "Flickr/actor/0000_5000.jpg").unlink()
        trained = self.home / "nus_wide_150k"
        classes = trees.NUS_WIDE_CONCEPTS
        save_run(trained, "gap", "nus_wide_150k", root, classes)
        results = self.home / "nus_wide results"
        with (
            contextlib.redirect_stderr(io.StringIO()),
            mock.patch.object(html, "_sections", return_value={}),
        ):
            out, end = run(
                *(trained, "--dataset", "nus_wide", "--data_dir", root),
                *("--output_dir", results),
            )
        self.assertIsNone(end)
        images = "nus_wide test (missing images: 1), may hold TRAINING images"
        self.assertIn(f"gap on {images}\n", out)
        page = (results / "report.html").read_text("utf-8")
        self.assertIn(f"<h1>gap on {images}</h1>", page)
        report = json.loads((results / "metrics.json").read_text())
        self.assertEqual(report["images"], images)
        self.assertEqual(report["num_missing"], 1)
        (root / "Flickr/actor/0002_4002.jpg").write_bytes(b"")
        (root / "Flickr/zoo_bear/0001_4001.jpg").write_bytes(b"")
        with contextlib.redirect_stderr(io.StringIO()):
            _, end = run(
                *(trained, "--dataset", "nus_wide", "--data_dir", root)
            )
        self.assertIn("1 of 6 images of test cannot be read", end)
        self.assertIn("Delete these files to have", end)

    def test_own_validation_images_are_called_so(self):
        names = "|".join(scenes.CLASSES)
        table = self.home / "photos.csv"
        image = "scenes/JPEGImages/test_00000"
        table.write_text(
            "image,labels,split\n"
            f"{image}0.jpg,{names},train\n{image}1.jpg,{names},val\n"
        )
        own = self.home / "own"
        classes = sorted(scenes.CLASSES)
        save_run(own, "csra", "manifest", table, classes)
        out, end = run(own)
        self.assertIsNone(end)
        self.assertIn("manifest val, VALIDATION images", out)
        _, end = run(own, "--smallest", 2)
        self.assertIn("manifest val has no boxes", end)
        self.assertIn("Received: --smallest 2", end)

    @pytest.mark.heavy
    def test_sequences_are_measured_and_drawn_as_the_model_gives_them(self):
        trained, results = self.home / "rnn", self.home / "rnn results"
        save_run(trained, "order_free_rnn", "scenes", self.data, scenes.CLASSES)
        flags = ("--output_dir", results, "--beam_width", 1, 3)
        out, end = run(trained, *flags)
        self.assertIsNone(end)
        self.assertIn("labels: the model's own sequences", out)
        self.assertIn("mAP (continuous), mean over steps", out)
        page = (results / "report.html").read_text("utf-8")
        self.assertIn("<dd>the model&#x27;s own sequences</dd>", page)
        self.assertIn("<dt>mAP (continuous), mean over steps</dt>", page)
        self.assertLen(re.findall('<img class="photos"', page), 6 + 1)
        model = keras.saving.load_model(trained / runs.MODEL)
        data = scenes.read(self.data, "test")
        batches = pipeline.evaluation_batches(data.examples, IMAGE_SIZE, 6)
        images, targets = next(batches.as_numpy_iterator())
        given = keras.ops.convert_to_numpy(model(images)["sequence"])
        correct = sum(
            targets[i, k]
            for i, sequence in enumerate(given)
            for k in sequence[sequence >= 0]
        )
        report = json.loads((results / "metrics.json").read_text())
        self.assertAlmostEqual(
            report["all"]["OR"], correct / (targets == 1).sum()
        )
        stored = np.load(results / "predictions.npz")
        self.assertAllEqual(stored["sequence"], given)
        self.assertEqual(stored["predicted"].sum(), (given >= 0).sum())
        self.assertIn("mean_over_steps", stored)
        widths = report["beam_widths"]
        self.assertEqual(list(widths), ["1", "3"])
        self.assertEqual(widths["3"]["all"], report["all"])
        for width, found in widths.items():
            cells = (found["mAP"], found["all"]["CF1"], found["all"]["OF1"])
            one, two, three = (f"{100 * number:.2f}" for number in cells)
            self.assertIn(
                f"<dt>Beam of width {width}</dt><dd>mAP (continuous) {one}, "
                f"CF1 {two}, OF1 {three}</dd>",
                page,
            )

    def test_a_split_without_labels_is_predicted(self):
        devkit = self.home / "VOCdevkit/VOC2012"
        image_ids = ["2008_000001", "2008_000002", "2008_000003"]
        (devkit / "ImageSets/Main").mkdir(parents=True)
        (devkit / "ImageSets/Main/test.txt").write_text("\n".join(image_ids))
        (devkit / "JPEGImages").mkdir()
        for k, image_id in enumerate(image_ids):
            shutil.copy(
                self.data / f"JPEGImages/test_00000{k}.jpg",
                devkit / f"JPEGImages/{image_id}.jpg",
            )
        trained = self.home / "voc"
        save_run(trained, "gap", "voc2012", devkit.parent, voc.CLASSES)
        results = self.home / "to send"
        command = (trained, "--split", "test", "--output_dir", results)

        for numbers in (("--residual_weight", 0.1), ("--rarest", 6)):
            _, end = run(*command, *numbers)
            self.assertIn("voc2012 test has no labels", end)
        _, end = run(*command[:3])
        self.assertIn("voc2012 test has no labels", end)
        self.assertFalse(results.exists())

        out, end = run(*command)
        self.assertIsNone(end)
        self.assertIn(f"tar -czf '{results}.tgz' -C '{results}' results", out)
        self.assertNotIn("mAP", out)
        found = sorted(path.name for path in results.iterdir())
        self.assertEqual(found, ["predictions.npz", "results"])
        stored = np.load(results / "predictions.npz")["probabilities"]
        self.assertEqual(stored.shape, (3, 20))
        lines = (
            (results / "results/VOC2012/Main/comp2_cls_test_car.txt")
            .read_text()
            .split()
        )
        self.assertEqual(lines[::2], image_ids)
        car = voc.CLASSES.index("car")
        self.assertAllClose(list(map(float, lines[1::2])), stored[:, car])

    def test_loads_the_images_that_it_names(self):
        data = scenes.read(self.data, "test")
        card = {"image_size": IMAGE_SIZE}
        images = html.inputs_of(card, data, [4, 1])
        batches = pipeline.evaluation_batches(data.examples, IMAGE_SIZE, 6)
        everything, _ = next(batches.as_numpy_iterator())
        self.assertAllEqual(images, everything[[4, 1]])

    def test_an_unreadable_image_is_an_error(self):
        with mock.patch.object(
            pipeline, "unreadable", return_value={0: "a.jpg: broken"}
        ):
            _, end = run(self.csra)
        self.assertIn("1 of 6 images of test cannot be read", end)
        self.assertNotIn("Delete", end)


@pytest.mark.heavy
class RarlTest(tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.home = pathlib.Path(
            cls.enterClassContext(tempfile.TemporaryDirectory())
        )
        cls.data = cls.home / "scenes"
        scenes.write(cls.data, num_trainval=3, num_test=6)
        cls.examples = scenes.read(cls.data, "test").examples
        cls.runs = [cls.save(f"rarl{seed}", seed=seed) for seed in (0, 1)]

    @classmethod
    def save(cls, name, method="rarl", classes=scenes.CLASSES, **settings):
        directory = cls.home / name
        save_run(directory, method, "scenes", cls.data, classes, **settings)
        return directory

    def logits(self, directory, size):
        """Gives the mean over ten views, and the targets."""
        model = keras.saving.load_model(directory / runs.MODEL)
        batches = pipeline.evaluation_batches(self.examples, size, 6)
        images, targets = next(batches.as_numpy_iterator())
        return ten_views(model, size, 32)(images).numpy(), targets

    def evaluate(self, *arguments):
        results = pathlib.Path(self.get_temp_dir()) / "results"
        with mock.patch.object(html, "_sections", return_value={}):
            out, end = run(*arguments, "--output_dir", results)
        self.assertIsNone(end)
        return (
            out,
            json.loads((results / "metrics.json").read_text()),
            np.load(results / "predictions.npz"),
            (results / "report.html").read_text("utf-8"),
        )

    def test_every_size_goes_through_its_own_run(self):
        flags = ("--views", "ten", "--sizes", 96, 64, "--margin", 32)
        out, report, stored, page = self.evaluate(*self.runs, *flags)
        of64, of96 = (
            self.logits(self.runs[1], 64),
            self.logits(self.runs[0], 96),
        )
        logits, targets = (of64[0] + of96[0]) / 2, of64[1]
        probabilities = stored["probabilities"]
        self.assertAllClose(probabilities, training.sigmoid(logits), 1e-4)
        self.assertAllEqual(stored["targets"], targets)
        title = "rarl on scenes test, ten views at 96 and 64"
        self.assertIn(f"{title}\n", out)
        self.assertIn(f"<h1>{title}</h1>", page)
        self.assertIn("6 images of 96 and 64 pixels", page)
        self.assertEqual(
            report["protocol"]["views"],
            {
                "sizes": [96, 64],
                "margin": 32,
                "runs": list(map(str, self.runs)),
            },
        )

    def test_one_run_may_have_all_sizes(self):
        flags = ("--views", "ten", "--sizes", 64, 96, "--margin", 32)
        out, _, stored, _ = self.evaluate(self.runs[0], *flags)
        logits = [self.logits(self.runs[0], size)[0] for size in (64, 96)]
        expected = training.sigmoid(np.mean(logits, axis=0))
        self.assertAllClose(stored["probabilities"], expected, 1e-4)
        self.assertIn("ten views at 64 and 96", out)

    def test_labels_of_the_softmax(self):
        trained = self.save("sharp")
        model = keras.saving.load_model(trained / runs.MODEL)
        classifier = model.get_layer("attention").classifier
        kernel, bias = classifier.get_weights()
        rng = np.random.default_rng(0)
        classifier.set_weights([20 * kernel, rng.normal(size=bias.shape)])
        runs.save_model(trained / runs.MODEL, model)
        out, report, _, page = self.evaluate(trained)
        batches = pipeline.evaluation_batches(self.examples, IMAGE_SIZE, 6)
        images, targets = next(batches.as_numpy_iterator())
        correct, counts = 0, []
        for logits, present in zip(model(images).numpy(), targets, strict=True):
            softmax = np.exp(logits) / np.exp(logits).sum()
            best = np.argsort(-softmax)[:3]
            chosen = [k for k in best if softmax[k] >= 0.1]
            counts.append(len(chosen))
            correct += sum(present[k] for k in chosen)
        self.assertGreater(len(set(counts)), 1)
        measured = report["all"]
        self.assertAllClose(measured["OP"], correct / sum(counts))
        self.assertAllClose(measured["OR"], correct / targets.sum())
        self.assertEqual(report["top3"], measured)
        labels = "the 3 best of a softmax over the classes, those from 0.1"
        self.assertIn(f"labels: {labels}\n", out)
        self.assertIn(f"<dd>{labels}</dd>", page)
        self.assertIn("mAP (continuous), softmax", out)

    def test_regions_are_those_of_the_run_or_of_another_method(self):
        settings = {"method": "edge_boxes", "num_regions": 1, "nms": 0.7}
        trained = self.save("given", regions=settings)
        model = keras.saving.load_model(trained / runs.MODEL)
        batches = pipeline.evaluation_batches(self.examples, IMAGE_SIZE, 6)
        images, _ = next(batches.as_numpy_iterator())
        laid = np.array([[0, 0, 0.5, 1]], "float32")
        for flags, asked in (
            ((), settings),
            (
                ("--proposals", "sliding_windows"),
                {
                    **settings,
                    "method": "sliding_windows",
                    "num_regions": len(proposals.sliding_windows()),
                },
            ),
        ):

            def propose(examples, asked=asked, **received):
                self.assertEqual(received, asked)
                return [dataclasses.replace(e, regions=laid) for e in examples]

            with mock.patch.object(evaluate.proposals, "propose", propose):
                out, report, stored, page = self.evaluate(trained, *flags)
            shutil.rmtree(f"{self.get_temp_dir()}/results")
            title = f"rarl on scenes test, regions by {asked['method']}"
            self.assertIn(f"{title}\n", out)
            self.assertEqual(report["protocol"], {"regions": asked})
            settings_shown = ", ".join(f"{k} {v}" for k, v in asked.items())
            self.assertIn(settings_shown, page)
            logits = model(
                {"image": images, "regions": np.tile(laid, (6, 1, 1))}
            )
            self.assertAllClose(
                stored["probabilities"], training.sigmoid(logits.numpy()), 1e-4
            )

    def test_pictures_show_the_regions(self):
        settings = {"method": "sliding_windows", "num_regions": 1}
        for name, options in {"a": {}, "b": {"regions": settings}}.items():
            results = self.home / f"results of {name}"
            out, end = run(self.save(name, **options), "--output_dir", results)
            self.assertIsNone(end)
            page = (results / "report.html").read_text("utf-8")
            self.assertLen(re.findall('<img class="photos"', page), 6 + 1)

    def test_refuses_what_does_not_fit(self):
        other = self.save("csra", "csra")
        fewer = self.save("fewer", classes=scenes.CLASSES[:-1])
        given = {"method": "edge_boxes", "num_regions": 1}
        given = self.save("refused", regions=given)
        of96 = self.save("of96", resize=96)
        one, two = self.runs
        ten, sizes = ("--views", "ten"), ("--sizes", 64, 96)
        for command, message in (
            ((one, *ten), "--views ten, --sizes None"),
            ((one, *sizes), "--views None, --sizes .64, 96."),
            ((one, *ten, "--sizes", 64, 64), "--sizes .64, 64."),
            ((one, two), "2 runs, 0 sizes"),
            ((of96, one, *ten, *sizes), "64 for .*of96, .* --resize 96"),
            ((one, two, *ten, "--sizes", 64), "2 runs, 1 sizes"),
            ((one, other, *ten, *sizes), "same method.*'csra' in"),
            ((one, fewer, *ten, *sizes), "same classes"),
            ((other, *ten, *sizes), "made by `rarl`. Received: model='csra'"),
            ((given, *ten, *sizes), "Received: locations='given'"),
            ((one, *ten, "--sizes", 100), "multiple of 16 .* image_size=100"),
            ((one, "--proposals", "own"), "Received: .*rarl0, made by rarl"),
        ):
            with contextlib.redirect_stderr(io.StringIO()) as printed:
                out, end = run(*command)
            self.assertEqual(out, "")
            text = printed.getvalue() if end == 2 else end
            self.assertRegex(text.strip(), re.compile(message, re.S))
