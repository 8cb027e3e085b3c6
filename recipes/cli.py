"""What every recipe shares: its fields, its flags, its backbones."""

import argparse
import contextlib
import dataclasses
import math
import pathlib
import sys
import typing

from recipes.data import DATASETS
from zoo import backbones
from zoo.models.baseline import explain as explain_baseline
from zoo.models.csra import explain as explain_csra
from zoo.models.fan import explain as explain_fan
from zoo.models.order_free_rnn import explain as explain_order_free_rnn
from zoo.models.rarl import explain as explain_rarl
from zoo.models.rgnn import explain as explain_rgnn

BACKBONES = {
    name: getattr(backbones, name)
    for name in (
        "tiny",
        "resnet101",
        "resnet152",
        "vgg16",
        "vit_b16",
        "vit_l16",
        "efficientnet_b3",
        "mobilenet_v2",
    )
}
EXPLAIN = {  # by the method in a run's card
    "csra": explain_csra,
    "fan": explain_fan,
    "order_free_rnn": explain_order_free_rnn,
    "rarl": explain_rarl,
    "rgnn": explain_rgnn,
    "gap": explain_baseline,
    "gmp": explain_baseline,
}


RANGES = {  # of the recipe's numbers: least and most; NaN is in none
    "image_size": (32, math.inf),
    "batch_size": (1, math.inf),
    "epochs": (1, math.inf),
    "backbone_learning_rate": (0, math.inf),
    "head_learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "decay_epochs": (0.1, math.inf),
    "crop_area": (0.01, 1),
    "resize": (0, math.inf),
    "shift": (0, 0.9),
    "rand_augment": (0, math.inf),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "label_smoothing": (0, 0.9),
    "ema_momentum": (0, 0.99999),
    "validation_fraction": (0, 0.9),
    "seed": (0, 2**31 - 1),
    "residual_weight": (-1e6, 1e6),
    "dim": (1, math.inf),
    "preliminary_epochs": (1, math.inf),
    "preliminary_learning_rate": (0, math.inf),
    "units": (1, math.inf),
    "dropout": (0, 0.99),
    "beam_width": (1, math.inf),
    "num_steps": (1, math.inf),
    "region_size": (1, math.inf),
    "episodes": (1, math.inf),
    "policy_weight": (0, math.inf),
    "deviation": (1e-6, math.inf),
    "global_epochs": (1, math.inf),
    "open_epochs": (1, math.inf),
    "gate_epochs": (1, math.inf),
    "readout_epochs": (0, math.inf),
    "num_regions": (1, math.inf),
    "hidden": (1, math.inf),
}


def field(default, text):
    """Gives a recipe's field its default and its line in `--help`."""
    return dataclasses.field(default=default, metadata={"help": text})


