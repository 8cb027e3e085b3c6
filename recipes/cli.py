"""What every recipe shares: flags, data sets by name, the steps of a run."""

import argparse
import contextlib
import dataclasses
import pathlib
import shlex
import sys
import typing

import keras
import numpy as np

from export import saved_model
from zoo import backbones, losses, pictures, reports, runs, training
from zoo.data import pipeline, scenes, voc
from zoo.models.baseline import explain as explain_baseline
from zoo.models.csra import explain as explain_csra

NUM_PICTURES = 8


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set by name: how to read it, and which split is for what."""

    read: typing.Callable  # (root, split) -> zoo.data.Dataset
    train_split: str
    test_split: str | None  # None: its labels are not public
    needs_data_dir: bool = True


DATASETS = {
    "scenes": Source(scenes.read, "trainval", "test", needs_data_dir=False),
    "voc2007": Source(
        lambda root, split: voc.read(root, split, year=2007), "trainval", "test"
    ),
    "voc2012": Source(
        lambda root, split: voc.read(root, split, year=2012), "trainval", None
    ),
}
BACKBONES = {"tiny": backbones.tiny, "resnet101": backbones.resnet101}
EXPLAIN = {  # by the method in a run's card
    "csra": explain_csra,
    "gap": explain_baseline,
    "gmp": explain_baseline,
}


def field(default, text):
    """Gives a recipe's field its default and its line in `--help`."""
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every number that changes the result, and nothing else.

    The defaults are those of Zhu and Wu (2021) for ResNet-101 on VOC.
    """

    backbone: str = field("resnet101", "network from pixels to features")
    pretrained: str = field(
        "imagenet", 'its weights: a preset name or folder, or "none"'
    )
    normalization: typing.Literal[
        "weights", "imagenet", "unit", "symmetric"
    ] = field(
        "weights",
        "of pixels: as the weights want them, ImageNet's mean and deviation, "
        "0 to 1, or -1 to 1",
    )
    image_size: int = field(448, "height and width, in pixels")
    batch_size: int = field(16, "images in a step, over all replicas")
    epochs: int = field(30, "passes over the training images")
    optimizer: typing.Literal["sgd", "adamw"] = field(
        "sgd", "sgd has momentum 0.9"
    )
    backbone_learning_rate: float = field(0.01, "highest, of the backbone")
    head_learning_rate: float = field(0.1, "highest, of all the rest")
    weight_decay: float = field(1e-4, "of all weights")
    schedule: typing.Literal["step", "cosine"] = field(
        "step", "x0.1 every decay_epochs, or a cosine to 0"
    )
    warmup_epochs: float = field(2.0, "of a linear rise")
    decay_epochs: float = field(4.0, 'from one fall to the next, for "step"')
    crop_area: float = field(
        0.7, "least share of an image in a random crop; 1: no crop"
    )
    shift: float = field(0.0, "most that an image moves, share of its size")
    unknown: typing.Literal["absent", "ignore"] = field(
        "absent", "what targets of -1 are in the training loss"
    )
    validation_fraction: float = field(
        0.1, "share of the training split that is held out; 0: none"
    )
    seed: int = field(0, "of weights, order and augmentation")


# What `tiny` trains with, by every method and its twins alike. Chosen by mAP on
# the validation part of scenes' trainval.
TINY = {
    "pretrained": "stamps",
    "image_size": 128,
    "batch_size": 16,
    "epochs": 18,
    "optimizer": "adamw",
    "backbone_learning_rate": 3e-3,
    "head_learning_rate": 3e-3,
    "weight_decay": 0.02,
    "schedule": "cosine",
    "warmup_epochs": 1.8,
    "crop_area": 1.0,
    "shift": 0.08,
}
TINY_ON_PHOTOS = {
    **TINY,
    "image_size": 224,
    "epochs": 60,
    "crop_area": 0.7,
    "shift": 0.0,
}


def parse(description, recipes, argv=None):
    """Reads the flags: one for each field of the recipe, and the common ones.

    The data set and the backbone choose the recipe that the other flags
    change: `recipes["voc2007/tiny"]` goes before `recipes["voc2007"]`.

    Args:
        description: str, for `--help`.
        recipes: dict from "data set" or "data set/backbone" to recipe.
        argv: list of str, or `None` for the command line.

    Returns:
        `(arguments, recipe)`: an `argparse.Namespace` and a dataclass.
    """
    choice = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    choice.add_argument(
        "--dataset", choices=DATASETS, default="scenes", help="%(default)s"
    )
    choice.add_argument("--backbone", choices=BACKBONES, default="tiny")
    known, _ = choice.parse_known_args(argv)
    name = f"{known.dataset}/{known.backbone}"
    recipe = recipes.get(name, recipes[known.dataset])
    recipe = dataclasses.replace(recipe, backbone=known.backbone)

    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--dataset",
        choices=DATASETS,
        default="scenes",
        help="(default: scenes, which is drawn when it is first used)",
    )
    parser.add_argument(
        "--data_dir",
        type=pathlib.Path,
        help="folder of the data set; scenes has a cache folder of its own",
    )
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        help="folder of the run (default: runs/METHOD-DATASET-BACKBONE-seedN)",
    )
    parser.add_argument(
        "--devices",
        default="all",
        help='"all" GPUs, or the CPU where there is none; "one" of them; or '
        '"cpu:N": the CPU as N virtual devices (default: all)',
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run that was stopped in the output folder",
    )
    group = parser.add_argument_group(
        "recipe",
        f"with the defaults of --dataset {known.dataset} "
        f"--backbone {known.backbone}; others have others",
    )
    for item in dataclasses.fields(recipe):
        default = getattr(recipe, item.name)
        group.add_argument(
            f"--{item.name}",
            default=default,
            help=f"{item.metadata['help']} (default: {default})",
            **_type_and_choices(item),
        )
    arguments = parser.parse_args(argv)
    if DATASETS[arguments.dataset].needs_data_dir and not arguments.data_dir:
        parser.error(f"--dataset {arguments.dataset} needs --data_dir")
    values = {
        item.name: getattr(arguments, item.name)
        for item in dataclasses.fields(recipe)
    }
    return arguments, dataclasses.replace(recipe, **values)


def _type_and_choices(item):
    if item.name == "backbone":
        return {"choices": BACKBONES}
    if typing.get_origin(item.type) is typing.Literal:
        choices = typing.get_args(item.type)
        return {"choices": choices, "type": type(choices[0])}
    if item.type is bool:  # bool("false") is true
        return {"choices": (True, False), "type": _boolean}
    return {"type": item.type}


def _boolean(text):
    return {"true": True, "false": False}.get(text.lower(), text)


@contextlib.contextmanager
def clear_errors(kinds=(OSError, ValueError)):
    """Ends the program with one line where the user's input is at fault.

    Args:
        kinds: tuple of exception types whose message says what to change.
    """
    try:
        yield
    except kinds as error:
        sys.exit(f"error: {error}")


@dataclasses.dataclass(frozen=True)
class Data:
    """The examples of a run, by what they are for."""

    classes: tuple[str, ...]
    training: list
    validation: list  # held out of the training split; may be empty
    test: list
    test_name: str  # what `test` is, for titles


def read_data(dataset, data_dir, validation_fraction):
    """Reads a data set by name and finds its unreadable images.

    In training, these are named and left out; in the test split they are an
    error. What is held out for validation does not depend on the run's seed,
    so that runs can be compared.

    Args:
        dataset: str, a key of `DATASETS`.
        data_dir: path or `None`.
        validation_fraction: float in `[0, 1)`.

    Returns:
        `Data`.

    Raises:
        FileNotFoundError: If a file of the data set is missing.
        ValueError: If one of them cannot be used.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            "`validation_fraction` must be in [0, 1). "
            f"Received: validation_fraction={validation_fraction}"
        )
    source = DATASETS[dataset]
    split = source.read(data_dir, source.train_split)
    bad = pipeline.unreadable(split.examples)
    if bad:
        print(
            f"{len(bad)} of {len(split.examples)} images of "
            f"{source.train_split} cannot be read and are left out:",
            *bad.values(),
            sep="\n  ",
            file=sys.stderr,
        )
    examples = [e for i, e in enumerate(split.examples) if i not in bad]
    order = np.random.default_rng(0).permutation(len(examples))
    held_out = round(validation_fraction * len(examples))
    validation = [examples[i] for i in sorted(order[:held_out])]
    training_examples = [examples[i] for i in sorted(order[held_out:])]
    if source.test_split is None:
        test = training_examples
        test_name = f"{dataset} {source.train_split}, TRAINING images"
    else:
        test = read_test(dataset, data_dir, source.test_split).examples
        test_name = f"{dataset} {source.test_split}"
    print(
        f"{dataset}: {len(training_examples)} training and {len(validation)} "
        f"validation images, {len(split.classes)} classes; "
        f"{len(test)} images of {test_name} at the end"
    )
    return Data(split.classes, training_examples, validation, test, test_name)


