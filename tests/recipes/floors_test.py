"""What the recipes reach on scenes, by the floors that three seeds gave.

Minutes each, so by hand: `python -m pytest -m by_hand`. CI runs CSRA's.
"""

import json
import pathlib

import pytest
import tensorflow as tf
from absl.testing import parameterized

from recipes import (
    train_baseline,
    train_csra,
    train_fan,
    train_order_free_rnn,
    train_rarl,
    train_rgnn,
)
from tests.recipes.command import run


class FloorsTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        (train_csra, (), 0.84),
        (train_baseline, ("--pooling", "max"), 0.81),
        (train_baseline, (), 0.77),
        (train_fan, (), 0.74),
        (train_order_free_rnn, (), 0.76),
        (train_rarl, (), 0.67),
        (train_rgnn, (), 0.73),
    )
    @pytest.mark.by_hand
    def test_reaches_its_floor(self, recipe, flags, floor):
        directory = pathlib.Path(self.get_temp_dir()) / "run"
        _, err, code = run(recipe.main, *flags, "--output_dir", directory)
        self.assertEqual(code, 0, err)
        report = json.loads((directory / "metrics.json").read_text())
        self.assertEqual(report["mAP_mode"], "continuous")
        self.assertBetween(report["mAP"], floor, 1)
