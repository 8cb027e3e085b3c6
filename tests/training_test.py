import contextlib
import io
import json
import math
import pathlib
import subprocess
import sys
import textwrap
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from tests import small
from zoo import checkpoints, training, workers
from zoo.losses import BinaryCrossentropy
from zoo.models import csra
from zoo.models.levels import up_to

CLASSES = ("a", "b", "c")


def data(count=24, size=32, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 255, (count, size, size, 3)).astype("float32")
    targets = (rng.random((count, 3)) < 0.4).astype("float32")
    targets[:3] = np.eye(3)
    return images, targets


def batches(images, targets, size=4):
    return tf.data.Dataset.from_tensor_slices((images, targets)).batch(size)


def compiled(
    strategy=None, learning_rate=0.01, averages=False, policy="float32"
):
    def sgd(rate, name):
        return keras.optimizers.SGD(
            rate, 0.9, use_ema=averages, ema_momentum=0.8, name=name
        )

    with (strategy or training.strategy("one")).scope():
        keras.utils.set_random_seed(0)
        with training.precision(policy):
            backbone = small.backbone()
            model = csra(backbone, 3)
        model.compile(
            training.two_groups(
                model,
                backbone,
                sgd(learning_rate, "backbone"),
                sgd(10 * learning_rate, "head"),
            ),
            BinaryCrossentropy(),
            jit_compile=False,
        )
    return model


class StrategyTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters("all", "one")
    def test_one_replica_without_gpus(self, devices):
        self.assertEqual(training.strategy(devices).num_replicas_in_sync, 1)

    @parameterized.parameters("two", "cpu:0", "cpu:", "gpu:1")
    def test_names_a_bad_choice(self, devices):
        with self.assertRaisesRegex(ValueError, f"devices='{devices}'"):
            training.strategy(devices)


class PrecisionTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters("mixed_bfloat16", "mixed_float16")
    def test_trains_in_half_and_gives_float32(self, policy):
        images, targets = data()
        expected = compiled().evaluate(images, targets, verbose=0)
        model = compiled(policy=policy)
        self.assertEqual(keras.config.dtype_policy().name, "float32")
        backbone = model.get_layer("small")
        self.assertEqual(backbone.output["P5"].dtype, policy[6:])
        self.assertEqual({w.dtype for w in model.weights}, {"float32"})
        received = model.evaluate(images, targets, verbose=0)
        self.assertNotEqual(received, expected)
        self.assertAllClose(received, expected, rtol=0.02)

        exact = training.in_float32(model)
        self.assertAllClose(
            exact.predict(images, verbose=0),
            compiled().predict(images, verbose=0),
            atol=1e-6,
        )
        self.assertIs(training.in_float32(exact), exact)

    def test_float16_state_is_loaded_twice(self):
        model = compiled(policy="mixed_float16")
        checkpoint = checkpoints.Checkpoint(self.get_temp_dir(), "x", [])
        checkpoint.set_model(model)
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        checkpoint.on_epoch_end(0, {"x": 1.0})
        folder = checkpoints.last(checkpoint.directory)
        again = compiled(policy="mixed_float16")
        for _ in range(2):
            checkpoints.load(again, folder)
            self.assertLen(
                again.optimizer.variables, len(model.optimizer.variables)
            )

    def test_float16_scales_the_loss_and_skips_what_overflows(self):
        images, targets = data(4)
        model = compiled(policy="mixed_float16")
        self.assertIsInstance(
            model.optimizer, keras.optimizers.LossScaleOptimizer
        )
        model.fit(images, targets, verbose=0)
        scale = float(keras.ops.convert_to_numpy(model.optimizer.dynamic_scale))
        before = model.get_layer("head").get_weights()
        images[0] = np.inf
        model.fit(images, targets, verbose=0)
        halved = float(
            keras.ops.convert_to_numpy(model.optimizer.dynamic_scale)
        )
        self.assertEqual(halved, scale / 2)
        self.assertAllEqual(model.get_layer("head").get_weights(), before)


class CheckDistributableTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        ("gradient_accumulation_steps=2", {"gradient_accumulation_steps": 2}),
        ("steps_per_execution=2", {"steps_per_execution": 2}),
        ("jit_compile=True", {"jit_compile": True}),
    )
    def test_refuses_what_keras_breaks(self, message, option):
        def check(grouped):
            model = compiled()
            accumulate = option.get("gradient_accumulation_steps")
            optimizer = keras.optimizers.SGD(
                gradient_accumulation_steps=accumulate
            )
            if grouped:
                optimizer = training.two_groups(
                    model, model.layers[1], optimizer, keras.optimizers.SGD()
                )
            others = {k: v for k, v in option.items() if not accumulate}
            others = {"jit_compile": False, **others}
            with model.distribute_strategy.scope():
                model.compile(optimizer, "mse", **others)
            training.check_distributable(model)

        for grouped in (False, True):
            with self.assertRaisesRegex(ValueError, message):
                check(grouped)

    def test_accepts_the_recipes_model(self):
        training.check_distributable(compiled())

    def test_leaves_other_strategies_alone(self):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", jit_compile=True)
        training.check_distributable(model)


class NamedIfFullTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        OSError(28, "No space left on device", "model.keras"),
        tf.errors.ResourceExhaustedError(
            None, None, "{{node}} at\nx/events; No space left on device [Op:F]"
        ),
    )
    def test_says_what_to_do(self, error):
        with (
            self.assertRaisesRegex(
                OSError, "The disk of runs/x is full.*--resume.*(model|events)"
            ),
            training.named_if_full(pathlib.Path("runs/x")),
        ):
            raise error

    @parameterized.parameters(
        OSError("epoch 2: No space left on device. Go on by --resume"),
        OSError("no such file"),
        tf.errors.ResourceExhaustedError(None, None, "OOM of shape [9]"),
    )
    def test_others_stay(self, error):
        with (
            self.assertRaises(type(error)) as raised,
            training.named_if_full(pathlib.Path("runs/x")),
        ):
            raise error
        self.assertIs(raised.exception, error)


class WarmupStepDecayTest(tf.test.TestCase):
    def test_rises_then_falls(self):
        schedule = training.WarmupStepDecay(
            0.1, warmup_steps=4, decay_steps=3, decay_rate=0.5
        )
        rates = [float(schedule(step)) for step in range(12)]
        expected = [0.025, 0.05, 0.075, 0.1]
        expected += [0.1] * 3 + [0.05] * 3 + [0.025] * 2
        self.assertAllClose(rates, expected)

    def test_no_warmup(self):
        schedule = training.WarmupStepDecay(0.1, 0, 2)
        rates = [float(schedule(step)) for step in range(3)]
        self.assertAllClose(rates, [0.1, 0.1, 0.01])

    def test_config(self):
        schedule = training.WarmupStepDecay(0.1, 4, 3, 0.5)
        again = training.WarmupStepDecay.from_config(schedule.get_config())
        self.assertAllClose(again(9), schedule(9))

    def test_names_bad_steps(self):
        with self.assertRaisesRegex(ValueError, "decay_steps=0"):
            training.WarmupStepDecay(0.1, 4, 0)


class WarmupCosineDecayTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(0, 1, 3, 4)
    def test_is_that_of_keras_to_the_bit(self, warmup_steps):
        peer = keras.optimizers.schedules.CosineDecay(
            0.0, 7, warmup_target=0.03, warmup_steps=warmup_steps
        )
        schedule = training.WarmupCosineDecay(0.03, warmup_steps, 7)
        for both in ((schedule, peer), map(tf.function, (schedule, peer))):
            rates, expected = (
                [float(rate(tf.constant(step, "int64"))) for step in range(15)]
                for rate in both
            )
            self.assertEqual(rates, expected)

    def test_has_no_branch(self):
        schedule = training.WarmupCosineDecay(0.03, 4, 7)
        graph = tf.function(schedule).get_concrete_function(
            tf.TensorSpec((), "int64")
        )
        ops = [op.type for op in graph.graph.get_operations()]
        self.assertNotIn("If", ops)
        self.assertNotIn("StatelessIf", ops)

    def test_config(self):
        schedule = training.WarmupCosineDecay(1, 4, 7)
        again = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(schedule)
        )
        self.assertEqual(float(again(5)), float(schedule(5)))
        self.assertBetween(float(schedule(5)), 0.9, 1)

    def test_names_bad_steps(self):
        with self.assertRaisesRegex(ValueError, "warmup_steps=-1"):
            training.WarmupCosineDecay(0.1, -1, 7)
        with self.assertRaisesRegex(ValueError, "decay_steps=0"):
            training.WarmupCosineDecay(0.1, 4, 0)


