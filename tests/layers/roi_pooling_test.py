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

from tests.contract import check_layer
from zoo.layers import RoiCropAndResize, RoiPooling

ROOT = pathlib.Path(__file__).parents[2]
SHAPE = (2, 9, 11, 4)  # of the features


def inputs(num_regions):
    rng = np.random.default_rng(0)
    features = rng.normal(size=SHAPE)
    corners = rng.uniform(-0.1, 1.1, (2, num_regions, 2, 2))
    regions = np.sort(corners, axis=2).reshape(2, num_regions, 4)
    regions[:, -1:] = 0
    return features.astype("float32"), regions.astype("float32")


def reference(features, regions, size):
    """Crops, then takes the maximum of one cell at a time."""
    crops = RoiCropAndResize(2 * size)(features, regions).numpy()
    pooled = np.zeros((*regions.shape[:2], size, size, features.shape[-1]))
    for i, j in np.ndindex(size, size):
        cell = crops[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        pooled[:, :, i, j] = cell.max(axis=(2, 3))
    return pooled


def all_at_once(features, regions, size):
    crops = RoiCropAndResize(2 * size)(features, regions)
    flat = tf.reshape(crops, (-1, 2 * size, 2 * size, SHAPE[-1]))
    return tf.reshape(
        tf.nn.max_pool2d(flat, 2, 2, "VALID"),
        (*regions.shape[:2], size, size, SHAPE[-1]),
    )


def gradients(pool, features, regions):
    features = tf.convert_to_tensor(features)
    regions = tf.convert_to_tensor(regions)
    with tf.GradientTape() as tape:
        tape.watch([features, regions])
        loss = tf.reduce_mean(pool(features, regions) ** 2)
    return tape.gradient(loss, [features, regions])


REPLICAS = """
    import sys
    import numpy as np, tensorflow as tf
    sys.path[:0] = [{root!r}]
    from tests.layers.roi_pooling_test import gradients, inputs
    from zoo.layers import RoiPooling

    RoiPooling._LARGE_CROP = 0
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    layer = RoiPooling(3)
    features, regions = inputs(13)

    @tf.function
    def step():
        def of_replica():
            i = tf.distribute.get_replica_context().replica_id_in_sync_group
            image = tf.constant(features)[i : i + 1]
            return gradients(layer, image, tf.constant(regions)[i : i + 1])

        return strategy.run(of_replica)

    results = [strategy.experimental_local_results(x) for x in step()]
    for ours, whole in zip(results, gradients(layer, features, regions)):
        # A replica takes the mean of one image, not of two.
        ours = tf.concat(ours, 0) / 2
        np.testing.assert_allclose(ours, whole, atol=1e-5)
    print("replicas agree")
"""


class RoiPoolingTest(parameterized.TestCase, tf.test.TestCase):
    """In chunks, as for crops that are large."""

    def setUp(self):
        super().setUp()
        self.enter_context(mock.patch.object(RoiPooling, "_LARGE_CROP", 0))

    def test_contract(self):
        shapes = [(2, 5, 6, 3), (2, 7, 4)]
        check_layer(RoiPooling(3), shapes, self.get_temp_dir())

    @parameterized.product(size=(1, 3), num_regions=(1, 2, 7, 20))
    def test_matches_reference(self, size, num_regions):
        features, regions = inputs(num_regions)
        pooled = RoiPooling(size)(features, regions)
        self.assertAllClose(pooled, reference(features, regions, size))
        self.assertAllEqual(pooled[:, -1], tf.zeros_like(pooled[:, -1]))

    @parameterized.parameters(2, 20)
    def test_has_the_gradients_of_all_at_once(self, num_regions):
        features, regions = inputs(num_regions)

        def once(features, regions):
            return all_at_once(features, regions, 3)

        expected = gradients(once, features, regions)
        ours = gradients(RoiPooling(3), features, regions)
        for slope, theirs in zip(ours, expected, strict=True):
            self.assertAllClose(slope, theirs, rtol=1e-5, atol=1e-5)

    def test_any_number_of_regions_in_a_graph(self):
        self.check_in_a_graph((13, 3), jit_compile=False)

    @pytest.mark.heavy
    def test_any_number_of_regions_under_xla(self):
        self.check_in_a_graph((3,), jit_compile=True)

    def check_in_a_graph(self, numbers, jit_compile):
        layer = RoiPooling(2)
        signature = [
            tf.TensorSpec((None, None, None, 4)),
            tf.TensorSpec((None, None, 4)),
        ]

        @tf.function(input_signature=signature, jit_compile=jit_compile)
        def function(features, regions):
            pooled = layer(features, regions)
            return pooled, gradients(layer, features, regions)

        for num_regions in numbers:
            features, regions = inputs(num_regions)
            pooled, slopes = function(features, regions)
            self.assertAllClose(
                pooled, reference(features, regions, 2), atol=1e-5
            )
            expected = gradients(layer, features, regions)
            for slope, theirs in zip(slopes, expected, strict=True):
                self.assertAllClose(slope, theirs, rtol=1e-5, atol=1e-5)

    def test_no_region(self):
        features, regions = inputs(1)
        for none in (regions[:, :0], tf.zeros((2, 0, 4))):
            pooled = RoiPooling(2)(features, none)
            self.assertEqual(pooled.shape, (2, 0, 2, 2, 4))

    def test_no_chunk_keeps_its_crop(self):
        # The backward pass crops each chunk once more.
        features, regions = inputs(24)

        def operations(function):
            graph = tf.function(function).get_concrete_function().graph
            types = [node.type for node in graph.get_operations()]
            return types.count("CropAndResize")

        layer = RoiPooling(3)
        forward = operations(lambda: layer(features, regions))
        self.assertGreater(forward, 1)
        both = operations(lambda: gradients(layer, features, regions))
        self.assertEqual(both, 2 * forward)

    def test_half_precision(self):
        features, regions = inputs(8)
        layer = RoiPooling(3, dtype="mixed_bfloat16")
        pooled = layer(features, regions)
        self.assertDTypeEqual(pooled, "bfloat16")
        expected = tf.cast(reference(features, regions, 3), "bfloat16")
        self.assertAllEqual(pooled, expected)

    def test_saved_model(self):
        features, regions = map(tf.constant, inputs(8))
        arguments = keras.Input(SHAPE[1:]), keras.Input((None, 4))
        model = keras.Model(arguments, RoiPooling(3)(*arguments))
        model.export(self.get_temp_dir(), verbose=False)
        loaded = tf.saved_model.load(self.get_temp_dir())
        pooled = loaded.serve((features, regions))
        self.assertAllClose(pooled, model((features, regions)))

    def test_names_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "Received: size=-1"):
            RoiPooling(-1)
        with self.assertRaisesRegex(ValueError, "Received: regions_shape="):
            RoiPooling(2)(tf.zeros((1, 4, 4, 3)), tf.zeros((1, 5)))

    @pytest.mark.heavy
    def test_replicas_have_the_gradients_of_one_device(self):
        script = textwrap.dedent(REPLICAS).format(root=str(ROOT))
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True
        )
        self.assertIn("replicas agree", result.stdout, result.stderr[-2000:])


