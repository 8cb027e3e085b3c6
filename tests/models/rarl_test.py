import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

from zoo.layers import RecurrentAttention
from zoo.losses import SoftmaxSquaredError
from zoo.models import rarl
from zoo.models.rarl import explain, learner
from zoo.models.reinforce import Reinforce

K, T = 5, 2  # classes, steps


def backbone(image_size=16):
    """Gives little more than the shapes of a backbone, in little time."""
    image = keras.Input((image_size, image_size, 3))
    p4 = keras.layers.Conv2D(4, 2, strides=2, name="conv")(image)
    p4 = keras.layers.BatchNormalization(name="norm")(p4)
    p5 = keras.layers.AveragePooling2D(2)(p4)
    return keras.Model(image, {"P4": p4, "P5": p5}, name="backbone")


def build(image_size=16, **options):
    keras.utils.set_random_seed(0)
    options = {"units": 6, "size": 2, "num_steps": T, "seed": 0, **options}
    model = rarl(backbone(image_size), K, **options)
    for weight in model.trainable_weights:
        weight.assign(weight + keras.random.normal(weight.shape) * 0.3)
    return model


def images(num_images=3, size=16):
    rng = np.random.default_rng(0)
    return rng.normal(size=(num_images, size, size, 3)).astype("float32")


def given():
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(size=(3, T, 2, 2)), axis=2)
    return corners.reshape(3, T, 4).astype("float32")


class RarlTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters("P4", "P5")
    def test_scores_what_its_regions_show_of_the_level(self, level):
        model = build(level=level)
        logits = model(images())
        self.assertEqual(logits.shape, (3, K))
        maps = model.get_layer("backbone")(images())
        self.assertEqual(maps.shape[1], {"P4": 8, "P5": 4}[level])
        expected = model.get_layer("attention")(maps)
        self.assertAllClose(logits, expected["scores"][:, 0])
        shown = explain(model)(images())
        self.assertEqual(set(shown), {"regions", "region_scores"})
        self.assertEqual(shown["regions"].shape, (3, T, 9, 4))
        self.assertAllClose(
            tf.reduce_max(shown["region_scores"], axis=(1, 2)), logits
        )
        self.assertAllClose(shown["regions"], expected["regions"][:, 0])

    def test_arguments_reach_the_layer(self):
        options = {
            "num_steps": 3,
            "scales": (0.4,),
            "ratios": (1.5,),
            "units": 7,
            "size": 3,
            "lstm": "location",
            "locations": "random",
            "deviation": 0.2,
            "episodes": 4,
            "seed": 9,
        }
        config = build(**options).get_layer("attention").get_config()
        for name, value in options.items():
            self.assertEqual(config[name], value, name)

    def test_the_paper_is_the_default(self):
        attention = rarl(backbone(), K).get_layer("attention")
        pixels = 448 * np.sort(attention.scales)
        self.assertAllClose(pixels, [80, 160, 320])
        self.assertAllEqual(np.sort(attention.ratios), [0.5, 1, 2])
        self.assertEqual((attention.num_steps, attention.size), (5, 7))
        self.assertEqual((attention.lstm, attention.episodes), ("both", 1))
        self.assertEqual(attention.deviation, 0.11)

    @parameterized.parameters(
        {"num_steps": 1},
        {"scales": (0.2, 0.3, 0.4)},
        {"ratios": (1.0, 1.0, 1.0)},
        {"level": "P5"},
        {"lstm": "location"},
        {"lstm": "none"},
        {"locations": "random"},
    )
    def test_every_switch_changes_the_logits(self, **switch):
        plain, other = build(), build(**switch)
        by_name = {
            weight.path.partition("/")[2]: weight for weight in plain.weights
        }
        for weight in other.weights:
            weight.assign(by_name[weight.path.partition("/")[2]])
        self.assertNotAllClose(plain(images()), other(images()))

    def test_any_image_size(self):
        model = build(image_size=None)
        for size in (16, 22):
            self.assertEqual(model(images(size=size)).shape, (3, K))

    @parameterized.parameters("learned", "random", "given")
    def test_saved_model_gives_the_same(self, locations):
        model = build(locations=locations)
        inputs = images()
        if locations == "given":
            inputs = {"image": inputs, "regions": given()}
        path = f"{self.get_temp_dir()}/model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        expected = model(inputs)
        self.assertAllEqual(loaded(inputs), expected)
        self.assertAllEqual(model(inputs), expected)  # nothing is drawn
        self.assertEqual(explain(loaded)(inputs)["regions"].shape[:2], (3, T))
        self.assertIsInstance(learner(loaded), Reinforce)

    def test_given_regions_are_those_of_the_steps(self):
        model = build(locations="given")
        inputs = {"image": images(), "regions": given()}
        shown = explain(model)(inputs)
        self.assertAllClose(shown["regions"][:, :, 0], given())
        other = {**inputs, "regions": given()[::-1]}
        self.assertNotAllClose(model(other), model(inputs))

    def test_a_step_of_the_learner_changes_every_weight_of_the_model(self):
        model = build()
        part = learner(model, policy_weight=0.5)
        self.assertEqual(part.policy_weight, 0.5)
        self.assertEqual(part.deviation, model.get_layer("attention").deviation)
        before = [weight.numpy() for weight in model.trainable_weights]
        part.compile("adam", SoftmaxSquaredError(), jit_compile=False)
        targets = np.eye(K, dtype="float32")[[0, 2, 4]]
        logs = part.train_on_batch(images(), targets, return_dict=True)
        self.assertCountEqual(
            logs,
            ["loss", "classification_loss", "reward", "policy_loss"]
            + ["baseline_loss", "location_spread"],
        )
        for old, weight in zip(before, model.trainable_weights, strict=True):
            self.assertNotAllEqual(old, weight, weight.path)

    @pytest.mark.heavy
    def test_the_policy_finds_where_the_class_shows(self):
        # One bright place in the map. Only the locator learns, and only by
        # reward: the label wins where the region that is seen is bright.
        y, x = np.meshgrid(*[np.linspace(-1, 1, 15)] * 2, indexing="ij")
        target = np.array([0.4, -0.3])
        bright = np.exp(-((y - target[0]) ** 2 + (x - target[1]) ** 2) / 0.1)
        maps = np.tile(bright[None, ..., None], (32, 1, 1, 1))
        layer = RecurrentAttention(
            2,
            num_steps=1,
            scales=(0.05,),
            ratios=(1.0,),
            units=1,
            size=1,
            lstm="none",
            episodes=4,
            seed=0,
            name="attention",
        )
        features = keras.Input((15, 15, 1))
        found = layer(features)
        layer.represent.set_weights([np.ones((1, 1)), np.zeros(1)])
        layer.classifier.set_weights([np.array([[0.0, 1]]), np.array([0.5, 0])])
        layer.represent.trainable = layer.classifier.trainable = False
        model = keras.Model(features, found["scores"][:, 0])
        part = learner(model)
        part.compile(
            keras.optimizers.Adam(0.01),
            SoftmaxSquaredError(),
            jit_compile=False,
        )
        targets = np.tile(np.array([[0.0, 1]], "float32"), (32, 1))
        batches = tf.data.Dataset.from_tensors((maps, targets)).repeat()
        logs = part.fit(
            batches, steps_per_epoch=40, epochs=4, shuffle=False, verbose=0
        ).history
        self.assertLess(logs["reward"][0], 0.5)
        self.assertGreater(logs["reward"][-1], 0.8)
        place = layer(maps[:1])["means"][0, 0, 0]
        self.assertAllClose(place, target, atol=0.12)

    def test_logits_are_float32_under_mixed_precision(self):
        keras.config.set_dtype_policy("mixed_bfloat16")
        self.addCleanup(keras.config.set_dtype_policy, "float32")
        model = build()
        self.assertEqual(model(images()).dtype, "float32")
        for value in explain(model)(images()).values():
            self.assertEqual(value.dtype, "float32")

    def test_names_a_level_that_is_not_there(self):
        with self.assertRaisesRegex(ValueError, "Received: level='P3'"):
            build(level="P3")
