"""Compares RGNN with a loop over regions, and checks what its stages train."""

import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from zoo import training
from zoo.losses import BalancedBinaryCrossentropy
from zoo.models.rgnn import (
    EDGES,
    explain,
    global_model,
    learner,
    open_model,
    rgnn,
)

K = 3  # classes
WHOLE = (0.0, 0.0, 1.0, 1.0)
PADDING = (0.0, 0.0, 0.0, 0.0)
REGIONS = np.array(
    [
        # The second and the last but one share a bin, the fourth is empty.
        [
            WHOLE,
            (0.1, 0.2, 0.4, 0.5),
            (0.5, 0.5, 0.6, 0.7),
            PADDING,
            (0.0, 0.6, 0.3, 0.9),
            (0.2, 0.0, 0.8, 1.0),
        ],
        [(0.3, 0.1, 0.4, 0.9), *[PADDING] * 3, WHOLE, PADDING],
        [*[PADDING] * 5, (0.25, 0.25, 0.6, 0.5)],
    ],
    "float32",
)
REGION_TARGETS = np.array(
    [[1, 0, 0, -1, 1, 0], [0, -1, -1, -1, 1, -1], [-1] * 6], "float32"
)


def backbone(image_size=16):
    """Gives little more than the shapes of a backbone, in little time."""
    image = keras.Input((image_size, image_size, 3))
    p4 = keras.layers.Conv2D(5, 4, strides=4, name="conv4")(image)
    p4 = keras.layers.BatchNormalization(name="norm4")(p4)
    p5 = keras.layers.Conv2D(6, 2, strides=2, name="conv5")(p4)
    return keras.Model(image, {"P4": p4, "P5": p5}, name="small")


def build(image_size=16, dropout=0.0, **options):
    keras.utils.set_random_seed(0)
    options = {"size": 2, "dim": 8, "hidden": 7, **options}
    model = rgnn(backbone(image_size), K, dropout=dropout, **options)
    for weight in model.trainable_weights:
        if weight.path.endswith("bias"):
            weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    return model


def batch():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 16, 16, 3)).astype("float32")
    targets = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], "float32")
    inputs = {"image": images, "regions": REGIONS}
    return inputs, {"targets": targets, "region_targets": REGION_TARGETS}


