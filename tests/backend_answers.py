"""How a backend of Keras answers `backend_cases`.

One process writes the models and gives what they compute on TensorFlow. Another
reads them, writes what they compute on its backend, and trains them there:
`KERAS_BACKEND=jax python -m tests.backend_answers DIRECTORY`.
"""

import json
import pathlib
import sys
import traceback

import keras
import numpy as np

import zoo.losses
from tests import small
from tests.backend_cases import (
    INPUTS,
    LAYERS,
    METHODS,
    NUM_CLASSES,
    REGION_TARGETS,
    TARGETS,
    uniform,
)
from zoo.backbones import tiny


def build(name):
    """Gives the model of a method, or of a layer."""
    keras.utils.set_random_seed(0)
    if name in METHODS:
        method = METHODS[name]
        return method.model(
            tiny(64, method.pretrained)
            if method.pretrained
            else small.backbone(64, 96)  # it compiles fast
        )
    make, arrays = LAYERS[name]
    inputs = keras.tree.map_structure(
        lambda a: keras.Input(a.shape[1:]), arrays
    )
    return keras.Model(inputs, make()(*inputs))


def answer(name, model):
    """Gives what the model, or the models over its layers, compute.

    Args:
        name: str, of `METHODS` or `LAYERS`.
        model: `keras.Model`, of `build` or loaded.

    Returns:
        dict from str to array.
    """
    if name in LAYERS:
        return numbered(name, model(LAYERS[name][1]))
    found, (_, loss, trained, shown, _) = {}, METHODS[name]
    for part, function in {**trained, **shown}.items():
        path, model_of_part = f"{name}/{part}", function(model)
        outputs = model_of_part(inputs_of(model_of_part), training=False)
        found |= numbered(path, outputs)
        if part in trained:
            model_of_part.compile(loss=loss)
            found[f"{path}/loss"] = keras.ops.convert_to_numpy(
                model_of_part.compute_loss(
                    y=targets_of(model_of_part), y_pred=outputs, training=False
                )
            )
    return found


def numbered(path, outputs):
    flat = keras.tree.flatten(outputs)
    return {
        f"{path}/{i}": keras.ops.convert_to_numpy(output)
        for i, output in enumerate(flat)
    }


def inputs_of(model):
    return INPUTS if isinstance(model.input, dict) else INPUTS["image"]


def targets_of(model):
    if isinstance(model.output, dict) and "gates" in model.output:
        return {"targets": TARGETS, "region_targets": REGION_TARGETS}
    return TARGETS


def answer_losses():
    """Gives the number of every loss, for both meanings of -1."""
    # Also beyond where a sigmoid is 0 or 1 in float32.
    logits = 60 * uniform(2, NUM_CLASSES) - 30
    return {
        f"{name}/{unknown}": keras.ops.convert_to_numpy(
            loss(unknown=unknown)(TARGETS, logits)
        )
        for name, loss in vars(zoo.losses).items()
        if isinstance(loss, type)
        and issubclass(loss, keras.losses.Loss)
        and not name.startswith("_")
        for unknown in ("absent", "ignore")
    }


def train(name, model):
    """Trains each of a method's models and tells what became of it.

    Returns:
        dict from str to the logs of `fit`, with the paths of the weights that
        are not finite or that did not change.
    """
    told = {}
    for part, function in METHODS[name].trained.items():
        learner = function(model)
        learner.compile(optimizer(name), METHODS[name].loss)
        data = inputs_of(learner), targets_of(learner)
        weights = learner.trainable_weights
        before = [keras.ops.convert_to_numpy(weight) for weight in weights]
        history = learner.fit(
            *data,
            epochs=2,  # of one step
            verbose=0,
            # A learner's loss may know how far the training is.
            validation_data=data if part == "learner" else None,
        ).history
        after = [keras.ops.convert_to_numpy(weight) for weight in weights]
        told[part] = {
            "history": history,
            "wrong_weights": [
                weight.path
                for weight, old, new in zip(weights, before, after, strict=True)
                if not np.isfinite(new).all() or (old == new).all()
            ],
        }
    return told


def optimizer(name):
    adam = keras.optimizers.Adam(1e-3)
    if name != "fan":
        return adam
    optimizers = keras.optimizers.OptimizerMap(adam)
    optimizers["(?!P[345]).*"] = keras.optimizers.SGD(0.1)
    return keras.optimizers.MultiOptimizer(optimizers)


def write(directory):
    """Writes the models, and gives what they and the losses compute here."""
    found = answer_losses()
    for name in [*METHODS, *LAYERS]:
        model = build(name)
        model.save(directory / f"{name}.keras")
        found |= answer(name, model)
    return found


def main(directory):
    """Reads the models; writes what they compute and how they train here."""
    found, told = answer_losses(), {}
    for name in [*METHODS, *LAYERS]:
        keras.utils.set_random_seed(0)  # dropout is drawn anew when loaded
        try:
            model = keras.saving.load_model(directory / f"{name}.keras")
            found |= answer(name, model)
            told[name] = train(name, model) if name in METHODS else {}
        except Exception:  # the test names those that fail
            told[name] = {"error": traceback.format_exc()}
    np.savez(directory / "found.npz", **found)
    told["backend"] = keras.backend.backend()
    (directory / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