class TwoGroupsTest(tf.test.TestCase):
    def test_each_group_has_its_learning_rate(self):
        images, targets = data(4)
        model = compiled(tf.distribute.get_strategy())
        backbone = model.get_layer("small")
        before = [w.numpy() for w in model.trainable_weights]
        with tf.GradientTape() as tape:
            loss = BinaryCrossentropy()(targets, model(images, training=True))
        variables = [w.value for w in model.trainable_weights]
        gradients = tape.gradient(loss, variables)
        model.optimizer.apply(gradients, model.trainable_weights)
        inside = {id(w) for w in backbone.trainable_weights}
        self.assertNotEmpty(inside)
        for weight, old, gradient in zip(
            model.trainable_weights, before, gradients, strict=True
        ):
            rate = 0.01 if id(weight) in inside else 0.1
            expected = old - rate * gradient
            self.assertAllClose(weight.numpy(), expected, atol=1e-7)

    def test_a_frozen_backbone_leaves_one_group(self):
        model = compiled()
        backbone, head = model.get_layer("small"), keras.optimizers.SGD()
        backbone.trainable = False
        self.assertIs(
            training.two_groups(model, backbone, keras.optimizers.SGD(), head),
            head,
        )

    def test_what_the_model_leaves_out_of_its_backbone_is_in_no_group(self):
        backbone, head = small.backbone(), keras.optimizers.SGD()
        part = up_to(backbone, "P4")
        model = keras.Sequential([part, keras.layers.Dense(1)])
        part.trainable = False
        self.assertNotEmpty(backbone.trainable_variables)  # those above P4
        self.assertIs(
            training.two_groups(model, backbone, keras.optimizers.SGD(), head),
            head,
        )


class ReduceOnPlateauTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        ([], 1, 0),
        ([0.1, 0.2, 0.3], 1, 0),
        ([0.3, 0.3], 1, 1),
        ([0.3, 0.3005, 0.301], 2, 1),  # too little to be a gain
        ([0.3, 0.2, 0.302, 0.1, 0.1], 2, 1),
        ([0.3, 0.2, 0.2, 0.2, 0.2], 2, 2),  # each fall gets its own time
        ([math.nan, math.nan, 0.1], 2, 1),
    )
    def test_counts_plateaus(self, values, patience, expected):
        self.assertEqual(training.plateaus(values, patience), expected)

    def test_every_group_falls_also_after_a_resume(self):
        directory = self.get_temp_dir()

        def epochs(model, *values):
            for value in values:
                epoch = len(history)
                for callback in (
                    training.ReduceOnPlateau(history, "x", patience=2),
                    checkpoints.Checkpoint(directory, "x", history),
                ):
                    callback.set_model(model)
                    callback.on_epoch_end(epoch, {"x": value})
            return [
                float(optimizer.learning_rate.numpy())
                for optimizer in model.optimizer.optimizers
            ]

        def built():
            model = compiled(learning_rate=0.1)
            with model.distribute_strategy.scope():
                model.optimizer.build(model.trainable_variables)
            return model

        model, history = built(), []
        first = epochs(model, 0.5, 0.4)
        self.assertCountEqual(np.round(first, 6), [0.1, 1.0])
        again = built()
        history = checkpoints.resume(again, directory)
        self.assertEqual(history, [{"x": 0.5}, {"x": 0.4}])
        # One epoch without a gain was before the stop.
        self.assertAllClose(epochs(again, 0.5), [r / 10 for r in first])
        last = built()
        history = checkpoints.resume(last, directory)
        self.assertLen(history, 3)
        self.assertAllClose(epochs(last, 0.9), [r / 10 for r in first])
        self.assertAllClose(epochs(last, 0.2, 0.2), [r / 100 for r in first])