def answer(model, inputs):
    """Gives what a model says, as NumPy arrays, without tracing it first."""
    outputs = model(inputs, training=False)
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def crop(features, region, size):
    """Pools a region: the maxima of 2x2 of bilinear samples on a grid."""
    height, width, channels = features.shape
    ymin, xmin, ymax, xmax = region
    samples = np.zeros((2 * size, 2 * size, channels))
    for i in range(2 * size):
        for j in range(2 * size):
            y = (ymin + i * (ymax - ymin) / (2 * size - 1)) * (height - 1)
            x = (xmin + j * (xmax - xmin) / (2 * size - 1)) * (width - 1)
            for row in range(height):
                for column in range(width):
                    weight = max(0, 1 - abs(y - row))
                    weight *= max(0, 1 - abs(x - column))
                    samples[i, j] += weight * features[row, column]
    pooled = np.zeros((size, size, channels))
    for i in range(size):
        for j in range(size):
            four = samples[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            pooled[i, j] = four.max(axis=(0, 1))
    return pooled


def reference(model, inputs, size=2, edges=EDGES, gated=True):
    """Zhao et al. (2016), section 3: one image and one region at a time.

    Returns:
        Logits `(batch, K)`; a list with, for each image, a dict from the index
        of a region to its gate; and logits of "fc8", alike.
    """

    def dense(x, name):
        kernel, bias = model.get_layer(name).get_weights()
        return x @ kernel + bias

    maps = answer(model.get_layer("small"), inputs["image"])
    all_logits, all_gates, all_scores = [], [], []
    for features, regions in zip(maps, inputs["regions"], strict=True):
        bins = np.zeros((len(edges) + 1, K))
        gates, scores = {}, {}
        for index, region in enumerate(regions):
            if not region.any():
                continue
            x = crop(features, region, size).ravel()
            x = np.maximum(dense(x, "fc6"), 0)
            u = np.maximum(dense(x, "fc7"), 0)
            scores[index] = dense(u, "fc8")
            exponentials = np.exp(scores[index])
            x = exponentials / exponentials.sum()
            if gated:
                gates[index] = sigmoid(dense(u, "gate"))
                x = gates[index] * x
            area = (region[2] - region[0]) * (region[3] - region[1])
            number = sum(area > edge for edge in edges)
            bins[number] = np.maximum(bins[number], x)
        hidden = np.maximum(dense(bins.ravel(), "hidden"), 0)
        all_logits.append(dense(hidden, "logits"))
        all_gates.append(gates)
        all_scores.append(scores)
    return np.array(all_logits), all_gates, all_scores


def gradients(model, inputs, targets):
    """Gives the loss and the gradient of each weight, by path."""
    model.compile(keras.optimizers.SGD(0.1), BalancedBinaryCrossentropy())
    weights = model.trainable_weights
    with tf.GradientTape() as tape:
        outputs = model(inputs, training=False)
        loss = model.compute_loss(inputs, targets, outputs)
    values = tape.gradient(loss, [weight.value for weight in weights])
    paths = [weight.path for weight in weights]
    return loss, dict(zip(paths, values, strict=True))


class RgnnTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        ("region", EDGES, 2),
        ("feature", EDGES, 2),
        ("region", (), 1),
        ("feature", (0.2,), 1),
    )
    def test_matches_paper(self, gate, edges, size):
        model = build(gate=gate, edges=edges, size=size)
        inputs, _ = batch()
        logits, gates, _ = reference(model, inputs, size, edges)
        self.assertAllClose(answer(model, inputs), logits, atol=1e-5)
        self.assertGreater(np.ptp(logits, axis=0).min(), 0.001)
        opened, _, _ = reference(model, inputs, size, edges, gated=False)
        self.assertAllClose(
            answer(open_model(model), inputs), opened, atol=1e-5
        )
        given = answer(learner(model), inputs)
        self.assertAllClose(given["logits"], logits, atol=1e-5)
        alone = answer(learner(model, classification=False), inputs)
        self.assertEqual(set(alone), {"gates"})
        self.assertAllClose(alone["gates"], given["gates"])
        shown = answer(explain(model), inputs)
        self.assertAllEqual(shown["regions"], REGIONS)
        for image, of_image in enumerate(gates):
            for region, expected in of_image.items():
                values = given["gates"][image, region]
                self.assertAllClose(values, expected, atol=1e-5)
                value = shown["gates"][image, region]
                self.assertAllClose(value, expected.mean(), atol=1e-5)

    def test_without_gates_all_are_open(self):
        model, (inputs, _) = build(gate="open"), batch()
        logits, _, _ = reference(model, inputs, gated=False)
        for part in (model, open_model(model)):
            self.assertAllClose(answer(part, inputs), logits, atol=1e-5)
        shown = answer(explain(model), inputs)
        self.assertAllEqual(shown["regions"], REGIONS)
        self.assertAllClose(shown["gates"], np.ones((3, 6)))
        self.assertEqual(
            answer(global_model(model), inputs["image"]).shape, (3, K)
        )

    def test_the_first_stage_sees_the_whole_image(self):
        model = build()
        inputs, _ = batch()
        inputs = {**inputs, "regions": np.array([[WHOLE]] * 3)}
        _, _, scores = reference(model, inputs)
        self.assertAllClose(
            answer(global_model(model), inputs["image"]),
            [of_image[0] for of_image in scores],
            atol=1e-5,
        )

    @parameterized.parameters("region", "feature")
    def test_padding_is_inert(self, gate):
        model = learner(build(gate=gate))
        inputs, targets = batch()
        own = [0, 1, 2, 4, 5]  # regions of the first image

        def with_padding(places):
            """Gives logits, loss and gradients."""
            x = {
                "image": inputs["image"][:1],
                "regions": np.insert(REGIONS[:1, own], places, 0, axis=1),
            }
            y = {
                "targets": targets["targets"][:1],
                "region_targets": np.insert(
                    REGION_TARGETS[:1, own], places, -1, axis=1
                ),
            }
            return answer(model, x)["logits"], *gradients(model, x, y)

        without = with_padding([])
        at_the_end = with_padding([5, 5, 5])
        for places in ([0, 0, 0], [1, 3, 5], [2, 2, 4]):
            logits, loss, values = with_padding(places)
            # Exact, but for the order in which a product of matrices adds.
            for expected in (without, at_the_end):
                self.assertAllClose(logits, expected[0], 1e-6, 1e-6)
                self.assertAllClose(loss, expected[1], 1e-6)
                for path, value in values.items():
                    self.assertAllClose(
                        value, expected[2][path], 1e-5, 1e-6, msg=path
                    )

    def test_padding_has_no_gradient(self):
        model = learner(build())
        inputs, targets = batch()
        representation = model.get_layer("gate").input[1]
        lower = keras.Model(model.input, representation)
        upper = keras.Model(
            [representation, model.input["regions"]], model.output
        )
        x = tf.Variable(lower(inputs))
        model.compile(loss=BalancedBinaryCrossentropy())
        with tf.GradientTape() as tape:
            outputs = upper([x, tf.constant(REGIONS)])
            loss = model.compute_loss(inputs, targets, outputs)
        moved = np.any(tape.gradient(loss, x), axis=-1)
        self.assertAllEqual(moved, REGIONS.any(axis=-1))

    @parameterized.parameters("region", "feature")
    def test_every_weight_learns_in_its_stages(self, gate):
        model = build(gate=gate)
        inputs, targets = batch()
        labels, learnt = targets["targets"], {}
        stages = {
            "global": (global_model(model), inputs["image"], labels),
            "open": (open_model(model), inputs, labels),
            "gates": (learner(model, classification=False), inputs, targets),
            "joint": (learner(model), inputs, targets),
            "labels": (model, inputs, labels),
        }
        for stage, (part, x, y) in stages.items():
            _, values = gradients(part, x, y)
            for path, value in values.items():
                self.assertIsNotNone(value, path)
                self.assertTrue(np.isfinite(value).all(), path)
                self.assertTrue(np.any(value), path)
            learnt[stage] = {w.path.split("/")[0] for w in part.weights}
        every = {"conv4", "norm4", "fc6", "fc7", "fc8", "gate"}
        every |= {"hidden", "logits"}
        self.assertEqual(learnt["joint"], every)
        self.assertEqual(learnt["labels"], every)
        self.assertEqual(learnt["open"], every - {"gate"})
        self.assertEqual(learnt["global"], every - {"gate", "hidden", "logits"})
        self.assertEqual(learnt["gates"], every - {"fc8", "hidden", "logits"})

    def test_variants_share_their_weights(self):
        model = build()
        names = {weight.path: id(weight) for weight in model.weights}
        for variant in (global_model, open_model, learner, explain):
            for weight in variant(model).weights:
                self.assertEqual(names[weight.path], id(weight), weight.path)

    @parameterized.parameters("region", "feature")
    def test_a_saved_model_is_the_same(self, gate):
        model = build(gate=gate, edges=(0.1, 0.3), dropout=0.5)
        inputs, _ = batch()
        path = f"{self.get_temp_dir()}/model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        for variant in (lambda x: x, open_model, learner, explain):
            expected = answer(variant(model), inputs)
            keras.tree.map_structure(
                self.assertAllEqual, answer(variant(loaded), inputs), expected
            )
        self.assertAllEqual(
            answer(global_model(loaded), inputs["image"]),
            answer(global_model(model), inputs["image"]),
        )

    @parameterized.parameters("mixed_bfloat16", "mixed_float16")
    def test_mixed_precision(self, policy):
        inputs, targets = batch()
        exact = answer(build(), inputs)
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        try:
            model = build()
            part = learner(
                model, keras.optimizers.schedules.PolynomialDecay(1.0, 4, 0.0)
            )
            part.compile(
                keras.optimizers.SGD(0.1),
                BalancedBinaryCrossentropy(),
                jit_compile=False,
            )
        finally:
            keras.config.set_dtype_policy(before)
        names = [layer.name for layer in model.layers]
        after = names.index("drop7") + 1
        for name in names[names.index("roi_pooling") : after]:
            self.assertEqual(model.get_layer(name).compute_dtype, policy[6:])
        for name in names[after:]:
            self.assertEqual(model.get_layer(name).compute_dtype, "float32")
        logits = answer(model, inputs)
        self.assertEqual(logits.dtype, "float32")
        self.assertAllClose(logits, exact, atol=0.05)
        shown = answer(explain(model), inputs)
        self.assertEqual(shown["gates"].dtype, "float32")
        self.assertAllEqual(shown["regions"], REGIONS)
        start = answer(global_model(model), inputs["image"])
        self.assertEqual(start.dtype, "float32")
        if policy == "mixed_bfloat16":
            return
        # Another optimizer, which scales the loss, is around the given one.
        history = part.fit(inputs, targets, epochs=3, verbose=0).history
        self.assertAllClose(history["gate_weight"], [1, 0.75, 0.5])
        self.assertTrue(np.isfinite(history["loss"]).all())

    def test_dropout_is_for_training_only(self):
        inputs, _ = batch()
        for dropout in (0.0, 0.5):
            model = build(dropout=dropout)
            model.get_layer("small").trainable = False  # no batch statistics
            training = model(inputs, training=True)
            inference = model(inputs, training=False)
            same = np.allclose(training, inference, atol=1e-6)
            self.assertEqual(same, dropout == 0)

    def test_unknown_image_size_one_region_and_one_image(self):
        model = build(image_size=None, level="P5")
        for size, num_regions in ((16, 1), (24, 6)):
            image = np.ones((1, size, size, 3), "float32")
            regions = REGIONS[:1, :num_regions]
            inputs = {"image": image, "regions": regions}
            for part in (model, open_model(model)):
                self.assertEqual(answer(part, inputs).shape, (1, K))
            gates = answer(explain(model), inputs)["gates"]
            self.assertEqual(gates.shape, (1, num_regions))
            self.assertEqual(answer(global_model(model), image).shape, (1, K))

    def test_the_layers_of_vgg_fit(self):
        shape = (7, 7, 5, 4096)  # height, width, channels, units
        rng = np.random.default_rng(0)
        model = build(size=7, dim=4096)
        kernel = rng.normal(size=shape).astype("float32") / 16
        fc6 = model.get_layer("fc6")
        fc6.set_weights([kernel.reshape(-1, 4096), np.zeros(4096)])
        inputs, _ = batch()
        inputs = {**inputs, "regions": np.array([[WHOLE]] * 3, "float32")}
        lower = keras.Model(
            model.input, [model.get_layer("roi_pooling").output, fc6.output]
        )
        pooled, given = answer(lower, inputs)
        expected = np.einsum("brhwc,hwcd->brd", pooled, kernel)
        self.assertAllClose(given, np.maximum(expected, 0), atol=1e-4)

    def test_names_what_is_wrong(self):
        for options, message in (
            ({"gate": "closed"}, "Received: gate='closed'"),
            ({"level": "P2"}, "Received: level='P2'"),
            ({"size": 0}, "Received: size="),
            ({"dropout": 2.0}, "rate=2.0"),
        ):
            with self.assertRaisesRegex(ValueError, message):
                build(**options)
        for variant in (global_model, open_model, learner, explain):
            with self.assertRaisesRegex(ValueError, "Received: model='small'"):
                variant(backbone())
        with self.assertRaisesRegex(ValueError, "a layer 'gate'. Received"):
            learner(build(gate="open"))


