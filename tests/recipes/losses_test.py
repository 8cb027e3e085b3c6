from types import SimpleNamespace

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from recipes.cli import Recipe
from recipes.losses import make_loss
from zoo import losses
from zoo.models import baseline, order_free_rnn, rarl, rgnn
from zoo.models.order_free_rnn import step_model
from zoo.models.rarl import learner as rarl_learner
from zoo.models.rgnn import learner as rgnn_learner

K = 4
TARGETS = np.array([[1, 0, -1, 0], [0, 0, 1, 1], [0, 0, 1, 0]], "float32")
EXAMPLES = [SimpleNamespace(targets=row) for row in TARGETS]
KINDS = {
    "cross_entropy": losses.BinaryCrossentropy,
    "asymmetric": losses.AsymmetricLoss,
    "focal": losses.FocalLoss,
    "class_balanced": losses.BinaryCrossentropy,
}


class MakeLossTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(*KINDS)
    def test_knows_every_name(self, name):
        own = losses.SoftmaxSquaredError()
        for unknown in ("absent", "ignore"):
            recipe = Recipe(loss=name, unknown=unknown)
            loss = make_loss(recipe, EXAMPLES, own)
            self.assertIs(type(loss), KINDS[name])
            self.assertEqual(loss.unknown, unknown)

    def test_the_papers_is_the_methods_own_or_the_cross_entropy(self):
        own = losses.SoftmaxSquaredError()
        self.assertIs(make_loss(Recipe(), EXAMPLES, own), own)
        loss = make_loss(Recipe(label_smoothing=0.1), EXAMPLES)
        self.assertIs(type(loss), losses.BinaryCrossentropy)
        self.assertEqual(loss.label_smoothing, 0.1)
        self.assertIsNone(loss.class_weights)

    def test_weights_count_the_labels_of_the_training_images(self):
        recipe = Recipe(loss="class_balanced", label_smoothing=0.1)
        loss = make_loss(recipe, EXAMPLES)
        expected = losses.class_balanced_weights([1, 0, 2, 1])
        self.assertAllEqual(loss.class_weights, expected)
        self.assertEqual(loss.label_smoothing, 0.1)


def small():
    image = keras.Input((16, 16, 3))
    p4 = keras.layers.Conv2D(5, 4, strides=4)(image)
    p5 = keras.layers.Conv2D(6, 2, strides=2)(p4)
    return keras.Model(image, {"P4": p4, "P5": p5})


MODELS = {
    "gap": lambda: baseline(small(), K),
    "order_free_rnn": lambda: step_model(
        order_free_rnn(small(), K, max_labels=2, units=6, dropout=0.0)
    ),
    "rarl": lambda: rarl_learner(
        rarl(small(), K, num_steps=2, units=6, size=2, seed=0)
    ),
    "rgnn": lambda: rgnn_learner(
        rgnn(small(), K, size=2, dim=8, hidden=7, dropout=0.0)
    ),
}


class LearnTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(*MODELS)
    def test_every_method_learns_by_every_loss(self, method):
        keras.utils.set_random_seed(0)
        model = MODELS[method]()
        rng = np.random.default_rng(0)
        inputs = rng.uniform(0, 1, (3, 16, 16, 3)).astype("float32")
        targets = TARGETS
        if method == "rgnn":
            corners = np.sort(rng.uniform(size=(3, 5, 2, 2)), axis=2)
            regions = corners.reshape(3, 5, 4).astype("float32")
            inputs = {"image": inputs, "regions": regions}
            targets = {"targets": TARGETS, "region_targets": np.ones((3, 5))}
        else:  # a batch of mixed images
            targets = np.where(TARGETS > 0, 0.7, TARGETS)
        values = []
        for name in KINDS:
            loss = make_loss(Recipe(loss=name, unknown="ignore"), EXAMPLES)
            model.compile(keras.optimizers.SGD(0.01), loss, run_eagerly=True)
            before = [np.array(x.value) for x in model.trainable_weights]
            logs = model.train_on_batch(inputs, targets, return_dict=True)
            after = [np.array(x.value) for x in model.trainable_weights]
            values.append(logs.get("classification_loss", logs["loss"]))
            self.assertTrue(all(np.isfinite(w).all() for w in after), name)
            pairs = zip(before, after, strict=True)
            changed = [np.any(old != new) for old, new in pairs]
            self.assertGreater(np.mean(changed), 0.5, name)
            # As validation measures it, with steps too.
            logits = rng.normal(size=(3, 2, K)).astype("float32")
            for part in (logits, logits[:, 0]):
                self.assertGreater(model.loss(TARGETS, part), 0)
        self.assertAllInRange(values, 1e-6, 10)
        self.assertLen(set(np.round(values, 6)), len(KINDS))
