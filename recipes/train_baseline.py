r"""Trains the twins that every method is compared with: GAP and GMP.

Run:    python recipes/train_baseline.py                  # average pooling
        python recipes/train_baseline.py --pooling max
        python recipes/train_baseline.py --dataset voc2007 \
            --data_dir VOCdevkit --backbone resnet101
Paper:  VOC 2007 92.9 mAP (ResNet-101, 448 pixels, in Zhu and Wu, ICCV 2021).
Ours:   scenes 79.8 (GAP) and 83.3 (GMP) mAP (continuous), mean of seeds 0, 1,
        2; VOC not measured.
Cost:   not timed alone; train_csra.py, its twin, takes 3.4 minutes on two CPU
        cores (scenes).
"""

import dataclasses
import typing

from recipes import cli, steps
from zoo.models import baseline


@dataclasses.dataclass(frozen=True)
class Recipe(cli.Recipe):
    """Every number that changes the result, and nothing else."""

    # Section 4.1: "initial learning rate of 0.01 for both" in the baselines.
    head_learning_rate: float = cli.field(0.01, "highest, of all the rest")
    pooling: typing.Literal["avg", "max"] = cli.field(
        "avg", "of the scores over positions"
    )


PAPER = Recipe(normalization="unit")
TINY_ON_PHOTOS = Recipe(**cli.TINY_ON_PHOTOS)
RECIPES = {
    "scenes": PAPER,
    "scenes/tiny": Recipe(**cli.TINY),
    "voc2007": PAPER,
    # Its test labels are not public: all of trainval is for training.
    "voc2012": dataclasses.replace(PAPER, validation_fraction=0.0),
    "voc2007/tiny": TINY_ON_PHOTOS,
    "voc2012/tiny": dataclasses.replace(
        TINY_ON_PHOTOS, validation_fraction=0.0
    ),
}


def build(recipe, backbone, num_classes):
    """Builds the model that the recipe describes."""
    return baseline(backbone, num_classes, recipe.pooling)


def main(argv=None):
    """Trains, measures, explains and exports."""
    arguments, recipe = cli.parse(__doc__, RECIPES, argv)
    method = {"avg": "gap", "max": "gmp"}[recipe.pooling]
    steps.train(method, recipe, arguments, build)


if __name__ == "__main__":
    main()