def read_test(dataset, data_dir, split):
    """Reads a split to evaluate on; an unreadable image is an error.

    Args:
        dataset: str, a key of `DATASETS`.
        data_dir: path or `None`.
        split: str.

    Returns:
        `zoo.data.example.Dataset`.

    Raises:
        FileNotFoundError: If a file of the data set is missing.
        ValueError: If one of them cannot be used.
    """
    data = DATASETS[dataset].read(data_dir, split)
    if bad := pipeline.unreadable(data.examples):
        raise ValueError(
            f"{len(bad)} of {len(data.examples)} images of {split} cannot be "
            "read, and an evaluation without them would be another protocol: "
            + "; ".join(list(bad.values())[:5])
        )
    return data


def make_backbone(recipe):
    """Builds the backbone that a recipe names."""
    arguments = (
        {}
        if recipe.normalization == "weights"
        else {"normalization": recipe.normalization}
    )
    if recipe.backbone == "tiny" and arguments:
        raise ValueError(
            "`tiny` has one normalization, that of its weights. "
            f"Received: normalization={recipe.normalization!r}"
        )
    pretrained = None if recipe.pretrained == "none" else recipe.pretrained
    return BACKBONES[recipe.backbone](
        recipe.image_size, pretrained=pretrained, **arguments
    )


