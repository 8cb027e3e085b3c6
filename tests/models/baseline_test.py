import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from zoo.backbones import tiny
from zoo.models import add_max_pooling, baseline
from zoo.models.baseline import explain


def images(num_images=2):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (num_images, 96, 96, 3)).astype("float32")


class BaselineTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters("avg", "max")
    def test_pools_the_scores_of_positions(self, pooling):
        backbone = tiny(image_size=96)
        model = baseline(backbone, 7, pooling)
        features = ops.convert_to_numpy(backbone(images())["P5"])
        kernel, bias = model.get_layer("classifier").get_weights()
        scores = features.reshape(2, 9, -1) @ kernel[0, 0] + bias
        pool = {"avg": np.mean, "max": np.max}[pooling]
        self.assertAllClose(model(images()), pool(scores, axis=1), rtol=1e-4)
        maps = explain(model)(images())
        self.assertAllClose(maps, scores.reshape(2, 3, 3, 7), rtol=1e-4)

    def test_add_max_pooling(self):
        model = baseline(tiny(image_size=96), 7)
        scores = explain(model)(images())
        for weight in (0.0, 0.2, 1.5):
            expected = tf.reduce_mean(scores, (1, 2))
            expected += weight * tf.reduce_max(scores, (1, 2))
            logits = add_max_pooling(model, weight)(images())
            self.assertAllClose(logits, expected, rtol=1e-5, atol=1e-6)

    def test_add_max_pooling_to_a_loaded_model_and_save_it(self):
        model = baseline(tiny(image_size=96), 7)
        expected = add_max_pooling(model, 0.2)(images())
        for step in ("trained", "changed"):
            path = f"{self.get_temp_dir()}/{step}.keras"
            model.save(path)
            model = keras.saving.load_model(path)
            if step == "trained":
                model = add_max_pooling(model, 0.2)
        self.assertAllClose(model(images()), expected, rtol=1e-6)

    def test_names_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "Received: pooling='mean'"):
            baseline(tiny(image_size=96), 7, "mean")
        model = baseline(tiny(image_size=96), 7, "max")
        with self.assertRaisesRegex(ValueError, "Received: model='baseline'"):
            add_max_pooling(model, 0.2)
