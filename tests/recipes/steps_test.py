import json
import pathlib
from unittest import mock

import tensorflow as tf

from recipes import steps
from zoo import runs, training, workers


class HasEndedTest(tf.test.TestCase):
    """Of two workers, whose exchange is played by the test."""

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id()
        self.strategy = training.strategy("one")

    def check(self, chief, own, others_differ=0):
        def from_chief(strategy, make):
            return json.loads(json.dumps(chief)) if chief else make()

        with (
            mock.patch.multiple(
                workers,
                from_chief=from_chief,
                count=lambda strategy: 2,
                index=lambda strategy: 1 if chief else 0,
                total=lambda strategy, array: array + others_differ,
            ),
        ):
            return steps._has_ended(self.strategy, self.directory, own, False)

    def test_a_worker_that_would_train_another_recipe_names_it(self):
        wanted = {"seed": 0, "data_sha256": "a", "resume": False}
        with self.assertRaisesRegex(
            ValueError, r"worker 1 \(now\): data_sha256: 'a' then, 'b' now"
        ):
            self.check(
                {"ended": False, "wanted": wanted},
                {"seed": 0, "data_sha256": "b"},
            )

    def test_the_others_end_with_it(self):
        with self.assertRaisesRegex(ValueError, "worker 0.*no difference"):
            self.check(None, {"seed": 0}, others_differ=1)
        self.assertFalse(self.check(None, {"seed": 0}))

    def test_what_keeps_the_chief_from_writing_ends_all(self):
        runs.write_json(self.directory / runs.RECIPE, {"seed": 0})
        with self.assertRaisesRegex(ValueError, "a run that did not end"):
            self.check(None, {"seed": 0})
        with self.assertRaisesRegex(ValueError, "no room"):
            self.check({"error": "no room"}, {"seed": 0})