def _optimizer(recipe, name, learning_rate, steps):
    # A short trial reaches its highest rate, too.
    warmup_steps = min(
        round(recipe.warmup_epochs * steps), recipe.epochs * steps // 2
    )
    if recipe.schedule == "step":
        rate = training.WarmupStepDecay(
            learning_rate, warmup_steps, round(recipe.decay_epochs * steps)
        )
    else:
        rate = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0,
            decay_steps=recipe.epochs * steps - warmup_steps,
            warmup_target=learning_rate,
            warmup_steps=warmup_steps,
        )
    if recipe.optimizer == "adamw":
        return keras.optimizers.AdamW(
            rate, weight_decay=recipe.weight_decay, name=name
        )
    # The papers' decay goes through the momentum, which sums it up to
    # 1 / (1 - momentum) of itself; Keras' decay does not.
    momentum = 0.9
    return keras.optimizers.SGD(
        rate,
        momentum=momentum,
        weight_decay=recipe.weight_decay / (1 - momentum),
        name=name,
    )


def train(method, recipe, arguments, build):
    """Trains, measures, explains and exports: the steps of every recipe.

    Args:
        method: str. Name of the method, a key of `EXPLAIN`.
        recipe: the recipe's dataclass.
        arguments: `argparse.Namespace` from `parse`.
        build: callable `(recipe, backbone, num_classes)` to `keras.Model`.
    """
    directory = arguments.output_dir or pathlib.Path(
        f"runs/{method}-{arguments.dataset}-{recipe.backbone}-seed{recipe.seed}"
    )
    identity = {
        "method": method,
        "dataset": arguments.dataset,
        "data_dir": str(arguments.data_dir) if arguments.data_dir else None,
        **dataclasses.asdict(recipe),
    }
    with clear_errors():
        runs.check(directory, identity, arguments.resume)
        strategy = training.strategy(arguments.devices)
        data = read_data(
            arguments.dataset, arguments.data_dir, recipe.validation_fraction
        )
        steps = pipeline.steps_per_epoch(data.training, recipe.batch_size)
        if recipe.batch_size < strategy.num_replicas_in_sync:
            raise ValueError(
                "Every replica needs an image: `batch_size` must be at least "
                f"{strategy.num_replicas_in_sync}. "
                f"Received: batch_size={recipe.batch_size}"
            )
        with strategy.scope():
            keras.utils.set_random_seed(recipe.seed)
            backbone = make_backbone(recipe)
            model = build(recipe, backbone, len(data.classes))
            optimizer = training.two_groups(
                model,
                backbone,
                _optimizer(
                    recipe, "backbone", recipe.backbone_learning_rate, steps
                ),
                _optimizer(recipe, "head", recipe.head_learning_rate, steps),
            )
            model.compile(
                optimizer,
                losses.BinaryCrossentropy(unknown=recipe.unknown),
                jit_compile=False,  # broken under MirroredStrategy
            )
    runs.write_json(directory / runs.RECIPE, identity)
    explain = EXPLAIN[method](model)
    with clear_errors((FloatingPointError,)):
        _fit(directory, model, explain, recipe, data, steps, arguments.resume)
    runs.save_model(directory / runs.MODEL, model)
    card = {
        **identity,
        "classes": data.classes,
        "preprocessing": {
            "image_size": recipe.image_size,
            "resize": "bilinear with antialiasing, to a square",
            "pixels": "RGB, 0 to 255; the model normalises them itself",
        },
        "num_training_images": len(data.training),
        "num_validation_images": len(data.validation),
        "versions": runs.versions(),
        "commit": runs.commit(),
        "command": shlex.join(["python", *sys.argv]),
    }
    _finish(directory, model, explain, recipe, data, card)


