import contextlib
import csv
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from zoo import training, workers
from zoo.data import scenes

CLUSTER = {"worker": ["a:1", "b:1", "c:1"]}


def with_config(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return mock.patch.dict(os.environ, {"TF_CONFIG": text})


def task(kind, index):
    return {"task": {"type": kind, "index": index}}


class ClusterTest(parameterized.TestCase, tf.test.TestCase):
    def test_one_process_without_the_variable(self):
        for text in ("", " "):
            with with_config(text):
                self.assertEqual(workers.cluster(), (0, 1))
                self.assertTrue(workers.is_chief())

    @parameterized.parameters(
        (CLUSTER, "worker", 0, (0, 3)),
        (CLUSTER, "worker", 2, (2, 3)),
        ({"chief": ["d:1"], **CLUSTER}, "chief", 0, (0, 4)),
        ({"chief": ["d:1"], **CLUSTER}, "worker", 0, (1, 4)),
    )
    def test_counts_the_workers(self, cluster, kind, index, expected):
        with with_config({"cluster": cluster, **task(kind, index)}):
            self.assertEqual(workers.cluster(), expected)
            self.assertEqual(workers.is_chief(), expected[0] == 0)

    @parameterized.parameters(
        ("{", "Received: {"),
        ({"cluster": CLUSTER}, "KeyError"),
        ({"cluster": CLUSTER, **task("worker", "x")}, "ValueError"),
        ({"cluster": CLUSTER, **task("worker", 3)}, "task.index=3"),
        ({"cluster": CLUSTER, **task("chief", 0)}, "of 0 chiefs"),
        ({"cluster": CLUSTER, **task("ps", 0)}, "task.type='ps'"),
        ({"cluster": {"ps": [], **CLUSTER}, **task("worker", 0)}, "'ps'"),
    )
    def test_names_what_is_wrong(self, config, message):
        with (
            with_config(config),
            self.assertRaisesRegex(ValueError, f"must be JSON.*{message}"),
        ):
            workers.cluster()

    def test_several_workers_have_all_of_their_devices(self):
        with (
            with_config({"cluster": CLUSTER, **task("worker", 0)}),
            self.assertRaisesRegex(ValueError, "Received: devices='cpu:2'"),
        ):
            training.strategy("cpu:2")


class OneWorkerTest(tf.test.TestCase):
    def test_has_everything(self):
        strategy = training.strategy("one")
        self.assertEqual(workers.count(strategy), 1)
        self.assertEqual(workers.share(strategy, 5), slice(0, 5))
        self.assertEqual(workers.from_chief(strategy, lambda: [1]), [1])
        with self.assertRaisesRegex(ValueError, "0 images for 1 workers"):
            workers.share(strategy, 0)

    def test_its_errors_are_its_own(self):
        with (
            self.assertRaises(tf.errors.AbortedError),
            workers.named_if_lost(),
        ):
            raise tf.errors.AbortedError(None, None, "x")


class NamedIfLostTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        (
            "Graph execution error:\n\nDetected at node Reduce\nCollective ops "
            "is aborted by: failed to connect to all addresses\nAdditional "
            "GRPC error information from remote target:\n:UNKNOWN:Error",
            "UnavailableError: failed to connect to all addresses$",
        ),
        (
            "{{node}} Collective ops is aborted by: Error reported from "
            "/job:worker/task:1: The following tasks are unhealthy:\n"
            "/job:worker/replica:0/task:1\nThe tasks have crashed.\nThe error "
            "could be from a previous operation. [Op:CollectiveReduceV2] name:",
            "unhealthy: /job:worker/replica:0/task:1 The tasks have crashed.$",
        ),
        (
            "Collective ops are gone\nso",
            "UnavailableError: Collective ops are ",
        ),
    )
    def test_says_why(self, text, expected):
        config = {"cluster": CLUSTER, **task("worker", 0)}
        with (
            with_config(config),
            self.assertRaisesRegex(ConnectionError, f"lost.*{expected}"),
            workers.named_if_lost(),
        ):
            raise tf.errors.UnavailableError(None, None, text)

    def test_other_errors_stay(self):
        with (
            with_config({"cluster": CLUSTER, **task("worker", 0)}),
            self.assertRaises(tf.errors.InternalError),
            workers.named_if_lost(),
        ):
            raise tf.errors.InternalError(None, None, "out of memory")


