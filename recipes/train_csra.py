r"""Trains CSRA: class-specific residual attention (Zhu and Wu, ICCV 2021).

Run:    python recipes/train_csra.py            # built-in scenes, on a CPU
        python recipes/train_csra.py --dataset voc2007 --data_dir VOCdevkit \
            --backbone resnet101
        python recipes/train_csra.py --dataset manifest --data_dir photos.csv
        python recipes/train_csra.py --dataset coco2014 --data_dir coco \
            --backbone vit_l16 --rand_augment 2
        python recipes/train_csra.py --dataset coco2014 --data_dir coco \
            --backbone resnet101 --pretrained CUTMIX --residual_weight 0.4
Paper:  ResNet-101, 448 pixels: VOC 2007 94.7 mAP, VOC 2012 94.1, COCO 2014
        83.5; pretrained with CutMix 95.2, 94.6, 85.6. ViT-L16: COCO 2014 86.5,
        with RandAugment 86.9 (448); WIDER 90.1, ViT-B16 89.0 (224).
Ours:   scenes 86.6 mAP (continuous), mean of seeds 0, 1, 2; others not
        measured.
Cost:   3.4 to 4.1 minutes on two CPU cores (scenes); others not measured.
"""

import dataclasses
import typing

from recipes import cli, steps
from zoo.models import csra
from zoo.models.csra import TEMPERATURES


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

    def __post_init__(self):
        """Refuses numbers that no training could use."""
        super().__post_init__()
        if self.num_heads not in TEMPERATURES:
            raise ValueError(
                f"`num_heads` must be one of {sorted(TEMPERATURES)}. "
                f"Received: num_heads={self.num_heads}"
            )


VOC = Recipe()  # section 4.1
COCO = dataclasses.replace(  # section 4.2
    VOC,
    num_heads=6,
    residual_weight=0.5,
    decay_epochs=5.0,
    validation_fraction=0.05,
)
WIDER = dataclasses.replace(  # section 4.3
    VOC,
    image_size=224,
    batch_size=64,
    residual_weight=0.3,
    decay_epochs=5.0,
    normalization="symmetric",
)
RECIPES = {
    # Of `tiny`: settled on scenes, see the word on it in the README.
    **cli.by_name(
        VOC,
        COCO,
        WIDER,
        cli.CSRA_NORMALIZATIONS,
        num_heads=1,
        residual_weight=0.5,
    ),
    "coco2014/vit_l16": dataclasses.replace(
        COCO, num_heads=8, residual_weight=1.0, normalization="symmetric"
    ),
}


def build(recipe, backbone, data):
    """Builds the model that the recipe describes."""
    return csra(
        backbone,
        len(data.classes),
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