def _fit(directory, model, explain, recipe, data, steps, resume):
    """Trains to the last epoch and leaves the best one's weights."""
    prefix = "val" if data.validation else "train"
    watched = data.validation or data.training
    images = load_images(watched[:4], recipe.image_size)
    targets = [example.targets for example in watched[:4]]
    checkpoints = directory / "checkpoints"
    first_epoch = training.resume(model, checkpoints) if resume else 0
    training.check_distributable(model)

    def draw(model):
        maps, scores = explain(images), keras.ops.sigmoid(model(images))
        return np.stack(
            [
                pictures.pixels(pictures.evidence(*one, data.classes, target))
                for *one, target in zip(
                    images,
                    *map(np.asarray, (maps, scores)),
                    targets,
                    strict=True,
                )
            ]
        )

    if first_epoch < recipe.epochs:
        model.fit(
            pipeline.training_batches(
                data.training,
                recipe.image_size,
                recipe.batch_size,
                recipe.epochs,
                recipe.seed,
                first_epoch,
                recipe.crop_area,
                recipe.shift,
            ),
            steps_per_epoch=steps,
            initial_epoch=first_epoch,
            epochs=recipe.epochs,
            callbacks=training.callbacks(
                directory,
                data.classes,
                pipeline.evaluation_batches(
                    watched, recipe.image_size, recipe.batch_size
                ),
                np.stack([example.targets for example in watched]),
                draw,
                prefix,
            ),
            shuffle=False,  # the pipeline does
            verbose=1 if sys.stdout.isatty() else 2,
        )
    best = training.best_checkpoint(checkpoints, f"{prefix}_mAP")
    training.load_checkpoint(model, best)
    print(f"The best epoch is that of {best}.")


