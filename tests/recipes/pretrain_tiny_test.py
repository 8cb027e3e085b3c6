import contextlib
import io
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from recipes import pretrain_tiny
from zoo.backbones import tiny
from zoo.data import scenes


def pooled(backbone, images):
    return tf.reduce_mean(backbone(images.astype("float32"))["P5"], (1, 2))


def nearest_mean_accuracy(backbone):
    """Names each of 320 fresh stamps by the nearest mean of 320 others."""
    images, labels = scenes.stamps(640, seed=1)
    features = pooled(backbone, images).numpy()
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    known, asked = features[:320], features[320:]
    means = np.stack(
        [known[labels[:320] == k].mean(0) for k in range(len(scenes.CLASSES))]
    )
    distances = np.linalg.norm(asked[:, None] - means, axis=-1)
    return (distances.argmin(1) == labels[320:]).mean()


class PretrainTinyTest(parameterized.TestCase, tf.test.TestCase):
    def run_main(self, *flags):
        # Even a test that fails must not replace the shipped weights.
        spare = os.path.join(self.get_temp_dir(), "spare.weights.h5")
        flags = ("--output", spare, *flags)
        output = io.StringIO()
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            try:
                pretrain_tiny.main(flags)
            except SystemExit as end:
                self.assertNotEqual(end.code, 0)
        return output.getvalue()

    @pytest.mark.heavy
    def test_writes_weights_that_tiny_loads(self):
        path = pathlib.Path(self.get_temp_dir(), "new", "a.weights.h5")
        flags = ("--num_stamps", "64", "--epochs", "1", "--output", str(path))
        self.assertIn(f"weights in {path}", self.run_main(*flags))
        self.assertEqual(os.listdir(path.parent), ["a.weights.h5"])

        backbone = tiny()
        initial = backbone.get_weights()
        backbone.load_weights(path)
        for old, new in zip(initial, backbone.get_weights(), strict=True):
            self.assertTrue((old != new).any())

    @pytest.mark.by_hand
    def test_same_seed_gives_the_same_weights(self):
        runs = [
            pretrain_tiny.train(pretrain_tiny.Recipe(32, epochs=1, seed=seed))
            for seed in (3, 3)
        ]
        first, second = (run[0].get_weights() for run in runs)
        for a, b in zip(first, second, strict=True):
            self.assertAllClose(a, b, atol=1e-6)

    @parameterized.parameters(
        (("--output", "tiny.h5"), "must end in .weights.h5: tiny.h5"),
        (("--epochs", "0"), "--epochs must be at least 1"),
        (("--num_stamp", "64"), "unrecognized arguments: --num_stamp"),
    )
    def test_names_a_bad_flag(self, flags, message):
        self.assertIn(message, self.run_main(*flags))

    def test_shipped_weights_know_the_classes(self):
        random = nearest_mean_accuracy(tiny(image_size=48))
        shipped = nearest_mean_accuracy(tiny(48, pretrained="stamps"))
        self.assertGreater(shipped, 0.6)
        self.assertGreater(shipped, random + 0.3)
