from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.contract import check_layer
from zoo.layers import RoiCropAndResize
from zoo.layers import roi_crop_and_resize as module

CASES = {  # name -> shape of the features, size
    "usual": ((2, 5, 7, 3), 3),
    "grid_of_the_pixels": ((1, 8, 8, 2), 8),
    "one_point": ((2, 4, 6, 3), 1),
    "two_points": ((1, 4, 6, 3), 2),
    "one_row": ((2, 1, 6, 2), 3),
    "one_column": ((1, 5, 1, 2), 4),
    "one_pixel": ((2, 1, 1, 2), 2),
}


def reference(features, regions, size):
    """Samples one point at a time, in float64."""
    batch, height, width, channels = features.shape
    crops = np.zeros((batch, len(regions[0]), size, size, channels))
    for b, r, i, j in np.ndindex(crops.shape[:-1]):
        if not regions[b, r].any():
            continue
        ymin, xmin, ymax, xmax = np.clip(regions[b, r], 0, 1)
        step = (i / (size - 1), j / (size - 1)) if size > 1 else (0.5, 0.5)
        y = (ymin + step[0] * (ymax - ymin)) * (height - 1)
        x = (xmin + step[1] * (xmax - xmin)) * (width - 1)
        for row in range(height):
            for column in range(width):
                weight = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
                crops[b, r, i, j] += weight * features[b, row, column]
    return crops


def inputs(shape, num_regions=24):
    """Gives features and regions: padding, borders, outside, on pixels."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=shape)
    corners = rng.uniform(-0.3, 1.3, (shape[0], num_regions, 2, 2))
    regions = np.sort(corners, axis=2).reshape(shape[0], num_regions, 4)
    regions[:, :8] = [
        [0.0, 0.0, 0.0, 0.0],  # padding
        [0.0, 0.0, 1.0, 1.0],  # the whole image
        [0.3, 0.3, 1.0, 1.0],
        [1.2, 0.2, 1.4, 0.3],  # outside, below
        [-0.5, -0.5, -0.1, -0.1],  # outside, at the origin
        [-1.0, -1.0, 2.0, 2.0],
        [0.5, 0.5, 0.5, 0.5],  # empty
        [0.0, 0.25, 0.5, 0.75],
    ]
    return features.astype("float32"), regions.astype("float32")


def interior(shape, num_regions=12):
    """Gives features and regions away from the image's border."""
    rng = np.random.default_rng(1)
    features = rng.normal(size=shape)
    corners = rng.uniform(0.02, 0.98, (shape[0], num_regions, 2, 2))
    regions = np.sort(corners, axis=2).reshape(shape[0], num_regions, 4)
    return features.astype("float32"), regions.astype("float32")


def gradients(crop, features, regions, upstream):
    features = tf.convert_to_tensor(features)
    regions = tf.convert_to_tensor(regions)
    with tf.GradientTape() as tape:
        tape.watch([features, regions])
        crops = crop(features, regions)
        loss = tf.reduce_sum(crops * upstream)
    return crops, *tape.gradient(loss, [features, regions])