def _finish(directory, model, explain, recipe, data, card):
    """Measures, draws, exports, and writes the card that ends the run."""
    probabilities, report = evaluate(
        model, data.test, data.classes, recipe.image_size, recipe.batch_size
    )
    targets = np.stack([example.targets for example in data.test])
    runs.save_predictions(
        directory / runs.PREDICTIONS, data.test, targets, probabilities
    )
    report = {"images": data.test_name, **report}
    runs.write_json(directory / runs.METRICS, report)
    draw_evidence(
        directory / "pictures",
        explain,
        data.test[:NUM_PICTURES],
        probabilities[:NUM_PICTURES],
        data.classes,
        recipe.image_size,
    )
    card = {**card, "metrics": report}
    base_path = directory / "export" / card["method"]
    version = saved_model.export(model, data.classes, base_path, card=card)
    runs.write_json(directory / runs.CARD, card)
    title = f"{card['method']} on {data.test_name}"
    serve = f"--model {shlex.quote(card['method'] + '=' + str(base_path))}"
    ask = f"--model {card['method']} {shlex.quote(data.test[0].image_path)}"
    print(
        f"""
{reports.table(report, title)}

{directory}
  {runs.MODEL}, {runs.CARD}, {runs.METRICS}, {runs.PREDICTIONS}, history.csv
  pictures/      where the model looked, on {NUM_PICTURES} images
  tensorboard/   tensorboard --logdir {shlex.quote(str(directory.parent))}
  {version.relative_to(directory)}/ ready to serve

Serve it, then ask it:
  python -m serving.server --port 8500 {serve}
  python -m serving.client --target localhost:8500 {ask}"""
    )


def evaluate(model, examples, classes, image_size, batch_size):
    """Predicts and measures.

    Args:
        model: `keras.Model` from images to logits.
        examples: list of `Example`, all readable.
        classes: sequence of str.
        image_size: int. Height and width of the images, in pixels.
        batch_size: int.

    Returns:
        `(probabilities, report)`: float32 array `(num_examples,
        num_classes)`, and the dict of `zoo.reports.measure`.
    """
    batches = pipeline.evaluation_batches(examples, image_size, batch_size)
    probabilities = training.predict(
        model, batches, len(examples), verbose=int(sys.stdout.isatty())
    )
    targets = np.stack([example.targets for example in examples])
    return probabilities, reports.measure(targets, probabilities, classes)


def load_images(examples, image_size):
    """Loads a few images: float32 `(num_examples, size, size, 3)`."""
    batches = pipeline.evaluation_batches(examples, image_size, len(examples))
    return next(batches.as_numpy_iterator())[0]


def draw_evidence(
    directory, explain, examples, probabilities, classes, image_size
):
    """Writes one PNG an image: where the model looked for its labels.

    Args:
        directory: `pathlib.Path`, made if it is not there.
        explain: `keras.Model` from images to maps.
        examples: list of a few `Example`.
        probabilities: array of shape `(num_examples, num_classes)`.
        classes: sequence of str.
        image_size: int. Height and width of the images, in pixels.

    Returns:
        list of `pathlib.Path`, in the order of the examples.
    """
    directory.mkdir(parents=True, exist_ok=True)
    images = load_images(examples, image_size)
    maps = keras.ops.convert_to_numpy(explain(images))
    paths = []
    for example, *one in zip(
        examples, images, maps, probabilities, strict=True
    ):
        path = directory / f"{example.image_id}.png"
        pictures.evidence(*one, classes, example.targets).savefig(path)
        paths.append(path)
    return paths