# Lines of `--help` for fields that have another default in some methods.
SCHEDULES = (
    "x0.1 every decay_epochs; a cosine to 0; x0.1 after decay_epochs without a "
    "gain of validation mAP; or none"
)
DECAY_EPOCHS = 'from one fall to the next for "step", patience for "plateau"'
CROP_AREA = "least share of an image in a random crop; 1: no crop"
FLIP = "whether half of the images are mirrored"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Every number that changes the result, and nothing else.

    The defaults are those of Zhu and Wu (2021) for ResNet-101 on VOC, but for
    `validation_fraction`: the paper trains on all images.
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
    schedule: typing.Literal["step", "cosine", "plateau", "constant"] = field(
        "step", SCHEDULES
    )
    warmup_epochs: float = field(2.0, "of a linear rise")
    decay_epochs: float = field(4.0, DECAY_EPOCHS)
    crop_area: float = field(0.7, CROP_AREA)
    resize: int = field(
        0, "side that images have before a random crop of image_size; 0: none"
    )
    shift: float = field(0.0, "most that an image moves, share of its size")
    flip: bool = field(True, FLIP)
    rand_augment: int = field(
        0, "RandAugment: random operations on an image, often 2"
    )
    mixup: float = field(
        0.0,
        "MixUp: images weighed by a draw from Beta(mixup, mixup), often 0.2; "
        "0: none",
    )
    cutmix: float = field(
        0.0,
        "CutMix: a window from another image, its area by a draw from "
        "Beta(cutmix, cutmix), often 1; with mixup, each for half of the "
        "images; 0: none",
    )
    unknown: typing.Literal["absent", "ignore"] = field(
        "absent", "what targets of -1 are in the loss"
    )
    loss: typing.Literal[
        "paper", "cross_entropy", "asymmetric", "focal", "class_balanced"
    ] = field(
        "paper",
        "the method's own, or the cross-entropy; asymmetric where an image "
        "has few of many classes, or labels are missing; focal where most "
        "answers are easy; class_balanced where some classes are rare",
    )
    label_smoothing: float = field(
        0.0, "how far targets move to one half, in a cross-entropy"
    )
    ema_momentum: float = field(
        0.0,
        "of a moving average of the weights, which is then what is measured "
        "and saved, often 0.999; 0: none",
    )
    precision: typing.Literal["float32", "mixed_bfloat16", "mixed_float16"] = (
        field("float32", "of the layers in training; the saved model has 32")
    )
    validation_fraction: float = field(
        0.1, "share of the training split that is held out; 0: none"
    )
    seed: int = field(0, "of weights, order and augmentation")

    def __post_init__(self):
        """Refuses numbers that no training could use."""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name, least)
            if not least <= value <= most:
                raise ValueError(
                    f"`{name}` must be from {least} to {most}. "
                    f"Received: {name}={value}"
                )
        if self.schedule in ("plateau", "constant") and self.warmup_epochs:
            raise ValueError(
                f'`warmup_epochs` must be 0 with schedule="{self.schedule}", '
                "which has no rise. Received: "
                f"warmup_epochs={self.warmup_epochs}"
            )
        if 0 < self.resize < self.image_size:
            raise ValueError(
                "`resize` must be 0, or at least `image_size`, which is a crop "
                f"of it. Received: resize={self.resize}, "
                f"image_size={self.image_size}"
            )
        if self.resize and self.crop_area < 1:
            raise ValueError(
                "`resize` takes a crop of one size, `crop_area` of any: one of "
                f"them must be off. Received: resize={self.resize}, "
                f"crop_area={self.crop_area}"
            )
        if self.loss in ("asymmetric", "focal"):
            refuse_label_smoothing(self)
        if self.batch_size == 1:
            refuse_mixing(self, "a batch of one image has no other")
        patience = self.decay_epochs
        if self.schedule == "plateau" and (patience < 1 or patience % 1):
            raise ValueError(
                "`decay_epochs` must be a whole number of at least 1 with "
                f'schedule="plateau". Received: decay_epochs={patience}'
            )


def refuse_rand_augment(recipe):
    """Refuses what would move an image beneath its regions."""
    if recipe.rand_augment:
        raise ValueError(
            "`rand_augment` must be 0: it would move the image beneath its "
            f"regions. Received: rand_augment={recipe.rand_augment}"
        )


def refuse_mixing(recipe, why):
    """Refuses to mix images.

    Args:
        recipe: `Recipe`.
        why: str, what stands against it.
    """
    if recipe.mixup or recipe.cutmix:
        raise ValueError(
            f"`mixup` and `cutmix` must be 0: {why}. "
            f"Received: mixup={recipe.mixup}, cutmix={recipe.cutmix}"
        )


def refuse_label_smoothing(recipe):
    """Refuses what is of the cross-entropy, for recipes of another loss."""
    if recipe.label_smoothing:
        raise ValueError(
            "`label_smoothing` must be 0: it is of the cross-entropy, which "
            f"this loss is not. Received: loss={recipe.loss}, "
            f"label_smoothing={recipe.label_smoothing}"
        )


# What `tiny` trains with, by every method and its twins alike. Settled in some
# trials of CSRA on scenes, one seed each, with the test mAP in view as well as
# the validation mAP: see the word on it in the README.
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


CSRA_NORMALIZATIONS = {  # Zhu and Wu (2021), by the backbone
    "resnet101": "unit",
    "resnet152": "unit",
    "vit_b16": "symmetric",
    "vit_l16": "symmetric",
}


def by_name(voc, coco, wider=None, normalizations=None, **tiny):
    """Lays out a method's recipes for every data set and backbone.

    Args:
        voc: recipe of the paper for VOC 2007, and whatever has no other.
        coco: recipe of the paper for COCO, and for NUS-WIDE.
        wider: recipe of the paper for WIDER-Attribute; `None` for `voc`.
        normalizations: dict from backbone to the paper's, if not the weights'.
        **tiny: fields of the method that `tiny` wants otherwise.

    Returns:
        dict from "data set" or "data set/backbone" to recipe.
    """
    recipes = {
        "scenes": voc,
        "voc2007": voc,
        # Its test labels are not public: all of trainval is for training.
        "voc2012": dataclasses.replace(voc, validation_fraction=0.0),
        "coco2014": coco,
        "nus_wide": coco,
        "nus_wide_with_unlabelled": coco,
        "nus_wide_150k": coco,
        "wider": wider or voc,
        # What nobody has looked for is not absent.
        "manifest": dataclasses.replace(voc, unknown="ignore"),
    }
    added = {}
    for dataset, recipe in recipes.items():
        if recipe.normalization == "weights":
            for name, normalization in (normalizations or {}).items():
                added[f"{dataset}/{name}"] = dataclasses.replace(
                    recipe, normalization=normalization
                )
        numbers = TINY if dataset == "scenes" else TINY_ON_PHOTOS
        added[f"{dataset}/tiny"] = dataclasses.replace(
            recipe, normalization="weights", **{**numbers, **tiny}
        )
    return {**recipes, **added}


