"""What every layer of the zoo promises, in one check for their tests."""

import inspect

import keras
import numpy as np
from keras import ops, tree


def check_layer(layer, shape, directory):
    """Checks config, unknown sizes, a saved file, gradients and precision.

    Give the layer arguments other than its defaults: a key that `get_config`
    forgets is found in any case, a value that it reports wrongly is not.

    Args:
        layer: `keras.layers.Layer`, not built yet.
        shape: tuple of int, `(batch, ..., channels)`, the shape to call it
            with; or a list for a layer that is called with several arguments:
            a tuple for a tensor, a list of tuples for a list of tensors. What
            lies between batch and channels is left unknown when the layer is
            built.
        directory: str. Where a model file may be written.

    Raises:
        AssertionError: If the layer breaks a promise.
    """
    shapes = shape if isinstance(shape, list) else [shape]
    rng = np.random.default_rng(0)
    arrays = tree.map_shape_structure(
        lambda s: rng.normal(size=s).astype("float32"), shapes
    )

    config = layer.get_config()
    parameters = inspect.signature(type(layer).__init__).parameters.values()
    arguments = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    forgotten = arguments - {"self"} - set(config)
    assert not forgotten, f"get_config() lacks {sorted(forgotten)}"
    assert type(layer).from_config(config).get_config() == config

    inputs = tree.map_shape_structure(
        lambda s: keras.Input((None,) * (len(s) - 2) + s[-1:]), shapes
    )
    model = keras.Model(inputs, layer(*inputs))
    expected = model.predict(arrays, verbose=0)
    model.save(f"{directory}/model.keras")
    loaded = keras.saving.load_model(f"{directory}/model.keras")
    outputs = tree.map_structure(ops.convert_to_numpy, loaded(arrays))
    # Flat, because a loaded model gives a list where the layer gave a tuple.
    pairs = zip(tree.flatten(outputs), tree.flatten(expected), strict=True)
    for output, value in pairs:
        np.testing.assert_allclose(output, value, rtol=1e-6, atol=1e-6)

    if layer.trainable_weights:
        before = [ops.convert_to_numpy(w) for w in layer.trainable_weights]
        # Adam, since its step does not vanish with the size of a gradient.
        # Eagerly: to trace a gradient takes longest. Recipes' runs do it.
        model.compile("adam", "mse", run_eagerly=True)
        targets = tree.map_structure(lambda y: y + 1, expected)
        model.fit(arrays, targets, verbose=0)
        for old, weight in zip(before, layer.trainable_weights, strict=True):
            new = ops.convert_to_numpy(weight)
            assert np.isfinite(new).all(), f"{weight.path} is not finite"
            assert (old != new).any(), f"{weight.path} has no gradient"

    half = type(layer).from_config({**config, "dtype": "mixed_bfloat16"})
    for output in tree.flatten(half(*arrays)):
        output = ops.convert_to_numpy(ops.cast(output, "float32"))
        assert np.isfinite(output).all(), "not finite under mixed precision"
    for weight in half.weights:
        assert weight.dtype == "float32", f"{weight.path} is {weight.dtype}"
