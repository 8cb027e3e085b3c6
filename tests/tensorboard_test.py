import io
import pathlib
import subprocess
import sys
import textwrap
import types
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from tensorboard.backend.event_processing import (
    data_provider,
    plugin_event_multiplexer,
)
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.histogram import histograms_plugin
from tensorboard.plugins.pr_curve import pr_curves_plugin
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from zoo import tensorboard

CLASSES = ("ant", "traffic light", "cat/big", "none")


def answers(num_examples=300):
    """Targets with unknown ones, a class without positives; probabilities."""
    rng = np.random.default_rng(0)
    shape = (num_examples, len(CLASSES))
    targets = (rng.random(shape) < 0.4).astype("float32")
    targets[rng.random(shape) < 0.2] = -1
    targets[:, -1] = np.minimum(targets[:, -1], 0)
    probabilities = rng.random(shape).astype("float32")
    probabilities[:2] = [[0, 1, 0.5, 1], [1, 0, 0.25, 0]]
    return targets, probabilities


def writer(directory, targets, probabilities, ap, pictures=None):
    return tensorboard.TensorBoard(
        directory,
        CLASSES,
        types.SimpleNamespace(
            targets=targets, probabilities=probabilities, average_precision=ap
        ),
        pictures or (lambda model, probabilities: {}),
        {},
    )


class TensorBoardTest(tf.test.TestCase):
    """Reads the event file back as TensorBoard itself does."""

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id()
        self.targets, self.probabilities = answers()
        self.ap = np.array([0.75, 0.5, 0.25, np.nan])

    def write(self, epochs, targets=None):
        callback = writer(
            self.directory,
            self.targets if targets is None else targets,
            self.probabilities,
            self.ap,
        )
        callback.set_params({"epochs": epochs})
        for epoch in range(epochs):
            callback.on_epoch_end(epoch, {"loss": 2.0})
        callback.on_train_end()
        events = plugin_event_multiplexer.EventMultiplexer()
        events.AddRunsFromDirectory(str(self.directory))
        events.Reload()
        return base_plugin.TBContext(
            data_provider=data_provider.MultiplexerDataProvider(
                events, str(self.directory)
            )
        )

    def test_curves_of_each_class_with_positives(self):
        plugin = pr_curves_plugin.PrCurvesPlugin(self.write(epochs=1))
        tags = plugin.tags_impl(RequestContext(), "")["."]
        self.assertEqual(
            {tag: entry["displayName"] for tag, entry in tags.items()},
            {f"precision_recall/{c}/pr_curves": c for c in CLASSES[:3]},
        )
        for k, name in enumerate(CLASSES[:3]):
            tag = f"precision_recall/{name}/pr_curves"
            curves = plugin.pr_curves_impl(RequestContext(), "", ["."], tag)
            (curve,) = curves["."]
            self.assertEqual(curve["step"], 1)
            # Up to the last one that some known score reaches.
            highest = self.probabilities[self.targets[:, k] != -1, k].max()
            count = int(highest * 200) + 1
            self.assertAllClose(curve["thresholds"], np.arange(count) / 200)
            for i, threshold in enumerate(curve["thresholds"]):
                counts = [0, 0, 0, 0]
                for target, score in zip(
                    self.targets[:, k], self.probabilities[:, k], strict=True
                ):
                    # TensorBoard's buckets are in the scores' precision.
                    given = np.floor(score * 200) >= i
                    if target != -1:
                        counts[2 * (not given) + (target != given)] += 1
                correct, wrong, rejected, missed = counts
                self.assertEqual(
                    [
                        curve[f"{kind}_{sign}s"][i]
                        for kind in ("true", "false")
                        for sign in ("positive", "negative")
                    ],
                    [correct, rejected, wrong, missed],
                    threshold,
                )
                self.assertAllClose(
                    [curve["precision"][i], curve["recall"][i]],
                    [
                        correct / max(correct + wrong, 1),
                        correct / (correct + missed),
                    ],
                )

    def test_histograms_of_present_and_absent(self):
        plugin = histograms_plugin.HistogramsPlugin(self.write(epochs=2))
        for name, wanted in (("present", 1), ("absent", 0)):
            rows, _ = plugin.histograms_impl(
                RequestContext(), f"scores/{name}", ".", ""
            )
            self.assertEqual([step for _, step, _ in rows], [1, 2])
            counts = [0] * 50
            for target, score in zip(
                self.targets.flat, self.probabilities.flat, strict=True
            ):
                if target == wanted:
                    counts[min(int(score * 50), 49)] += 1
            left, right, received = np.transpose(rows[0][2])
            self.assertAllEqual(received, counts)
            self.assertAllClose(left, np.arange(50) / 50)
            self.assertAllClose(right, np.arange(1, 51) / 50)

    def test_nothing_is_known(self):
        self.ap[:] = np.nan
        context = self.write(1, targets=np.full_like(self.targets, -1))
        self.assertEqual(
            pr_curves_plugin.PrCurvesPlugin(context).tags_impl(
                RequestContext(), ""
            ),
            {},
        )
        rows, _ = histograms_plugin.HistogramsPlugin(context).histograms_impl(
            RequestContext(), "scores/present", ".", ""
        )
        self.assertAllEqual(np.array(rows[0][2])[:, 2], np.zeros(50))

    def test_draws_a_few_times_and_at_the_end(self):
        drawn, curves = [], []
        callback = writer(
            self.directory,
            self.targets,
            self.probabilities,
            self.ap,
            lambda model, _: drawn.append(epoch) or {},
        )
        with mock.patch.object(
            tensorboard,
            "write_curve",
            lambda name, *_: curves.append((epoch, name)),
        ):
            for epochs, expected in (
                (3, [0, 1, 2]),
                (25, [0, 3, 6, 9, 12, 15, 18, 21, 24]),
                (30, [*range(0, 30, 3), 29]),
            ):
                drawn.clear()
                curves.clear()
                callback.set_params({"epochs": epochs})
                for epoch in range(epochs):
                    callback.on_epoch_end(epoch, {})
                self.assertEqual(drawn, expected)
                self.assertEqual(
                    curves, [(i, c) for i in expected for c in CLASSES[:3]]
                )
        callback.on_train_end()


