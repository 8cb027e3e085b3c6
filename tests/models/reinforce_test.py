import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from zoo.losses import SoftmaxSquaredError
from zoo.models.reinforce import Reinforce, hit_rate

SIGMA = 0.11


class Toy(keras.layers.Layer):
    """A policy without a network: one mean place a step, for all images.

    Class 1 has a score above that of class 0 where the last place that was
    drawn is nearer than `radius` to `target`, and nowhere else.
    """

    def __init__(self, start, target, radius, episodes=1):
        super().__init__()
        self.start = np.array(start, "float32")  # (steps, 2)
        self.target, self.radius = np.array(target, "float32"), radius
        self.episodes = episodes
        self.seed_generator = keras.random.SeedGenerator(0)

    def build(self, input_shape):
        self.mean = self.add_weight(self.start.shape, name="mean")
        self.mean.assign(self.start)
        self.guess = self.add_weight((len(self.start),), "zeros", name="guess")
        self.weight = self.add_weight((1,), "ones", name="classifier")

    def call(self, x):
        shape = (ops.shape(x)[0], self.episodes, *self.start.shape)
        means = ops.broadcast_to(self.mean, shape)
        noise = keras.random.normal(shape, seed=self.seed_generator)
        drawn = ops.stop_gradient(means + SIGMA * noise)
        away = ops.norm(drawn[:, :, -1] - self.target, axis=-1)
        near = self.weight * (self.radius - away)  # (B, E)
        return {
            "scores": ops.stack([ops.zeros_like(near), near], axis=-1),
            "means": means,
            "drawn": drawn,
            "baselines": ops.broadcast_to(self.guess, shape[:-1]),
        }


def toy(*arguments, loss=None, optimizer="sgd", policy_weight=1.0, **options):
    x = keras.Input((1,))
    outputs = Toy(*arguments, **options)(x)
    model = Reinforce(x, outputs, SIGMA, policy_weight)
    model.compile(optimizer, loss or SoftmaxSquaredError(), jit_compile=False)
    return model


def targets_of(present, num_images):
    return np.tile(np.array(present, "float32"), (num_images, 1))


def gradients(model, y, wanted):
    """Gives outputs and the gradient of the loss to some of them."""
    x = np.zeros((len(y), 1), "float32")
    with tf.GradientTape() as tape:
        outputs = model(x, training=True)
        loss = model.compute_loss(x, y, outputs)
    found = tape.gradient(loss, [outputs[name] for name in wanted])
    return outputs, [None if g is None else g.numpy() for g in found]


@keras.saving.register_keras_serializable(package="tests")
class Nothing(keras.losses.Loss):
    """Takes the loss of the classes out of the sum."""

    def call(self, y_true, y_pred):
        return ops.zeros_like(y_pred[:, 0])


def outputs_and_targets(num_images=6, episodes=2, steps=3, num_classes=5):
    rng = np.random.default_rng(0)
    leading = (num_images, episodes)
    outputs = {
        "scores": rng.normal(size=(*leading, num_classes)),
        "means": rng.uniform(-1, 1, (*leading, steps, 2)),
        "drawn": rng.uniform(-1, 1, (*leading, steps, 2)),
        "baselines": rng.uniform(0, 1, (*leading, steps)),
    }
    y = rng.integers(-1, 2, (num_images, num_classes))
    y[1] = [0, -1, 0, 0, -1]  # an image without labels
    y[2] = 1
    outputs = {k: v.astype("float32") for k, v in outputs.items()}
    return outputs, y.astype("float32")


def learner_of(outputs, policy_weight=1.0):
    """Gives a learner whose outputs are its inputs."""
    inputs = {k: keras.Input(v.shape[1:], name=k) for k, v in outputs.items()}
    same = {k: keras.layers.Identity()(v) for k, v in inputs.items()}
    model = Reinforce(inputs, same, SIGMA, policy_weight)
    model.compile("sgd", SoftmaxSquaredError(), jit_compile=False)
    return model


