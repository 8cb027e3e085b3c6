import inspect
import pathlib

import keras
import tensorflow as tf

import zoo.layers


class AllLayersTest(tf.test.TestCase):
    def test_every_layer_has_a_test_of_the_contract(self):
        layers = [
            value
            for value in vars(zoo.layers).values()
            if inspect.isclass(value) and issubclass(value, keras.layers.Layer)
        ]
        self.assertNotEmpty(layers)
        for layer in layers:
            module = layer.__module__.rpartition(".")[2]
            test = pathlib.Path(__file__).with_name(f"{module}_test.py")
            self.assertTrue(test.exists(), test)
            self.assertIn(f"{layer.__name__}(", test.read_text())
            self.assertIn("check_layer(", test.read_text())
