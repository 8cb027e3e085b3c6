"""Methods but CSRA, from real photos to a served answer."""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from recipes import (
    train_fan,
    train_order_free_rnn,
    train_rarl,
    train_rgnn,
)
from serving import ask
from serving.client import Client
from serving.server import Server
from tests.recipes.command import run
from zoo import preprocess
from zoo.data import proposals, voc

MINI = pathlib.Path(__file__).parents[3] / "shared/data/voc_mini/VOCdevkit"


class RealPhotosTest(parameterized.TestCase, tf.test.TestCase):
    @pytest.mark.by_hand
    def test_fan(self):
        self.check_from_files_to_a_served_answer(
            "fan", train_fan, ("--dim", 16)
        )

    @pytest.mark.by_hand
    def test_order_free_rnn(self):
        self.check_from_files_to_a_served_answer(
            *("order_free_rnn", train_order_free_rnn),
            ("--units", 16, "--preliminary_epochs", 1),
        )

    @parameterized.parameters(
        ("rarl", train_rarl, ("--units", 16, "--num_steps", 2)),
        (
            "rgnn",
            train_rgnn,
            ("--global_epochs", 1, "--readout_epochs", 0, "--open_epochs", 1)
            + ("--gate_epochs", 1, "--dim", 16, "--num_regions", 12),
        ),
    )
    @pytest.mark.by_hand
    def test_regions(self, name, recipe, flags):
        self.check_from_files_to_a_served_answer(name, recipe, flags)

    def check_from_files_to_a_served_answer(self, name, recipe, flags):
        if not MINI.exists():
            self.skipTest("needs shared/data/voc_mini, which is not there")
        directory = pathlib.Path(self.get_temp_dir()) / "run"
        out, err, code = run(
            *(recipe.main, "--dataset", "voc2012", "--data_dir", MINI),
            *("--image_size", 64, "--batch_size", 8, "--epochs", 1, *flags),
            *("--validation_fraction", 0.2, "--output_dir", directory),
        )
        self.assertEqual(code, 0, err)
        self.assertIn(f"{name} on voc2012", out)

        stored = np.load(directory / "predictions.npz")
        photos = [
            MINI / f"VOC2012/JPEGImages/{image_id}.jpg"
            for image_id in stored["image_ids"][:3]
        ]
        model = keras.saving.load_model(directory / "model.keras")
        images = [preprocess.load(photo.read_bytes(), 64) for photo in photos]
        inputs, regions = tf.stack(images), None
        if name == "rgnn":
            card = json.loads((directory / "card.json").read_text())
            dataset = voc.read(MINI, "trainval", year=2012)
            examples = {e.image_id: e for e in dataset.examples}
            examples = [examples[photo.stem] for photo in photos]
            examples = proposals.propose(examples, **card["regions"])
            regions = [example.regions for example in examples]
            self.assertEqual({len(r) for r in regions}, {12})
            inputs = {"image": inputs, "regions": tf.stack(regions)}
        expected = model(inputs)
        with Server({name: directory / "export" / name}, port=0) as server:
            with Client(server.target) as client:
                self.assertEqual(client.labels(name), voc.CLASSES)
                answers = client.predict(
                    [p.read_bytes() for p in photos], name, regions=regions
                )
            out, err, code = run(
                ask.main, "--target", server.target, "--model", name, *photos
            )
        self.assertEqual(code, 0, err)
        for i, answer in enumerate(answers):
            self.assertAllClose(
                answer.probabilities, stored["probabilities"][i], atol=1e-5
            )
            self.assertIn(photos[i].name, out)
            if name != "order_free_rnn":
                self.assertIsNone(answer.sequence_labels)
                continue
            found = expected["sequence"][i].numpy()
            labels = [voc.CLASSES[k] for k in found if k >= 0]
            self.assertEqual(list(answer.sequence_labels), labels)
            self.assertAllClose(
                answer.sequence_probabilities,
                expected["sequence_probabilities"][i][: len(labels)],
                atol=1e-5,
            )
