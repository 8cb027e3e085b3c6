import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo import backbones
from zoo.models import csra, rarl
from zoo.models.rarl_views import ten_views

K = 4  # classes


def patches(image_size=24):
    """Gives a backbone of stride 4 in which no pixel meets another's patch."""
    image = keras.Input((image_size, image_size, 3))
    x = keras.layers.Conv2D(5, 4, strides=4, activation="relu")(image)
    return keras.Model(image, {"P2": x}, name="patches")


def build(backbone=None, level="P2", **options):
    keras.utils.set_random_seed(0)
    model = rarl(
        *(backbone or patches(), K),
        **{"num_steps": 2, "units": 6, "size": 2, "level": level, **options},
    )
    attention = model.get_layer("attention")
    for weight in attention.trainable_weights:
        weight.assign(keras.random.normal(weight.shape))
    return model


def images(size, num_images=2):
    rng = np.random.default_rng(0)
    shape = (num_images, size, size, 3)
    return rng.uniform(0, 255, shape).astype("float32")


def windows(arrays, margin):
    """Cuts the five windows of images or maps."""
    height, width = arrays.shape[1:3]
    for y, x in (
        *((0, 0), (0, margin), (margin, 0), (margin, margin)),
        (margin // 2, margin // 2),
    ):
        yield arrays[:, y : y + height - margin, x : x + width - margin]


class TenViewsTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters("learned", "random")
    def test_equals_ten_forward_passes(self, locations):
        model = build(locations=locations, seed=0)
        whole = images(40)
        expected = [
            model(view)
            for image in (whole, whole[:, :, ::-1])
            for view in windows(image, margin=16)
        ]
        found = ten_views(model, image_size=40, margin=16)(whole)
        self.assertAllClose(found, np.mean(expected, axis=0), 1e-4, 1e-4)
        self.assertNotAllClose(expected[0], expected[-1])
        self.assertEqual(found.shape, (2, K))

    @parameterized.parameters(("tiny", "P5", 64), ("vgg16", "P4", 32))
    def test_cuts_the_map_of_the_larger_image(self, name, level, margin):
        function = getattr(backbones, name)
        model = build(function(96), level)
        path = f"{self.get_temp_dir()}/model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        views = ten_views(loaded, 128, margin)
        self.assertLen(views.weights, len(model.weights))
        whole = images(128, 1)
        anything = function(None)
        anything.set_weights(model.get_layer(name).get_weights())
        scores = [
            model.get_layer("attention")(view)["scores"][:, 0]
            for image in (whole, whole[:, :, ::-1])
            for view in windows(
                anything(image, training=False)[level].numpy(),
                margin // (32 if level == "P5" else 16),
            )
        ]
        found = views(whole, training=False)
        self.assertAllClose(found, np.mean(scores, axis=0), 1e-4, 1e-4)

    def test_shares_the_weights_and_leaves_the_model_as_it_was(self):
        model = build()
        before = model(images(24)).numpy()
        views = ten_views(model, 40, 16)
        self.assertAllEqual(
            {id(weight) for weight in views.weights},
            {id(weight) for weight in model.weights},
        )
        self.assertAllEqual(model(images(24)), before)
        self.assertEqual(model.input_shape, (None, 24, 24, 3))

    def test_takes_a_model_of_any_size(self):
        views = ten_views(build(patches(None)), 40, 16)
        expected = ten_views(build(), 40, 16)
        views.set_weights(expected.get_weights())
        self.assertAllClose(views(images(40)), expected(images(40)))

    @parameterized.parameters(
        (42, 16, "multiple of 4 .* 8. Received: image_size=42, margin=16"),
        (40, 12, "multiple of 4 .* 8. Received: image_size=40, margin=12"),
        (40, 0, "above 0 and below .* margin=0, image_size=40"),
        (40, 40, "above 0 and below .* margin=40, image_size=40"),
    )
    def test_names_windows_off_the_grid(self, image_size, margin, message):
        with self.assertRaisesRegex(ValueError, message):
            ten_views(build(), image_size, margin)

    def test_names_a_model_that_it_cannot_take(self):
        with self.assertRaisesRegex(ValueError, "Received: locations='given'"):
            ten_views(build(locations="given"), 40, 16)
        with self.assertRaisesRegex(ValueError, "Received: model='csra'"):
            ten_views(csra(patches(), K), 40, 16)

    def test_names_a_backbone_of_one_size(self):
        image = keras.Input((24, 24, 3))
        maps = patches()(image)["P2"]
        fixed = {"P2": keras.layers.Resizing(6, 6)(maps)}
        model = build(keras.Model(image, fixed))
        self.assertEqual(ten_views(model, 24, 8).output_shape, (None, K))
        with self.assertRaisesRegex(ValueError, "made for .None, 24, 24, 3"):
            ten_views(model, 48, 16)