class RgnnLearnerTest(parameterized.TestCase, tf.test.TestCase):
    def fit(self, part, targets):
        inputs, _ = batch()
        part.compile(
            keras.optimizers.SGD(0.0),
            BalancedBinaryCrossentropy(),
            run_eagerly=True,  # faster than a graph for one step
        )
        history = part.fit(inputs, targets, verbose=0).history
        return {name: value for name, (value,) in history.items()}

    @parameterized.product(
        gate=("region", "feature"), classification=(True, False)
    )
    def test_matches_paper(self, gate, classification):
        part = learner(build(gate=gate), 0.3, classification)
        # Without gradients and without batch statistics.
        part.get_layer("small").trainable = False
        inputs, targets = batch()
        logits, gates, _ = reference(build(gate=gate), inputs)
        total, by_target = 0.0, {0: [], 1: []}
        for i, of_image in enumerate(gates):
            errors = []
            for region, value in of_image.items():
                target = REGION_TARGETS[i, region]
                if target >= 0:
                    errors.append(np.mean((target - value) ** 2))
                    by_target[target].append(value.mean())
            total += np.mean(errors) if errors else 0.0
        expected = {
            "gate_loss": total / 3,
            "gate_on_objects": np.mean(by_target[1]),
            "gate_on_background": np.mean(by_target[0]),
            "gate_weight": 0.3,
        }
        expected["loss"] = 0.3 * expected["gate_loss"]
        if classification:
            loss = BalancedBinaryCrossentropy()(targets["targets"], logits)
            expected["classification_loss"] = float(loss)
            expected["loss"] += float(loss)
        self.assertAllClose(self.fit(part, targets), expected, rtol=1e-4)
        inputs, targets = batch()
        measured = part.evaluate(inputs, targets, verbose=0, return_dict=True)
        self.assertAllClose(measured, expected, rtol=1e-4)

    def test_without_boxes_the_labels_are_all(self):
        part = learner(build())
        _, targets = batch()
        logs = self.fit(part, targets["targets"])
        self.assertEqual(logs["gate_loss"], 0)
        self.assertEqual(logs["gate_on_objects"], 0)
        self.assertAllClose(logs["loss"], logs["classification_loss"])

    def test_a_penalty_of_the_backbone_counts(self):
        small = backbone()
        small.get_layer("conv4").kernel_regularizer = "l2"
        small = keras.models.clone_model(small)
        part = learner(rgnn(small, K, size=2, dim=8))
        _, targets = batch()
        kernel = small.get_layer("conv4").kernel
        logs = self.fit(part, targets)
        self.assertAllClose(
            logs["loss"],
            logs["classification_loss"]
            + logs["gate_loss"]
            + 0.01 * np.sum(np.square(kernel)),
        )

    def test_the_weight_falls_and_a_resumed_run_goes_on(self):
        schedule = keras.optimizers.schedules.PolynomialDecay(1.0, 2, 0.0)
        inputs, targets = batch()

        def compiled():
            part = learner(build(), schedule)
            part.compile(
                keras.optimizers.Adam(0.01),
                BalancedBinaryCrossentropy(),
                run_eagerly=True,
            )
            part.optimizer.build(part.trainable_variables)
            return part

        whole = compiled().fit(inputs, targets, epochs=3, verbose=0).history
        self.assertAllClose(whole["gate_weight"], [1, 0.5, 0])
        path = f"{self.get_temp_dir()}/state.weights.h5"
        first, second = compiled(), compiled()
        first.fit(inputs, targets, verbose=0)
        first.save_weights(path)
        second.load_weights(path)
        logs = second.fit(inputs, targets, epochs=2, verbose=0).history
        for name, values in logs.items():
            self.assertAllClose(values, whole[name][1:], 1e-5, msg=name)

    @pytest.mark.heavy
    def test_two_replicas_are_as_one(self):
        output = f"{self.get_temp_dir()}/two.npz"
        script = textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, "{pathlib.Path(__file__).parents[2]}")
            import numpy as np
            from tests.models.rgnn_test import one_step
            np.savez("{output}", **one_step("cpu:2"))
            """
        )
        # Devices are fixed at TensorFlow's first operation.
        subprocess.run([sys.executable, "-c", script], check=True)
        one, two = one_step("one"), dict(np.load(output))
        self.assertEqual((one.pop("replicas"), two.pop("replicas")), (1, 2))
        self.assertEqual(set(one), set(two))
        for name, value in one.items():
            self.assertAllClose(two[name], value, 1e-5, 1e-6, msg=name)


def one_step(devices):
    """Gives the logs of a step and what it adds to each weight."""
    strategy = training.strategy(devices)
    # Two replicas get images 0, 1 and 2, 0.
    inputs, targets = keras.tree.map_structure(
        lambda x: x[[0, 1, 2, 0]], batch()
    )
    with strategy.scope():
        model = build()
        # Replicas have batch statistics of their own.
        model.get_layer("small").get_layer("norm4").trainable = False
        part = learner(model, 0.5)
        part.compile(
            keras.optimizers.SGD(0.5),
            BalancedBinaryCrossentropy(),
            jit_compile=False,
        )
    before = [weight.numpy() for weight in part.trainable_weights]
    logs = part.fit(inputs, targets, batch_size=4, verbose=0).history
    changes = {
        weight.path: weight.numpy() - old
        for weight, old in zip(part.trainable_weights, before, strict=True)
    }
    replicas = strategy.num_replicas_in_sync
    return {"replicas": replicas, **changes, **logs}
