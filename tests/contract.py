"""What every layer of the zoo promises, in one check for their tests."""

import inspect

import keras
import numpy as np
from keras import ops


def check_layer(layer, shape, directory):
    """Checks config, unknown sizes, a saved file, gradients and precision.

    Give the layer arguments other than its defaults: a key that `get_config`
    forgets is found in any case, a value that it reports wrongly is not.

    Args:
        layer: `keras.layers.Layer`, not built yet.
        shape: tuple of int, `(batch, ..., channels)`, the shape to call it
            with; or a list of tuples for a layer that is called with several
            tensors. What lies between batch and channels is left unknown when
            the layer is built.
        directory: str. Where a model file may be written.

    Raises:
        AssertionError: If the layer breaks a promise.
    """
    shapes = shape if isinstance(shape, list) else [shape]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype("float32") for s in shapes]

    config = layer.get_config()
    parameters = inspect.signature(type(layer).__init__).parameters.values()
    arguments = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    forgotten = arguments - {"self"} - set(config)
    assert not forgotten, f"get_config() lacks {sorted(forgotten)}"
    assert type(layer).from_config(config).get_config() == config

    inputs = [keras.Input((None,) * (len(s) - 2) + s[-1:]) for s in shapes]
    model = keras.Model(inputs, layer(*inputs))
    expected = model.predict(arrays, verbose=0)
    model.save(f"{directory}/model.keras")
    loaded = keras.saving.load_model(f"{directory}/model.keras")
    loaded_outputs = loaded.predict(arrays, verbose=0)
    np.testing.assert_allclose(loaded_outputs, expected, rtol=1e-6, atol=1e-6)

    if layer.trainable_weights:
        before = [ops.convert_to_numpy(w) for w in layer.trainable_weights]
        # Adam, since its step does not vanish with the size of a gradient.
        model.compile("adam", "mse")
        model.fit(arrays, expected + 1, verbose=0)
        for old, weight in zip(before, layer.trainable_weights, strict=True):
            new = ops.convert_to_numpy(weight)
            assert np.isfinite(new).all(), f"{weight.path} is not finite"
            assert (old != new).any(), f"{weight.path} has no gradient"

    half = type(layer).from_config({**config, "dtype": "mixed_bfloat16"})
    outputs = ops.convert_to_numpy(ops.cast(half(*arrays), "float32"))
    assert np.isfinite(outputs).all(), "not finite under mixed precision"
    for weight in half.weights:
        assert weight.dtype == "float32", f"{weight.path} is {weight.dtype}"