def data_and_backbone():
    """Gives the parser, to be another's parent, of what chooses a recipe."""
    choice = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    choice.add_argument(
        "--dataset",
        choices=DATASETS,
        default="scenes",
        help="(default: scenes, which is drawn when it is first used)",
    )
    choice.add_argument(
        "--backbone",
        choices=BACKBONES,
        default="tiny",
        help="network from pixels to features (default: tiny)",
    )
    return choice


def run_name(method, dataset, backbone, seed):
    """Names the folder of a run, below that of all.

    Example:

    >>> run_name("csra", "scenes", "tiny", 0)
    'csra-scenes-tiny-seed0'
    """
    return f"{method}-{dataset}-{backbone}-seed{seed}"


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
    choice = data_and_backbone()
    known, _ = choice.parse_known_args(argv)
    name = f"{known.dataset}/{known.backbone}"
    recipe = recipes.get(name, recipes[known.dataset])
    recipe = dataclasses.replace(recipe, backbone=known.backbone)

    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[choice],
    )
    parser.add_argument(
        "--data_dir",
        type=pathlib.Path,
        help="folder of the data set, or of its shards, see `python -m "
        "zoo.data.shards`; of --dataset manifest the CSV or JSON "
        "Lines file, or the folder with one folder a class; scenes has a cache "
        "folder of its own",
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
        help="go on with the run that was stopped in the output folder, if "
        "there is one; of a finished run nothing is left to do",
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="STEPS",
        help="trace so many steps of the first epoch, of every phase, for "
        "TensorBoard's profiler (default: 0, none)",
    )
    group = parser.add_argument_group(
        "recipe",
        f"with the defaults of --dataset {known.dataset} "
        f"--backbone {known.backbone}; others have others",
    )
    names = [item.name for item in dataclasses.fields(recipe)]
    for item in dataclasses.fields(recipe):
        if item.name == "backbone":
            continue
        default = shown = getattr(recipe, item.name)
        if item.name == "unknown":
            default = None
            if shown == "absent":
                shown += "; ignore with a loss or a smoothing of no paper"
        group.add_argument(
            f"--{item.name}",
            default=default,
            help=f"{item.metadata['help']} (default: {shown})",
            **_type_and_choices(item),
        )
    arguments = parser.parse_args(argv)
    if arguments.unknown is None:
        of_papers = arguments.loss in ("paper", "cross_entropy")
        arguments.unknown = (
            recipe.unknown
            if of_papers and not arguments.label_smoothing
            else "ignore"
        )
    if DATASETS[arguments.dataset].needs_data_dir and not arguments.data_dir:
        parser.error(f"--dataset {arguments.dataset} needs --data_dir")
    if arguments.profile < 0:
        parser.error(
            "--profile must be at least 0 steps. "
            f"Received: profile={arguments.profile}"
        )
    try:
        return arguments, type(recipe)(
            **{name: getattr(arguments, name) for name in names}
        )
    except ValueError as error:
        parser.error(str(error))


def _type_and_choices(item):
    if typing.get_origin(item.type) is typing.Literal:
        choices = typing.get_args(item.type)
        return {"choices": choices, "type": type(choices[0])}
    if item.type is bool:  # bool("false") is true
        # `--flip false`; `--cache_features` alone is true.
        return {
            "choices": (True, False),
            "type": _boolean,
            "nargs": "?",
            "const": True,
        }
    return {"type": item.type}


def _boolean(text):
    return {"true": True, "false": False}.get(text.lower(), text)


@contextlib.contextmanager
def clear_errors(kinds=(OSError, ValueError, ImportError)):
    """Ends the program with one line where the user's input is at fault.

    Args:
        kinds: tuple of exception types whose message says what to change.
    """
    try:
        yield
    except kinds as error:
        sys.exit(f"error: {error}")
