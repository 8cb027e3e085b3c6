r"""Trains CSRA: class-specific residual attention (Zhu and Wu, ICCV 2021).

Run:    python recipes/train_csra.py            # built-in scenes, on a CPU
        python recipes/train_csra.py --dataset voc2007 --data_dir VOCdevkit \
            --backbone resnet101
Paper:  VOC 2007 94.7 mAP, VOC 2012 94.1 (ResNet-101, 448 pixels).
Ours:   scenes 86.3 mAP (continuous), mean of seeds 0, 1, 2; VOC not measured.
Cost:   3.4 minutes on two CPU cores (scenes); VOC not measured.
"""

import dataclasses
import typing

from recipes import cli, steps
from zoo.models import csra


@dataclasses.dataclass(frozen=True)
class Recipe(cli.Recipe):
    """Every number that changes the result, and nothing else."""

    num_heads: int = cli.field(1, "attention heads: 1, 2, 4, 6 or 8 (Table 7)")
    residual_weight: float = cli.field(
        0.1, "share of the attended score, the paper's lambda (Fig. 5)"
    )
    pooling: typing.Literal["residual", "average", "spatial"] = cli.field(
        "residual", "both terms, or one alone (Table 6)"
    )
    normalize: bool = cli.field(
        True, "whether classifiers have unit norm (Table 8)"
    )


PAPER = Recipe(normalization="unit")  # section 4.1
TINY_ON_PHOTOS = Recipe(**cli.TINY_ON_PHOTOS, residual_weight=0.5)
RECIPES = {
    "scenes": PAPER,
    "scenes/tiny": Recipe(**cli.TINY, residual_weight=0.5),
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
    return csra(
        backbone,
        num_classes,
        num_heads=recipe.num_heads,
        residual_weight=recipe.residual_weight,
        pooling=recipe.pooling,
        normalize=recipe.normalize,
    )


def main(argv=None):
    """Trains, measures, explains and exports."""
    arguments, recipe = cli.parse(__doc__, RECIPES, argv)
    steps.train("csra", recipe, arguments, build)


if __name__ == "__main__":
    main()