class ShareTest(tf.test.TestCase):
    def test_shares_are_all_examples_end_to_end(self):
        for num_examples in range(3, 20):
            found = []
            for i in range(3):
                with (
                    mock.patch.object(workers, "count", return_value=3),
                    mock.patch.object(workers, "index", return_value=i),
                ):
                    own = workers.share(None, num_examples)
                self.assertBetween(
                    own.stop - own.start,
                    num_examples // 3,
                    num_examples // 3 + 1,
                )
                found += range(num_examples)[own]
            self.assertEqual(found, list(range(num_examples)))


# One worker of a training, which notes its weights, and may die in a step.
WORKER = """
    import json, os, signal, sys
    import keras, numpy as np
    from recipes import steps, train_csra

    notes, dies, *arguments = sys.argv[1:]
    fit, make_backbone = keras.Model.fit, steps.make_backbone
    index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]

    def make_other_backbone(recipe):
        backbone = make_backbone(recipe)
        # As on a machine that has another file of pretrained weights.
        for weight in backbone.trainable_weights:
            weight.assign(weight + 0.01 * index)
        return backbone

    steps.make_backbone = make_other_backbone

    class Die(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if dies == "dies" and self.model.optimizer.iterations == 4 + 2:
                os.kill(os.getpid(), signal.SIGKILL)

    def noted(model, *a, callbacks, **k):
        fit(model, *a, callbacks=[*callbacks, Die()], **k)
        np.savez(notes, *model.get_weights())

    keras.Model.fit = noted
    train_csra.main(arguments)
"""


def free_addresses(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


@pytest.mark.heavy
class TwoWorkersTest(tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.home = pathlib.Path(self.get_temp_dir())
        scenes.write(self.home / "scenes", num_trainval=40, num_test=3)

    def train(self, name, count, *flags, dying=None):
        """Runs all workers to their ends; gives statuses and outputs."""
        addresses = free_addresses(count)
        processes = []
        for i in range(count):
            config = {"cluster": {"worker": addresses}, **task("worker", i)}
            command = [sys.executable, "-c", textwrap.dedent(WORKER)]
            command += [self.home / f"{name}-{i}.npz"]
            command += ["dies" if i == dying else "lives"]
            command += ["--data_dir", self.home / "scenes", "--resume"]
            command += ["--image_size", "64", "--batch_size", "8"]
            command += ["--epochs", "3", *flags]
            # Each has a folder of its own, as on machines that share none.
            command += ["--output_dir", self.home / f"{name}-{i}"]
            processes.append(
                subprocess.Popen(
                    list(map(str, command)),
                    env={**os.environ, "TF_CONFIG": json.dumps(config)},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=300)[0] for process in processes]
        return [process.returncode for process in processes], outputs

    def history(self, name):
        with open(self.home / f"{name}-0/history.csv") as file:
            return [
                [float(row[key]) for key in ("loss", "val_loss", "val_mAP")]
                for row in csv.DictReader(file)
            ]

    def test_two_train_as_one_also_after_one_was_killed(self):
        codes, outputs = self.train("one", 1, "--devices", "cpu:2")
        self.assertEqual(codes, [0], outputs[0])
        codes, outputs = self.train("two", 2, dying=1)
        self.assertEqual(codes, [1, -signal.SIGKILL], outputs[0])
        self.assertIn("error: Another worker was lost", outputs[0])
        self.assertLen(self.history("two"), 1)
        codes, outputs = self.train("two", 2)
        self.assertEqual(codes, [0, 0], "\n".join(outputs))
        self.assertIn("Epoch 2/3", outputs[0])
        self.assertNotIn("Epoch 1/3", outputs[0])

        # Of two replicas each: batch statistics are of a replica's images.
        self.assertAllClose(self.history("two"), self.history("one"), atol=1e-4)
        one, chief, other = (
            np.load(self.home / f"{name}.npz")
            for name in ("one-0", "two-0", "two-1")
        )
        for name in one.files:
            self.assertAllEqual(other[name], chief[name])
            self.assertAllClose(chief[name], one[name], atol=1e-4)
        # Only the chief writes.
        self.assertFalse((self.home / "two-1").exists())
        card = json.loads((self.home / "two-0/card.json").read_text())
        self.assertEqual((card["workers"], card["replicas"]), (2, 2))
