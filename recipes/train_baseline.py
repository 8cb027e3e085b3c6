r"""Trains the twins that every method is compared with: GAP and GMP.

Run:    python recipes/train_baseline.py                  # average pooling
        python recipes/train_baseline.py --pooling max
        python recipes/train_baseline.py --dataset voc2007 \
            --data_dir VOCdevkit --backbone resnet101
Paper:  VOC 2007 92.9 mAP, COCO 2014 79.4 (ResNet-101, 448 pixels, in Zhu and
        Wu, ICCV 2021), WIDER 87.7 (ViT-L16, 224).
Ours:   scenes 79.8 (GAP) and 83.3 (GMP) mAP (continuous), mean of seeds 0, 1,
        2; others not measured.
Cost:   not timed alone; train_csra.py, its twin, takes 3.4 to 4.1 minutes on
        two CPU cores (scenes).
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


VOC = Recipe()
COCO = dataclasses.replace(VOC, decay_epochs=5.0, validation_fraction=0.05)
WIDER = dataclasses.replace(
    VOC,
    image_size=224,
    batch_size=64,
    decay_epochs=5.0,
    normalization="symmetric",
)
RECIPES = cli.by_name(VOC, COCO, WIDER, cli.CSRA_NORMALIZATIONS)


def build(recipe, backbone, data):
    """Builds the model that the recipe describes."""
    return baseline(backbone, len(data.classes), recipe.pooling)


def main(argv=None):
    """Trains, measures, explains and exports."""
    arguments, recipe = cli.parse(__doc__, RECIPES, argv)
    method = {"avg": "gap", "max": "gmp"}[recipe.pooling]
    steps.train(method, recipe, arguments, build)


if __name__ == "__main__":
    main()