def traced_steps(directory):
    """Reads which steps each trace has, in the order of the traces."""
    folders = (directory / "plugins/profile").glob("*/*.xplane.pb")
    found = []
    for path in sorted(folders, key=lambda path: path.stat().st_mtime):
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
        found.append([])
        for plane in space.planes:
            stats = {k: v.name for k, v in plane.stat_metadata.items()}
            for line in plane.lines:
                for event in line.events:
                    if plane.event_metadata[event.metadata_id].name == "train":
                        values = {
                            stats[stat.metadata_id]: stat.int64_value
                            for stat in event.stats
                        }
                        found[-1].append(values["step_num"])
    return found


def small():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    return model


def fit(model, callbacks, steps=4, epochs=2, batch_size=2, first=0):
    """Trains, and gives what was printed."""
    x = np.ones((batch_size * steps, 2), "float32")
    batches = tf.data.Dataset.from_tensor_slices((x, x[:, :1]))
    out = io.StringIO()
    with mock.patch("sys.stdout", out), tensorboard.no_trace_left():
        model.fit(
            batches.batch(batch_size),
            initial_epoch=first,
            epochs=epochs,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )
    return out.getvalue()


class ProfileTest(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id()

    @parameterized.parameters(
        (12, 3, 1, [6, 7, 8]),  # after the warm-up
        (12, 7, 1, [6, 7, 8, 9, 10, 11, 12]),
        (6, 3, 1, [4, 5, 6]),  # of which there is less
        (4, 9, 1, [2, 3, 4]),  # fewer than asked for
        (1, 2, 2, [1]),  # the first epoch has but the step that compiles
    )
    def test_traces_the_right_steps(self, steps, asked, epoch, expected):
        profile = tensorboard.Profile(self.directory, asked)
        printed = fit(small(), [profile], steps, epochs=3)
        self.assertEqual(traced_steps(self.directory), [expected])
        self.assertEqual(
            printed,
            f"Steps {expected[0]} to {expected[-1]} of epoch {epoch} are "
            f"traced in {self.directory}: TensorBoard shows them under "
            "Profile, with its plugin (pip install xprof).\n",
        )

    def test_traces_the_first_epoch_after_a_resume(self):
        profile = tensorboard.Profile(self.directory, 2)
        printed = fit(small(), [profile], steps=8, epochs=5, first=4)
        self.assertEqual(traced_steps(self.directory), [[6, 7]])
        self.assertStartsWith(printed, "Steps 6 to 7 of epoch 5 are traced")

    def test_says_that_nothing_was_traced(self):
        profile = tensorboard.Profile(self.directory, 2)
        printed = fit(small(), [profile], steps=1, epochs=1)
        self.assertStartsWith(printed, "No step was traced: the first one")
        self.assertFalse(self.directory.exists())

    def test_what_follows_an_epoch_is_not_traced(self):
        running = []

        def look(epoch, logs):
            running.append(profile.tracing)
            with self.assertRaises(tf.errors.UnavailableError):
                tf.profiler.experimental.stop()

        profile = tensorboard.Profile(self.directory, 9)
        after = keras.callbacks.LambdaCallback(on_epoch_end=look)
        fit(small(), [profile, after])
        self.assertEqual(running, [False, False])

    @parameterized.parameters(KeyboardInterrupt, FloatingPointError)
    def test_an_interrupted_training_leaves_its_trace_and_no_profiler(
        self, error
    ):
        def interrupt(batch, logs):
            if batch == 2:
                raise error

        for name in ("one", "two"):  # a second one would not start beside it
            profile = tensorboard.Profile(self.directory / name, 3)
            stop = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
            with self.assertRaises(error):
                fit(small(), [stop, profile])
            with self.assertRaises(tf.errors.UnavailableError):
                tf.profiler.experimental.stop()
            (steps,) = traced_steps(self.directory / name)
            self.assertContainsSubset([2], steps)
            self.assertNotIn(4, steps)

    @pytest.mark.by_hand
    def test_replicas(self):
        script = textwrap.dedent("""
            import pathlib
            from tests import tensorboard_test
            from zoo import tensorboard, training

            with training.strategy("cpu:2").scope():
                model = tensorboard_test.small()
            profile = tensorboard.Profile({directory!r}, 2)
            print(tensorboard_test.fit(model, [profile], steps=3))
        """).format(directory=str(self.directory))
        printed = subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            cwd=pathlib.Path(__file__).parents[1],
        ).stdout
        self.assertStartsWith(printed, "Steps 2 to 3 of epoch 1 are traced")
        self.assertEqual(traced_steps(self.directory), [[2, 3]])
