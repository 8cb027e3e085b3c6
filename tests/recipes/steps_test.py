import contextlib
import dataclasses
import io
import json
import pathlib
import re
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from recipes import cli, steps
from recipes.data import Data
from zoo import checkpoints, runs, training, workers
from zoo.data.example import Example


def example():
    return Example(
        image_id="a",
        image_path="a.jpg",
        targets=np.array([1, 0, -1], "float32"),
        boxes=np.array([[0, 0, 1, 1]], "float32"),
        box_classes=np.array([0], "int32"),
        box_difficult=np.array([False]),
    )


class HasEndedTest(parameterized.TestCase, tf.test.TestCase):
    """Of two workers, whose exchange is played by the test."""

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id()
        self.strategy = training.strategy("one")

    def check(self, chief, own, others_differ=0, resume=False, made_by=None):
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
            return steps._has_ended(
                self.strategy, self.directory, own, resume, made_by
            )

    def test_a_worker_that_would_train_another_recipe_names_it(self):
        wanted = {"seed": 0, "data_sha256": "a", "resume": False}
        with self.assertRaisesRegex(
            ValueError, r"worker 1 \(now\): data_sha256: 'a' then, 'b' now"
        ):
            self.check(
                {"ended": False, "wanted": wanted},
                {"seed": 0, "data_sha256": "b"},
            )

    @parameterized.parameters(
        ({"resume": True}, "resume: False then, True now"),
        ({"made_by": {"commit": "b"}}, "commit: 'a' then, 'b' now"),
    )
    def test_a_worker_that_would_do_it_otherwise_names_it(self, own, message):
        wanted = {"seed": 0, "commit": "a", "resume": False}
        with self.assertRaisesRegex(ValueError, rf"\(now\): {message}"):
            self.check({"ended": False, "wanted": wanted}, {"seed": 0}, **own)

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


class TrainTest(tf.test.TestCase):
    def test_workers_compare_their_data_and_their_code(self):
        image = example()
        data = Data(("a", "b", "c"), [image], [], [image], "test", 0)
        compared = []

        def has_ended(strategy, directory, identity, resume, made_by=None):
            compared.append({**identity, **(made_by or {})})
            if len(compared) == 2:
                raise ValueError("seen")
            return False

        arguments = mock.MagicMock(devices="one", dataset="scenes")
        with (
            mock.patch.multiple(
                steps, _has_ended=has_ended, read_data=lambda *_: data
            ),
            self.assertRaisesRegex(SystemExit, "seen"),
        ):
            steps.train("gap", cli.Recipe(), arguments, build=None)
        new = set(compared[1]) - set(compared[0])
        self.assertEqual(new, {"data_sha256", "versions", "commit"})
        self.assertEqual(compared[1]["data_sha256"], steps.digest([image]))


class BeginTest(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id()
        self.strategy = training.strategy("one")

    def begin(self, **changed):
        start = {
            **{"versions": {"keras": "3"}, "commit": "a"},
            **{"workers": 1, "replicas": 1, "command": "train", **changed},
        }
        return steps._begin(
            self.strategy, self.directory, {"seed": 0}, start, True
        )

    def test_another_process_is_named(self):
        _, held = self.begin()
        with self.assertRaisesRegex(ValueError, "Another process is writing"):
            steps._has_ended(self.strategy, self.directory, {"seed": 0}, True)
        with self.assertRaisesRegex(ValueError, "Another process is writing"):
            self.begin()
        held.close()
        self.assertFalse(
            steps._has_ended(self.strategy, self.directory, {"seed": 0}, True)
        )

    @parameterized.parameters(
        ("commit", "b"),
        ("versions", {"keras": "4"}),
        ("workers", 2),
        ("replicas", 2),
    )
    def test_warns_where_a_run_goes_on_otherwise(self, name, value):
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            self.begin()[1].close()
            self.begin(command="train --resume")[1].close()
            self.assertEqual(error.getvalue(), "")
            earlier, held = self.begin(**{name: value})
        held.close()
        self.assertEqual(
            [start["command"] for start in earlier], ["train", "train --resume"]
        )
        now = re.escape(repr(value))
        self.assertRegex(error.getvalue(), f"{name}: .* then, {now} now")


class FitTest(tf.test.TestCase):
    def test_a_run_killed_beside_its_last_checkpoint_has_all_rows(self):
        directory = pathlib.Path(self.get_temp_dir()) / self.id()
        run = mock.MagicMock(directory=directory, recipe=cli.Recipe(epochs=2))
        history = [{"loss": 2.0}, {"loss": 1.0}]
        with (
            mock.patch.object(steps, "_compile"),
            mock.patch.multiple(
                checkpoints,
                resume=mock.Mock(return_value=history),
                best=mock.Mock(return_value="the best"),
                last=mock.Mock(return_value="the last"),
                load=mock.DEFAULT,
            ) as mocked,
        ):
            steps.fit(run)
            run.data.validation = []
            steps.fit(run)
        run.model.fit.assert_not_called()
        loaded = [call.args[1] for call in mocked["load"].call_args_list]
        self.assertEqual(loaded, ["the best", "the last"])
        self.assertEqual(
            (directory / "history.csv").read_text().split(),
            ["epoch,loss", "0,2.0", "1,1.0"],
        )


class DigestTest(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.example = example()

    @parameterized.parameters(
        {"image_id": "b"},
        {"targets": np.array([1, 0, 0], "float32")},
        {"boxes": np.array([[0, 0, 1, 0.5]], "float32")},
        {"box_classes": np.array([1], "int32")},
        {"box_difficult": np.array([True])},
        {"crop": (0.0, 0.0, 0.5, 0.5)},
        {"regions": np.array([[0, 0, 1, 1]], "float32")},
    )
    def test_tells_other_data(self, **change):
        other = dataclasses.replace(self.example, **change)
        self.assertNotEqual(steps.digest([self.example]), steps.digest([other]))

    def test_tells_smaller_images(self):
        found = {
            steps.digest([self.example], largest_side=side)
            for side in (None, 320, 640)
        }
        self.assertLen(found, 3)

    def test_is_the_same_wherever_the_files_are(self):
        example = dataclasses.replace(self.example, crop=(0.1, 0.2, 0.3, 0.7))
        moved = dataclasses.replace(
            example,
            image_path="test-00000-of-00001.tfrecord",
            span=(12, 34),
            size=(5, 6),
            crop=tuple(np.array(example.crop, "float32").tolist()),
        )
        self.assertEqual(steps.digest([example]), steps.digest([moved]))

    def test_order_counts_and_parts_do_not(self):
        a = self.example
        b = dataclasses.replace(a, image_id="b")
        self.assertNotEqual(steps.digest([a, b]), steps.digest([b, a]))
        self.assertEqual(steps.digest([a, b]), steps.digest([a], [b]))

    def test_names_of_any_bytes(self):
        example = dataclasses.replace(self.example, image_id="caf\udce9")
        self.assertLen(steps.digest([example]), 64)
