"""Runs methods, layers and losses on JAX, on what TensorFlow has saved."""

import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized

import zoo.layers
from tests.backend_answers import write
from tests.backend_cases import LAYERS, METHODS

ROOT = pathlib.Path(__file__).parents[1]


class BackendCasesTest(tf.test.TestCase):
    def test_no_layer_is_forgotten(self):
        names = [
            name
            for name, value in vars(zoo.layers).items()
            if inspect.isclass(value) and issubclass(value, keras.layers.Layer)
        ]
        self.assertCountEqual(LAYERS, names)

    def test_no_method_is_forgotten(self):
        functions = {method.model.func for method in METHODS.values()}
        public = {
            value
            for value in vars(zoo.models).values()
            if inspect.isfunction(value)
        }
        self.assertEqual(public - functions, {zoo.models.add_max_pooling})


@pytest.mark.heavy
@unittest.skipUnless(
    importlib.util.find_spec("jax"), "needs JAX: pip install '.[jax]'"
)
class JaxBackendTest(parameterized.TestCase, tf.test.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.expected = write(pathlib.Path(directory))
        environment = {
            **os.environ,
            "KERAS_BACKEND": "jax",
            "JAX_PLATFORMS": "cpu",
            # All of the time is compilation.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        command = [sys.executable, "-m", "tests.backend_answers", directory]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise AssertionError(done.stderr)
        with np.load(f"{directory}/found.npz") as found:
            cls.found = dict(found)
        cls.told = json.loads(pathlib.Path(directory, "told.json").read_text())

    def check(self, name):
        self.assertNotIn("error", self.told.get(name, {}), name)
        keys = [key for key in self.expected if key.startswith(f"{name}/")]
        self.assertNotEmpty(keys)
        for key in keys:
            found, expected = self.found[key], self.expected[key]
            self.assertEqual(found.dtype, expected.dtype, key)
            self.assertAllClose(found, expected, rtol=1e-4, atol=1e-4, msg=key)

    def test_runs_on_jax(self):
        self.assertEqual(self.told["backend"], "jax")

    @parameterized.named_parameters((name, name) for name in METHODS)
    def test_method_answers_as_on_tensorflow(self, name):
        self.check(name)

    @parameterized.named_parameters((name, name) for name in METHODS)
    def test_method_trains(self, name):
        self.assertNotIn("error", self.told[name], name)
        self.assertCountEqual(self.told[name], METHODS[name].trained)
        for part, told in self.told[name].items():
            self.assertEqual(told["wrong_weights"], [], part)
            for log, values in told["history"].items():
                self.assertTrue(np.isfinite(values).all(), f"{part}: {log}")

    def test_weight_of_the_gates_falls_with_the_steps(self):
        history = self.told["rgnn_region"]["learner"]["history"]
        self.assertAllClose(history["gate_weight"], [1.0, 0.5])
        # Validation comes after the step.
        self.assertAllClose(history["val_gate_weight"], [0.5, 0.0])

    @parameterized.named_parameters((name, name) for name in LAYERS)
    def test_layer_answers_as_on_tensorflow(self, name):
        self.check(name)

    def test_losses_are_those_of_tensorflow(self):
        names = {key.split("/")[0] for key in self.expected}
        losses = names - set(METHODS) - set(LAYERS)
        self.assertIn("BinaryCrossentropy", losses)
        for name in losses:
            self.check(name)