class PredictTest(tf.test.TestCase):
    def test_gives_dicts_too(self):
        images, targets = data(10)
        model = compiled()
        with model.distribute_strategy.scope():
            outputs = {"logits": model.output, "twice": 2 * model.output}
            both = keras.Model(model.input, outputs)
        received = training.predict(both, batches(images, targets), 10)
        self.assertAllClose(received["twice"], 2 * model(images), atol=1e-5)
        self.assertEqual(received["logits"].shape, (10, 3))

    def test_gives_logits_in_order(self):
        images, targets = data(10)
        model = compiled()
        logits = training.predict(model, batches(images, targets), len(images))
        self.assertAllClose(logits, model(images), rtol=1e-5, atol=1e-5)
        self.assertAllClose(
            training.sigmoid(logits), 1 / (1 + np.exp(-logits)), rtol=1e-5
        )

    def test_names_a_model_that_gives_nan(self):
        images, targets = data(4)
        model = compiled()
        model.get_layer("head").classifier.assign(np.full((8, 3), np.nan))
        with self.assertRaisesRegex(FloatingPointError, "'csra'"):
            training.predict(model, batches(images, targets), len(images))


def counted_data():
    """Gives `data` as a data set, and a list with an item for each pass."""
    images, targets = data()
    begun = []

    def rows():
        begun.append(1)
        yield from zip(images, targets, strict=True)

    dataset = tf.data.Dataset.from_generator(
        rows,
        output_signature=tuple(
            tf.TensorSpec(x.shape[1:], x.dtype) for x in (images, targets)
        ),
    ).apply(tf.data.experimental.assert_cardinality(len(images)))
    return dataset, targets, begun


def stop_after(epochs):
    """Gives a `fit` that leaves what a kill in the next epoch leaves."""
    fit = keras.Model.fit

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == epochs * 6 + 2:
                raise KeyboardInterrupt

    def stopped(model, *arguments, callbacks, **options):
        with contextlib.suppress(KeyboardInterrupt):
            fit(model, *arguments, callbacks=[*callbacks, Stop()], **options)

    return stopped