def hits(y, scores):
    """Eq. (5), of one image."""
    labels = {k for k, present in enumerate(y) if present == 1}
    # Sorting is stable: of equal scores the first classes stay first.
    order = sorted(range(len(y)), key=lambda k: -scores[k])
    found = labels & set(order[: len(labels)])
    return len(found) / len(labels) if labels else 0


class HitRateTest(tf.test.TestCase):
    def test_matches_paper(self):
        rng = np.random.default_rng(0)
        y = rng.integers(-1, 2, (50, 7))
        scores = rng.integers(0, 4, (50, 7)).astype("float32")  # many ties
        expected = [hits(*row) for row in zip(y, scores, strict=True)]
        self.assertGreater(len(set(expected)), 4)
        self.assertAllClose(hit_rate(ops.array(y), ops.array(scores)), expected)

    def test_of_equal_scores_the_first_classes_are_higher(self):
        y = ops.array([[1, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]])
        found = hit_rate(y, ops.zeros((4, 3)))
        self.assertAllEqual(found, [1, 0, 0.5, 1])

    def test_labels_of_mixed_images_count_by_their_targets(self):
        y = ops.array([[0.7, 0.3, 0.0, -1.0], [0.2, 0.0, 0.0, 0.0]])
        for scores, expected in (
            ([4, 3, 2, 1], [1, 1]),
            ([4, 1, 3, 2], [0.7, 1]),
            ([1, 3, 4, 2], [0.3, 0]),
            ([1, 2, 3, 4], [0, 0]),
        ):
            found = hit_rate(y, ops.array([scores, scores], "float32"))
            self.assertAllClose(found, expected)

    def test_each_episode_has_its_own(self):
        outputs, y = outputs_and_targets()
        found = hit_rate(ops.array(y)[:, None], ops.array(outputs["scores"]))
        expected = [
            [hits(y[b], scores) for scores in image]
            for b, image in enumerate(outputs["scores"])
        ]
        self.assertAllClose(found, expected)
        self.assertEqual(found.dtype, "float32")


class ReinforceTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(1.0, 0.3)
    def test_losses_match_paper(self, policy_weight):
        outputs, y = outputs_and_targets()
        model = learner_of(outputs, policy_weight)
        given = {k: ops.array(v) for k, v in outputs.items()}
        loss = model.compute_loss(None, ops.array(y), given)
        classification, policy, baseline, rewards = [], [], [], []
        for b in range(len(y)):
            for e in range(2):
                part = {
                    k: v[b, e].astype("float64") for k, v in outputs.items()
                }
                p = np.exp(part["scores"]) / np.exp(part["scores"]).sum()
                n = (y[b] == 1).sum()
                shares = (y[b] == 1) / max(n, 1)
                classification.append(np.sum((p - shares) ** 2) if n else 0)
                reward = hits(y[b], part["scores"])
                rewards.append(reward)
                policy.append(0)
                baseline.append(0)
                for t in range(3 * (n > 0)):
                    away = part["drawn"][t] - part["means"][t]
                    log_density = -(away @ away) / (2 * SIGMA**2)
                    advantage = reward - part["baselines"][t]
                    policy[-1] -= advantage * log_density
                    baseline[-1] += advantage**2 / 3
        expected = {
            "classification_loss": np.mean(classification),
            "reward": np.mean(rewards),
            "policy_loss": np.mean(policy),
            "baseline_loss": np.mean(baseline),
            "location_spread": outputs["means"].std(axis=(0, 1)).mean(),
        }
        logs = model.get_metrics_result()
        for name, value in expected.items():
            self.assertAllClose(logs[name], value, 1e-5, 1e-5, msg=name)
        total = (
            expected["classification_loss"]
            + policy_weight * expected["policy_loss"]
            + expected["baseline_loss"]
        )
        self.assertAllClose(loss, total, 1e-5)

    def test_without_a_policy_there_are_classes_alone(self):
        outputs, y = outputs_and_targets()
        model = learner_of({"scores": outputs["scores"]})
        scores = ops.array(outputs["scores"])
        loss = model.compute_loss(None, ops.array(y), {"scores": scores})
        expected = SoftmaxSquaredError()(
            np.repeat(y, 2, axis=0), outputs["scores"].reshape(-1, 5)
        )
        self.assertAllClose(loss, expected)
        self.assertCountEqual(
            [metric.name for metric in model.metrics],
            ["loss", "classification_loss", "reward"],
        )

    @parameterized.parameters(0.0, 0.6)
    def test_the_estimate_is_the_gradient_of_the_expected_reward(self, guess):
        # Of a half-plane, whose border is a line through the place of the
        # last step, the reward's expectation is a normal distribution's.
        distance, num_images, episodes = 0.05, 20_000, 2
        far = 1e3
        start = [[0.3, -0.2], [0.1, 0.4]]
        target = (0.1 + far - distance, 0.4)
        model = toy(start, target, far, episodes=episodes, loss=Nothing())
        model.layers[-1].guess.assign([guess, guess])
        _, [found] = gradients(model, targets_of([0, 1], num_images), ["means"])
        draws = -found.reshape(-1, 2, 2) * num_images * episodes
        estimate = draws.mean(axis=0)
        error = draws.std(axis=0) / np.sqrt(len(draws))
        z = -distance / SIGMA  # the place is outside by so much
        slope = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) / SIGMA
        expected = [[0, 0], [slope, 0]]
        self.assertAllLess(np.abs(estimate - expected) / error, 4)
        self.assertLess(error.max(), 0.03 * slope)  # so it says something

    def test_a_good_guess_at_the_reward_makes_the_estimate_steadier(self):
        y = targets_of([0, 1], 5000)
        spread = {}
        for guess in (0.0, 0.9):
            model = toy([[0.0, 0]], (0, 0), 0.25, loss=Nothing())
            model.layers[-1].guess.assign([guess])
            _, [found] = gradients(model, y, ["means"])
            spread[guess] = found.std()
        self.assertLess(spread[0.9], 0.7 * spread[0.0])

    @parameterized.parameters(True, False)
    def test_the_mean_moves_to_where_the_reward_is(self, is_rewarded):
        keras.utils.set_random_seed(0)
        start, target = np.array([[0.2, -0.1]]), np.array([0.4, -0.35])
        model = toy(start, target, 0.2, optimizer=keras.optimizers.Adam(0.01))
        model.layers[-1].guess.assign([0.3])
        # Without a label there is nothing to be rewarded for.
        y = targets_of([0, is_rewarded], 64)
        x = np.zeros((64, 1), "float32")
        history = model.fit(
            tf.data.Dataset.from_tensors((x, y)).repeat(),
            steps_per_epoch=60,
            epochs=2,
            shuffle=False,
            verbose=0,
        ).history
        mean = model.layers[-1].mean.numpy()[0]
        if is_rewarded:
            self.assertLess(np.linalg.norm(mean - target), 0.08)
            self.assertGreater(history["reward"][-1], 0.7)
            self.assertGreater(history["reward"][-1], history["reward"][0])
            self.assertAllClose(
                model.layers[-1].guess, history["reward"][-1:], atol=0.2
            )
        else:
            self.assertAllClose(mean, start[0])
            self.assertAllClose(model.layers[-1].guess, [0.3])

    def test_the_advantage_teaches_no_classifier(self):
        y = targets_of([0, 1], 8)
        for loss, teaches in ((Nothing(), False), (None, True)):
            model = toy([[0.0, 0], [0.1, 0]], (0, 0), 0.1, loss=loss)
            outputs, found = gradients(model, y, ["scores", "baselines"])
            scores, baselines = found
            self.assertEqual(scores is not None and scores.any(), teaches)
            reward = hit_rate(y[:, None], outputs["scores"]).numpy()
            self.assertLen(set(reward.ravel()), 2)
            error = reward[..., None] - outputs["baselines"]
            # Of the mean over images and steps of the squared error, alone.
            self.assertAllClose(baselines, -2 * error / (8 * 2))

    def test_the_classes_learn_from_their_loss_alone(self):
        y = targets_of([0, 1], 8)
        model = toy([[0.0, 0]], (0, 0), 0.1)
        outputs, [found] = gradients(model, y, ["scores"])
        scores = tf.Variable(outputs["scores"][:, 0])
        with tf.GradientTape() as tape:
            loss = SoftmaxSquaredError()(y, scores)
        self.assertAllClose(found[:, 0], tape.gradient(loss, scores))

    def test_images_without_labels_teach_no_place_and_no_guess(self):
        y = targets_of([0, 1], 6)
        y[::2] = [0, -1]
        model = toy([[0.0, 0]], (0, 0), 0.1)
        model.layers[-1].guess.assign([0.5])
        _, found = gradients(model, y, ["means", "baselines", "scores"])
        for gradient in found:
            self.assertAllEqual(gradient[::2], 0 * gradient[::2])
            self.assertTrue(gradient[1::2].any())

    @pytest.mark.heavy
    def test_two_replicas_are_as_one(self):
        results = []
        for devices in ("one", "cpu:2"):
            output = f"{self.get_temp_dir()}/{devices}.npz"
            script = textwrap.dedent(REPLICAS).format(
                root=str(pathlib.Path(__file__).parents[2]),
                devices=devices,
                output=output,
            )
            subprocess.run([sys.executable, "-c", script], check=True)
            results.append(dict(np.load(output)))
        one, two = results
        self.assertEqual((one.pop("replicas"), two.pop("replicas")), (1, 2))
        self.assertEqual(set(one), set(two))
        for name, value in one.items():
            self.assertAllClose(two[name], value, 1e-4, 1e-6, msg=name)
            self.assertTrue(np.any(value), name)


