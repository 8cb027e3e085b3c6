r"""Pretrains `tiny` on stamps: makes the weights that the package ships.

A stamp is a drawn object in the middle of a small image. They stand in for
ImageNet: cheap, single-label, and of the classes of the data set `scenes`.

Run:    python recipes/pretrain_tiny.py \
            --output zoo/weights/tiny_stamps.weights.h5
Paper:  none.
Ours:   accuracy 0.859 on the 1,200 stamps held out, with this command (seed 0).
Cost:   3 minutes on two busy CPU cores.
"""

import argparse
import dataclasses
import pathlib

import recipes  # noqa: F401, sets what TensorFlow reads at its import

# isort: split
import keras
import numpy as np
from keras import layers

from zoo import runs
from zoo.backbones import tiny
from zoo.data import memory, scenes
from zoo.training import WarmupCosineDecay


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every number that changes the result, and nothing else."""

    num_stamps: int = 12_000
    epochs: int = 8
    seed: int = 0  # of stamps, weights, order and augmentation
    size: int = 48  # pixels, height and width of a stamp
    validation_fraction: float = 0.1  # share of the stamps that is held out
    batch_size: int = 64
    learning_rate: float = 3e-3  # at its highest
    warmup_fraction: float = 0.1  # share of the steps, then a cosine to 0
    weight_decay: float = 4e-3
    shift: float = 0.08  # largest random shift, share of the size


def classifier(backbone, shift, seed):
    """Puts augmentation before a backbone, and one linear layer after it.

    Args:
        backbone: `keras.Model` of `zoo.backbones`.
        shift: float. Largest random shift in training, share of the size.
        seed: int. Of the augmentation.

    Returns:
        A functional `keras.Model` from images to logits of shape `(batch,
        num_classes)`, one for each of `scenes.CLASSES`.
    """
    image = keras.Input(backbone.input.shape[1:], name="image")
    x = layers.RandomFlip("horizontal", seed=seed)(image)
    x = layers.RandomTranslation(shift, shift, seed=seed + 1)(x)
    x = backbone(x)["P5"]
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(len(scenes.CLASSES), name="logits")(x)
    return keras.Model(image, logits, name="stamp_classifier")


def train(recipe):
    """Trains `tiny` as the recipe says.

    Args:
        recipe: `Recipe`.

    Returns:
        `(backbone, accuracy)`: the trained `keras.Model`, without its head,
        and the share of held-out stamps that the classifier names rightly.
    """
    keras.utils.set_random_seed(recipe.seed)
    images, labels = scenes.stamps(recipe.num_stamps, recipe.seed, recipe.size)
    order = np.random.default_rng(recipe.seed).permutation(recipe.num_stamps)
    held_out = round(recipe.num_stamps * recipe.validation_fraction)
    validation, training = order[:held_out], order[held_out:]

    backbone = tiny(recipe.size)
    model = classifier(backbone, recipe.shift, recipe.seed)
    steps = -(-len(training) // recipe.batch_size) * recipe.epochs
    warmup_steps = round(steps * recipe.warmup_fraction)
    learning_rate = WarmupCosineDecay(
        recipe.learning_rate, warmup_steps, steps - warmup_steps
    )
    model.compile(
        keras.optimizers.AdamW(learning_rate, recipe.weight_decay),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        images[training],
        labels[training],
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        validation_data=(images[validation], labels[validation]),
        verbose=2,
    )
    return backbone, history.history["val_accuracy"][-1]


def main(argv=None):
    """Trains, prints the accuracy and saves the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        required=True,
        help="file of the weights, *.weights.h5, replaced if it exists",
    )
    numbers = {"num_stamps": 10, "epochs": 1, "seed": 0}  # and the least
    for name, least in numbers.items():
        parser.add_argument(
            f"--{name}",
            type=int,
            default=getattr(Recipe, name),
            help=f"at least {least} (default: %(default)s)",
        )
    arguments = parser.parse_args(argv)
    memory.keep()
    if not arguments.output.name.endswith(".weights.h5"):
        parser.error(f"--output must end in .weights.h5: {arguments.output}")
    recipe = Recipe(**{name: getattr(arguments, name) for name in numbers})
    for name, least in numbers.items():
        if getattr(recipe, name) < least:
            parser.error(f"--{name} must be at least {least}")
    backbone, accuracy = train(recipe)
    runs.write_beside(arguments.output, backbone.save_weights)
    print(f"validation accuracy {accuracy:.3f}, weights in {arguments.output}")


if __name__ == "__main__":
    main()