class CallbacksTest(parameterized.TestCase, tf.test.TestCase):
    def fit(
        self,
        directory,
        epochs,
        model=None,
        resume=False,
        images=None,
        averages=False,
    ):
        own_images, targets = data()
        images = own_images if images is None else images
        model = model or compiled(averages=averages)
        states = directory / "checkpoints"
        history = checkpoints.resume(model, states) if resume else []
        first = len(history)
        held_out = batches(images[:10], targets[:10])
        listed = training.callbacks(
            directory,
            CLASSES,
            held_out,
            targets[:10],
            lambda model, probabilities: {
                "attention": np.zeros((2, 8, 8, 3), "uint8"),
                "AP": np.zeros((1, 8, len(probabilities), 3), "uint8"),
            },
            {"method": "csra", "epochs": epochs, "normalize": True},
            history,
            averages=averages,
        )
        model.fit(
            batches(images, targets),
            initial_epoch=first,
            epochs=epochs,
            callbacks=listed,
            shuffle=False,
            verbose=0,
        )
        return model, first

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.get_temp_dir()) / self.id()

    def test_history_has_the_metrics_and_both_learning_rates(self):
        self.fit(self.directory, epochs=2)
        rows = (self.directory / "history.csv").read_text().splitlines()
        self.assertLen(rows, 3)
        header = rows[0].split(",")
        for name in ("loss", "val_loss", "val_mAP", "val_CF1", "val_OF1"):
            self.assertIn(name, header)
        row = dict(zip(header, rows[1].split(","), strict=True))
        self.assertAlmostEqual(float(row["learning_rate_backbone"]), 0.01)
        self.assertAlmostEqual(float(row["learning_rate_head"]), 0.1)

    def test_tensorboard_has_scalars_and_pictures(self):
        self.fit(self.directory, epochs=2)
        (path,) = (self.directory / "tensorboard").iterdir()
        tags = set()
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            tags |= {value.tag for value in event.summary.value}
        self.assertContainsSubset(
            {
                "epochs/loss",
                "epochs/val_loss",
                "epochs/val_mAP",
                "epochs/val_CF1",
                "epochs/val_OF1",
                "epochs/learning_rate_backbone",
                "epochs/learning_rate_head",
                "AP/a",
                "AP/b",
                "AP/c",
                "scores/present",
                "scores/absent",
                "precision_recall/a/pr_curves",
                "attention",
                "AP",
                "_hparams_/session_start_info",
            },
            tags,
        )

    def test_says_how_long_it_will_take(self):
        out = io.StringIO()
        with mock.patch("sys.stdout", out):
            self.fit(self.directory, epochs=3)
        lines = out.getvalue().splitlines()
        self.assertLen(lines, 2)
        self.assertRegex(lines[0], r"^epochs to go: 2, about 0:\d\d:\d\d left$")
        self.assertStartsWith(lines[1], "epochs to go: 1,")

    def test_a_prediction_reads_its_data_once(self):
        dataset, targets, begun = counted_data()
        logits = training.predict(compiled(), dataset.batch(4), len(targets))
        self.assertLen(logits, len(targets))
        self.assertLen(begun, 1)

    def test_a_training_reads_its_data_once(self):
        dataset, targets, begun = counted_data()
        model = compiled()
        workers.prepare(model)
        model.fit(dataset.batch(4), steps_per_epoch=5, shuffle=False, verbose=0)
        self.assertEqual(model.optimizer.iterations.numpy(), 5)
        self.assertLen(begun, 1)

    def test_says_how_far_a_long_epoch_and_prediction_are(self):
        out = io.StringIO()
        with (
            mock.patch("sys.stdout", out),
            mock.patch.object(training, "PROGRESS_SECONDS", 0),
        ):
            self.fit(self.directory, epochs=1)
        printed = out.getvalue()
        self.assertRegex(
            printed, r"epoch 1: step 2 of 6, about 0:\d\d:\d\d left"
        )
        self.assertIn("prediction: step 3 of 3, about 0:00:00 left", printed)

    def test_a_terminal_has_keras_own_bar(self):
        out = io.StringIO()
        out.isatty = lambda: True
        with (
            mock.patch("sys.stdout", out),
            mock.patch.object(training, "PROGRESS_SECONDS", 0),
        ):
            self.fit(self.directory, epochs=1)
        self.assertNotIn("epoch 1: step", out.getvalue())

    def test_keeps_the_last_and_the_best(self):
        checkpoint = checkpoints.Checkpoint(self.directory, "val_mAP", [])
        checkpoint.set_model(compiled())
        values = [0.2, 0.5, 0.4, 0.5, 0.1]
        for epoch, value in enumerate(values):
            checkpoint.on_epoch_end(epoch, {"val_mAP": value})
        names = sorted(path.name for path in self.directory.iterdir())
        self.assertEqual(names, ["epoch_0004", "epoch_0005"])
        best = checkpoints.best(self.directory, "val_mAP")
        self.assertEqual(best.name, "epoch_0004")
        state = json.loads((best / "state.json").read_text())
        self.assertEqual(
            state["history"], [{"val_mAP": value} for value in values[:4]]
        )

    def test_a_half_written_checkpoint_is_not_used(self):
        self.fit(self.directory, epochs=1)
        half = self.directory / "checkpoints/epoch_0002.tmp"
        half.mkdir()
        (half / "state.weights.h5").write_bytes(b"half")
        model = compiled()
        self.assertLen(checkpoints.resume(model, half.parent), 1)
        self.fit(self.directory, epochs=2, resume=True)
        self.assertFalse(half.exists())
        self.assertLen(checkpoints.resume(model, half.parent), 2)

    def test_a_resumed_run_ends_as_one_that_was_not_stopped(self):
        self.check_resumed(averages=True, policy="float32")

    @pytest.mark.by_hand  # a CPU has no fast float16
    def test_a_resumed_run_without_averages_keeps_its_loss_scale(self):
        self.check_resumed(averages=False, policy="mixed_float16")

    def check_resumed(self, averages, policy):
        def fit(name, epochs, **arguments):
            return self.fit(
                self.directory / name,
                epochs,
                compiled(averages=averages, policy=policy),
                averages=averages,
                **arguments,
            )

        whole, _ = fit("whole", epochs=4)
        with mock.patch.object(keras.Model, "fit", stop_after(2)):
            fit("stopped", epochs=4)
        resumed, first = fit("stopped", epochs=4, resume=True)
        self.assertEqual(first, 2)
        for expected, weight in zip(
            whole.weights, resumed.weights, strict=True
        ):
            self.assertAllEqual(weight.numpy(), expected.numpy())
        for expected, variable in zip(
            whole.optimizer.variables, resumed.optimizer.variables, strict=True
        ):
            self.assertAllEqual(variable.numpy(), expected.numpy())

    def test_averages_are_what_is_measured_and_saved(self):
        steps = []
        model = compiled(averages=True)
        classifier = model.get_layer("head").classifier
        note = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: steps.append(
                classifier.numpy()
            )
        )
        listed = training.callbacks
        with mock.patch.object(
            training, "callbacks", lambda *a, **k: [note, *listed(*a, **k)]
        ):
            self.fit(self.directory, epochs=2, model=model, averages=True)
        expected = steps[0]
        for weights in steps[1:]:
            expected = 0.8 * expected + 0.2 * weights
        self.assertAllClose(classifier.numpy(), expected, atol=1e-6)
        self.assertNotAllClose(steps[-1], expected, atol=1e-3)
        last = self.directory / "checkpoints/epoch_0002"
        again = compiled(averages=True)
        checkpoints.load(again, last)
        self.assertAllEqual(
            again.get_layer("head").classifier.numpy(), classifier.numpy()
        )

    def test_random_states_are_restored(self):
        def with_dropout():
            image = keras.Input((4,))
            logits = keras.layers.Dropout(0.5, seed=1)(image)
            model = keras.Model(image, keras.layers.Dense(1)(logits))
            model.compile("sgd", "mse")
            return model

        model = with_dropout()
        model(np.ones((1, 4)), training=True)
        checkpoint = checkpoints.Checkpoint(self.directory, "x", [])
        checkpoint.set_model(model)
        checkpoint.on_epoch_end(0, {"x": 1.0})
        again = with_dropout()
        checkpoints.resume(again, self.directory)
        for _ in range(3):
            expected = model.layers[1](np.ones((9, 4)), training=True)
            dropped = again.layers[1](np.ones((9, 4)), training=True)
            self.assertAllEqual(dropped, expected)

    def test_nan_after_the_last_step_names_the_last_good_checkpoint(self):
        model, _ = self.fit(self.directory, epochs=1)
        images, targets = data(4)
        validation = training.Validation(
            batches(images, targets),
            targets,
            "val",
            self.directory / "checkpoints",
        )
        validation.set_model(model)
        model.get_layer("head").classifier.assign(np.full((8, 3), np.nan))
        with self.assertRaisesRegex(
            FloatingPointError, "last step of epoch 2.*checkpoints/epoch_0001"
        ):
            validation.on_epoch_end(1, {})

    def test_only_differences_of_logits_matter_where_it_is_asked(self):
        model, _ = self.fit(self.directory, epochs=1)
        images, targets = data(8)

        def measured(added, relative):
            validation = training.Validation(
                batches(images, targets),
                targets,
                "val",
                self.directory,
                keras.Model(model.input, model.output + added),
                relative,
            )
            validation.set_model(model)
            validation.on_epoch_end(0, logs := {})
            return logs["val_OF1"]

        best = measured(0, relative=True)
        self.assertAlmostEqual(measured(9, relative=True), best)
        self.assertGreater(best, measured(9, relative=False))

    @parameterized.parameters(
        ([0.2, np.nan], "epoch_0001"), ([np.nan, 0.2], "epoch_0002")
    )
    def test_an_epoch_without_map_is_never_the_best(self, values, expected):
        checkpoint = checkpoints.Checkpoint(self.directory, "val_mAP", [])
        checkpoint.set_model(compiled())
        for epoch, value in enumerate(values):
            checkpoint.on_epoch_end(epoch, {"val_mAP": value})
        best = checkpoints.best(self.directory, "val_mAP")
        self.assertEqual(best.name, expected)

    def test_nothing_to_resume(self):
        self.assertEqual(checkpoints.resume(compiled(), self.directory), [])

    def test_stops_on_nan_and_names_the_last_good_checkpoint(self):
        model, _ = self.fit(self.directory, epochs=1)
        images, _ = data()
        images[9] = np.nan
        with self.assertRaisesRegex(
            FloatingPointError, "step 3 of epoch 2.*checkpoints/epoch_0001"
        ):
            self.fit(self.directory, epochs=2, resume=True, images=images)