# The draws are an input, so that they are the same on any number of devices.
REPLICAS = """
    import math, sys
    import keras, numpy as np
    import tensorflow as tf
    sys.path[:0] = [{root!r}]
    from tests.models.reinforce_test import SIGMA
    from zoo import training
    from zoo.losses import SoftmaxSquaredError
    from zoo.models.reinforce import Reinforce

    strategy = training.strategy({devices!r})
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, 5)).astype("float32")
    drawn = rng.uniform(-1, 1, (8, 2, 3, 2)).astype("float32")
    y = rng.integers(0, 2, (8, 4)).astype("float32")
    y[1] = 0
    with strategy.scope():
        inputs = keras.Input((5,)), keras.Input((2, 3, 2))
        flat = keras.layers.Flatten()(inputs[1])
        both = keras.layers.Concatenate()([inputs[0], flat])
        def dense(x, name, *shape):
            x = keras.layers.Dense(math.prod(shape), name=name)(x)
            return keras.layers.Reshape(shape)(x)
        outputs = {{
            "scores": dense(both, "classifier", 2, 4),
            "means": dense(inputs[0], "locator", 2, 3, 2),
            "baselines": dense(inputs[0], "baseline", 2, 3),
            "drawn": keras.layers.Identity()(inputs[1]),
        }}
        model = Reinforce(inputs, outputs, SIGMA)
        model.compile("sgd", SoftmaxSquaredError(), jit_compile=False)
    batches = tf.data.Dataset.from_tensors(((images, drawn), y))
    logs = model.fit(batches, shuffle=False, verbose=0).history
    del logs["location_spread"]  # among the images of a replica
    np.savez(
        {output!r}, replicas=strategy.num_replicas_in_sync, **logs,
        **{{weight.path: np.array(weight.value) for weight in model.weights}},
    )
"""
