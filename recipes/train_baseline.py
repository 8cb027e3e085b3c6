r"""Trains the twins that every method is compared with: GAP and GMP.

Run:    python recipes/train_baseline.py                  # average pooling
        python recipes/train_baseline.py --pooling max
        python recipes/train_baseline.py --dataset voc2007 \
            --data_dir VOCdevkit --backbone resnet101
Paper:  VOC 2007 92.9 mAP (ResNet-101, 448 pixels, in Zhu and Wu, ICCV 2021).
Ours:   see the README; VOC with ResNet-101 is not measured yet.
"""

import dataclasses
import typing

from recipes import cli
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
TINY = Recipe(
    pretrained="stamps",
    image_size=128,
    batch_size=32,
    epochs=12,
    optimizer="adamw",
    backbone_learning_rate=3e-3,
    head_learning_rate=3e-3,
    schedule="cosine",
    warmup_epochs=1.2,
)
RECIPES = {
    "scenes": TINY,
    "voc2007": PAPER,
    "voc2012": PAPER,
    "voc2007/tiny": dataclasses.replace(TINY, image_size=224),
    "voc2012/tiny": dataclasses.replace(
        TINY, image_size=224, batch_size=16, epochs=60, validation_fraction=0.0
    ),
}


def build(recipe, backbone, num_classes):
    """Builds the model that the recipe describes."""
    return baseline(backbone, num_classes, recipe.pooling)


def main(argv=None):
    """Trains, measures, explains and exports."""
    arguments, recipe = cli.parse(__doc__, RECIPES, argv)
    method = {"avg": "gap", "max": "gmp"}[recipe.pooling]
    cli.train(method, recipe, arguments, build)


if __name__ == "__main__":
    main()