REPLICAS = """
    import sys
    import keras, numpy as np
    sys.path[:0] = [{root!r}]
    from tests.training_test import batches, compiled, data
    from zoo import training, workers

    # Devices are split once, before TensorFlow uses them.
    for devices in ("cpu:4", "one"):
        strategy = training.strategy(devices)
        images, targets = data()
        model = compiled(strategy, learning_rate=0.003)
        # Batch statistics are of a replica's own images: fix them to compare.
        model.get_layer("small").trainable = True
        for layer in model.get_layer("small").layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
        with strategy.scope():
            model.compile(model.optimizer, model.loss, jit_compile=False)
        if devices != "one":  # that is built as Keras does it
            workers.prepare(model)
        losses = []

        class Record(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                losses.append((batch + 1) * logs["loss"])

        model.fit(
            batches(images, targets), epochs=4, shuffle=False, verbose=0,
            callbacks=[Record()],
        )
        # 10 images in batches of 4: the last batch has 2, and with 9 only 1.
        ragged = [
            training.predict(model, batches(images[:n], targets[:n]), n)
            for n in (9, 10)
        ]
        # 13 in batches of 8: the last has 5, which 4 replicas share as 2 2 1 0.
        uneven = batches(images[:13], targets[:13], 8)
        uneven = training.predict(model, uneven, 13)
        np.savez(
            f"{folder}/{{devices}}.npz",
            losses=losses,
            nine=ragged[0],
            ten=ragged[1],
            thirteen=uneven,
            replicas=strategy.num_replicas_in_sync,
        )
"""


class ReplicasTest(tf.test.TestCase):
    @pytest.mark.heavy
    def test_replicas_train_and_predict_as_one_device(self):
        folder = self.get_temp_dir()
        root = str(pathlib.Path(__file__).parents[1])
        script = textwrap.dedent(REPLICAS).format(root=root, folder=folder)
        subprocess.run([sys.executable, "-c", script], check=True)
        one, many = (
            dict(np.load(f"{folder}/{devices}.npz"))
            for devices in ("one", "cpu:4")
        )
        self.assertEqual(one["replicas"], 1)
        # Sums within an epoch: it learns, so that wrong gradients would show.
        self.assertGreater(np.ptp(one["losses"][5::6]), 0.01)
        self.assertAllClose(one["ten"][:9], one["nine"], atol=1e-5)
        self.assertEqual(many["replicas"], 4)
        self.assertAllClose(many["losses"], one["losses"], atol=1e-4)
        for name in ("nine", "ten", "thirteen"):
            self.assertAllClose(many[name], one[name], atol=1e-3)