class AtOnceTest(parameterized.TestCase, tf.test.TestCase):
    """Crops that are small, which need no chunks."""

    @parameterized.parameters(1, 2, 20)
    def test_gives_what_chunks_give(self, num_regions):
        features, regions = inputs(num_regions)
        layer = RoiPooling(3)
        pooled = layer(features, regions)
        self.assertAllClose(pooled, reference(features, regions, 3))
        ours = gradients(layer, features, regions)
        with mock.patch.object(RoiPooling, "_LARGE_CROP", 0):
            expected = gradients(layer, features, regions)
        for slope, theirs in zip(ours, expected, strict=True):
            self.assertAllClose(slope, theirs, rtol=1e-5, atol=1e-5)

    def test_no_region(self):
        features, regions = inputs(1)
        pooled = RoiPooling(2)(features, regions[:, :0])
        self.assertEqual(pooled.shape, (2, 0, 2, 2, 4))
        gradients(RoiPooling(2), features, regions[:, :0])

    @parameterized.parameters((7, 512, True), (2, 160, False))
    def test_chunks_are_for_large_crops(self, size, channels, in_chunks):
        layer = RoiPooling(size)
        arguments = tf.ones((1, 4, 4, channels)), tf.ones((1, 2, 4))
        with mock.patch.object(
            keras, "remat", side_effect=keras.remat
        ) as remat:
            layer(*arguments)
        self.assertEqual(remat.called, in_chunks)