class RoiCropAndResizeTest(parameterized.TestCase, tf.test.TestCase):
    def layer(self, size, by_op=True, **kwargs):
        """Makes a layer that takes the path of a test's choice."""
        chosen = mock.patch.object(module, "_has_op", lambda: by_op)
        self.enterContext(chosen)
        return RoiCropAndResize(size, **kwargs)

    @parameterized.parameters(True, False)
    def test_contract(self, by_op):
        shapes = [(2, 5, 6, 3), (2, 7, 4)]
        check_layer(self.layer(3, by_op), shapes, self.get_temp_dir())

    @parameterized.product(case=list(CASES), by_op=(True, False))
    def test_matches_reference(self, case, by_op):
        shape, size = CASES[case]
        features, regions = inputs(shape)
        crops = self.layer(size, by_op)(features, regions)
        expected = reference(features, regions, size)
        self.assertEqual(crops.shape, expected.shape)
        self.assertAllClose(crops, expected, rtol=1e-5, atol=2e-5)

    @parameterized.parameters(list(CASES))
    def test_both_paths_have_the_same_gradients(self, case):
        shape, size = CASES[case]
        features, regions = inputs(shape)
        rng = np.random.default_rng(2)
        upstream = rng.normal(size=(shape[0], 24, size, size, shape[-1]))
        arguments = features, regions, upstream.astype("float32")
        by_op = gradients(self.layer(size), *arguments)
        by_take = gradients(self.layer(size, by_op=False), *arguments)
        for ours, theirs in zip(by_take, by_op, strict=True):
            self.assertAllClose(ours, theirs, rtol=1e-5, atol=1e-5)
        self.assertAllEqual(by_take[2][:, 0], np.zeros((shape[0], 4)))

    @parameterized.product(size=(1, 2, 4), by_op=(True, False))
    def test_gradients_are_those_of_the_reference(self, size, by_op):
        features, regions = interior((2, 5, 7, 3))
        rng = np.random.default_rng(2)
        upstream = rng.normal(size=(2, 12, size, size, 3)).astype("float32")
        _, by_features, by_regions = gradients(
            self.layer(size, by_op), features, regions, upstream
        )
        # The crop is linear in the features: any change finds the gradient.
        change = rng.normal(size=features.shape)
        expected = np.sum(reference(change, regions, size) * upstream)
        self.assertAllClose(np.sum(change * by_features), expected, atol=1e-3)
        # And smooth in a region, but where a point crosses a pixel.
        for k in range(4):
            step = 1e-6 * np.eye(4)[k]
            above, below = (
                reference(features, regions.astype("float64") + s, size)
                for s in (step, -step)
            )
            slopes = np.sum((above - below) * upstream, axis=(2, 3, 4)) / 2e-6
            self.assertAllClose(
                by_regions[..., k], slopes, rtol=1e-4, atol=1e-4
            )

    @parameterized.parameters(True, False)
    def test_padding_is_zero_and_has_no_gradient(self, by_op):
        for shape in ((1, 4, 5, 2), (1, 1, 1, 2), (1, 1, 5, 2)):
            features, regions = np.ones(shape, "float32"), np.zeros((1, 3, 4))
            crops, *slopes = gradients(
                self.layer(2, by_op), features, regions.astype("float32"), 1.0
            )
            self.assertAllEqual(crops, np.zeros((1, 3, 2, 2, 2)))
            for slope in slopes:
                self.assertAllEqual(slope, np.zeros(slope.shape))

    @parameterized.parameters(True, False)
    def test_region_outside_repeats_the_border(self, by_op):
        features, _ = inputs((1, 4, 5, 2))
        regions = np.array([[[1.5, 0, 2, 1], [-2, -2, -1, -1]]], "float32")
        crops = self.layer(5, by_op)(features, regions)
        for row in crops[0, 0]:
            self.assertAllClose(row, features[0, 3], atol=2e-5)
        for point in tf.reshape(crops[0, 1], (-1, 2)):
            self.assertAllClose(point, features[0, 0, 0], atol=2e-5)

    @parameterized.product(length=(13, 28, 100), by_op=(True, False))
    def test_rounding_loses_no_point_at_the_border(self, length, by_op):
        # The bare op gives 0 at the last point of some of these regions.
        corners = np.random.default_rng(0).uniform(0, 0.9, (1, 300, 4))
        corners[..., 2:] = 1
        features = np.ones((1, length, length, 1), "float32")
        for size in (7, 14):
            crops = self.layer(size, by_op)(features, corners)
            self.assertAllClose(crops, tf.ones_like(crops), atol=1e-5)

    def test_xla_takes_the_path_without_the_op(self):
        features, regions = inputs((2, 5, 7, 3))
        layer = RoiCropAndResize(3)
        plain = tf.function(layer).get_concrete_function(features, regions)
        operations = {node.type for node in plain.graph.get_operations()}
        self.assertIn("CropAndResize", operations)

        @tf.function(jit_compile=True)
        def compiled(features, regions):
            return gradients(tf.function(layer), features, regions, 1.0)

        expected = gradients(layer, features, regions, 1.0)
        for ours, theirs in zip(
            compiled(features, regions), expected, strict=True
        ):
            self.assertAllClose(ours, theirs, rtol=1e-5, atol=1e-5)

    @parameterized.parameters(True, False)
    def test_any_size_of_anything(self, by_op):
        layer = self.layer(3, by_op)
        signature = [
            tf.TensorSpec((None, None, None, 3)),
            tf.TensorSpec((None, None, 4)),
        ]
        function = tf.function(layer, input_signature=signature)
        for shape in ((2, 5, 7, 3), (1, 4, 4, 3), (3, 1, 1, 3)):
            features, regions = inputs(shape, num_regions=9)
            crops = function(features, regions)
            expected = reference(features, regions, 3)
            self.assertAllClose(crops, expected, rtol=1e-5, atol=2e-5)
        empty = function(features, np.zeros((3, 0, 4), "float32"))
        self.assertEqual(empty.shape, (3, 0, 3, 3, 3))

    def test_static_shape(self):
        crops = RoiCropAndResize(7)(
            keras.Input((None, None, 8)), keras.Input((None, 4))
        )
        self.assertEqual(crops.shape, (None, None, 7, 7, 8))

    @parameterized.product(
        dtype=("mixed_bfloat16", "mixed_float16"), by_op=(True, False)
    )
    def test_half_precision_samples_in_float32(self, dtype, by_op):
        features, regions = inputs((2, 40, 40, 3))
        layer = self.layer(3, by_op, dtype=dtype)
        half = tf.cast(features, layer.compute_dtype)
        expected = RoiCropAndResize(3)(tf.cast(half, "float32"), regions)
        upstream = tf.ones(expected.shape, layer.compute_dtype)
        crops, by_features, by_regions = gradients(
            layer, half, regions, upstream
        )
        self.assertDTypeEqual(crops, layer.compute_dtype)
        self.assertDTypeEqual(by_features, layer.compute_dtype)
        self.assertDTypeEqual(by_regions, "float32")
        self.assertAllEqual(crops, tf.cast(expected, layer.compute_dtype))

    def test_names_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "Received: size=0"):
            RoiCropAndResize(0)
        good = (4, 5, 2), (3, 4)
        for name, shapes in {
            "features_shape": ((4, 5, None), good[1]),
            "regions_shape": (good[0], (3, 5)),
        }.items():
            arguments = [keras.Input(shape) for shape in shapes]
            with self.assertRaisesRegex(ValueError, f"Received: {name}="):
                RoiCropAndResize(2)(*arguments)
