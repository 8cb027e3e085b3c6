r"""Trains RGNN: regional gating neural network (Zhao et al., BMVC 2016).

Run:    pip install -e '.[proposals]'           # OpenCV, for its edge boxes
        python recipes/train_rgnn.py            # built-in scenes, on a CPU
        python recipes/train_rgnn.py --dataset voc2007 --data_dir VOCdevkit \
            --backbone vgg16
        python recipes/train_rgnn.py --gate feature
        python recipes/train_rgnn.py --gate open --multi_scale false  # Table 1
Paper:  VGG-16, region / feature gate: VOC 2007 93.7 / 93.7 mAP, VOC 2012 93.4 /
        93.3, COCO 2014 72.9 / 73.0.
Ours:   scenes 75.8 mAP (continuous), mean of seeds 0, 1, 2; floor 73; others
        not measured.
Cost:   7.9 minutes on two CPU cores (scenes); others not measured.
"""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import typing

import recipes  # noqa: F401, sets what TensorFlow reads at its import

# isort: split
import keras
import numpy as np

from recipes import cli, steps
from zoo import backbones, losses
from zoo.data import pipeline, proposals
from zoo.models.rgnn import EDGES, global_model, learner, open_model, rgnn


@dataclasses.dataclass(frozen=True)
class Recipe(cli.Recipe):
    """Every number that changes the result, and nothing else."""

    epochs: int = cli.field(20, "of the fourth stage: labels and gates")
    global_epochs: int = cli.field(10, "of the first stage: whole images")
    readout_epochs: int = cli.field(
        0, "at the second stage's beginning: its two new layers alone"
    )
    open_epochs: int = cli.field(10, "of the second stage: all gates open")
    gate_epochs: int = cli.field(10, "of the third stage: gates alone")
    batch_size: int = cli.field(4, "images in a step, over all replicas")
    optimizer: typing.Literal["sgd", "adamw"] = cli.field(
        "adamw", "sgd has momentum 0.9; adamw is Adam where weight_decay is 0"
    )
    # Section 4.2 prints "10E-4".
    backbone_learning_rate: float = cli.field(1e-3, "highest, of the backbone")
    head_learning_rate: float = cli.field(1e-3, "highest, of all the rest")
    weight_decay: float = cli.field(0.0, "of all weights")
    schedule: typing.Literal["step", "cosine", "plateau", "constant"] = (
        cli.field("constant", cli.SCHEDULES)
    )
    warmup_epochs: float = cli.field(0.0, "of a linear rise, in each stage")
    crop_area: float = cli.field(1.0, cli.CROP_AREA)
    proposals: typing.Literal["edge_boxes", "sliding_windows", "own"] = (
        cli.field("edge_boxes", "regions; own: of the manifest or the shards")
    )
    edge_model: str = cli.field(
        "", "file of a structured forest, for edges better than the gradient's"
    )
    num_regions: int = cli.field(300, "most regions of an image")
    training_regions: typing.Literal["proposals", "jittered_boxes"] = cli.field(
        "proposals",
        "what it learns from; jittered_boxes: half of them lie around true "
        "boxes, in images that have some",
    )
    gate: typing.Literal["region", "feature", "open"] = cli.field(
        "region", "one of a region, one of each of its classes, or none"
    )
    multi_scale: bool = cli.field(
        True, "whether small and large regions are pooled apart (Table 1)"
    )
    level: str = cli.field("P4", "feature map to cut regions from")
    region_size: int = cli.field(7, "rows and columns that a region gets")
    dim: int = cli.field(4096, "of FC6 and FC7")
    dropout: float = cli.field(0.5, "share that these drop")
    hidden: int = cli.field(512, "of the layer before the logits")

    def __post_init__(self):
        """Refuses numbers that no training could use."""
        super().__post_init__()
        if self.loss == "paper":
            cli.refuse_label_smoothing(self)
        cli.refuse_rand_augment(self)
        cli.refuse_mixing(self, "regions are of one image")


VOC = Recipe()
COCO = dataclasses.replace(VOC, validation_fraction=0.05)
RECIPES = cli.by_name(
    VOC,
    COCO,
    level="P5",
    backbone_learning_rate=1e-3,
    head_learning_rate=1e-3,
    region_size=2,
    dim=1024,
    num_regions=50,
    global_epochs=20,
    readout_epochs=3,
    open_epochs=6,
    gate_epochs=1,
    epochs=14,
    dropout=0.2,
)


def build(recipe, backbone, data):
    """Builds the model that the recipe describes."""
    if recipe.training_regions == "jittered_boxes" and not _has_boxes(data):
        raise ValueError(
            "`training_regions` can be around true boxes only where there are "
            f"some. Received: training_regions={recipe.training_regions!r}, "
            f"{len(data.training)} training images without boxes"
        )
    model = rgnn(
        backbone,
        len(data.classes),
        gate=recipe.gate,
        level=recipe.level,
        size=recipe.region_size,
        dim=recipe.dim,
        dropout=recipe.dropout,
        hidden=recipe.hidden,
        edges=EDGES if recipe.multi_scale else (),
    )
    if recipe.backbone == "vgg16" and recipe.pretrained != "none":
        _take_over(model, recipe.pretrained)
    return model


def _take_over(model, pretrained):
    """Starts FC6 and FC7 from those of VGG-16's preset, where these fit."""
    found = backbones.vgg16_fully_connected(pretrained)
    ours = [model.get_layer(name) for name in ("fc6", "fc7")]
    if found and all(
        [weight.shape for weight in layer.weights]
        == [weight.shape for weight in weights]
        for layer, weights in zip(ours, found, strict=True)
    ):
        for layer, weights in zip(ours, found, strict=True):
            layer.set_weights(weights)
        print(f"FC6 and FC7 start from those of {pretrained!r}.")
    else:
        print(f"FC6 and FC7 start anew: {pretrained!r} has none that fit.")


def _has_boxes(data):
    return any(len(example.boxes) for example in data.training)


def phases(run):
    """Trains in the paper's four stages, each from the best of the last."""
    recipe, model = run.recipe, run.model
    has_boxes = _has_boxes(run.data)
    jittered = recipe.training_regions == "jittered_boxes"
    learnt = _half_jittered(run) if jittered else run
    gated = recipe.gate != "open"

    print("Stage 1 of 4: the labels of whole images.", flush=True)
    with run.building():
        whole = global_model(model)
    bare = _without_regions(run)
    _fit(bare, bare, "global", recipe.global_epochs, whole)

    print("Stage 2 of 4: regions, with all gates open.", flush=True)
    with run.building():
        ungated = open_model(model)
    if recipe.readout_epochs:
        # Answers at random would undo much of what the first stage has learnt.
        with _only(model, ("hidden", "logits")):
            _fit(run, learnt, "readout", recipe.readout_epochs, ungated)
    _fit(run, learnt, "open", recipe.open_epochs, ungated)

    if not (gated and has_boxes):
        why = "there are no boxes" if gated else "there are no gates"
        print(f"Stage 3 of 4 is left out: {why}.")
        print("Stage 4 of 4: all weights, by the labels alone.", flush=True)
        _fit(run, learnt, "", recipe.epochs, model)
        return
    print("Stage 3 of 4: the gates, by the boxes.", flush=True)
    with run.building():
        gates = learner(model, classification=False)
    _fit(run, learnt, "gates", recipe.gate_epochs, gates, boxes=True)

    print("Stage 4 of 4: labels and, less and less, gates.", flush=True)
    num_steps = recipe.epochs * pipeline.steps_per_epoch(
        run.data.training, recipe.batch_size
    )
    falling = keras.optimizers.schedules.PolynomialDecay(1.0, num_steps, 0.0)
    with run.building():
        both = learner(model, falling)
    _fit(run, learnt, "", recipe.epochs, both, boxes=True)


@contextlib.contextmanager
def _only(model, names):
    """Freezes all layers but those of these names."""
    before = [layer.trainable for layer in model.layers]
    for layer in model.layers:
        layer.trainable = layer.name in names
    try:
        yield
    finally:
        for layer, trainable in zip(model.layers, before, strict=True):
            layer.trainable = trainable


def _fit(run, learnt, stage, epochs, model, boxes=False):
    """Trains one stage, in its folder in the run's, on the images of `learnt`.

    The run's own are watched: no region there knows the answer.
    """
    recipe = dataclasses.replace(run.recipe, epochs=epochs)
    steps.fit(
        run,
        recipe,
        stage,
        model,
        # What learns of boxes, too, gives more than logits, or none.
        run.model if boxes else model,
        functools.partial(
            steps.image_batches, learnt, recipe, region_targets=boxes
        ),
        loss=losses.BalancedBinaryCrossentropy(unknown=recipe.unknown),
        # Gates that learn alone tell nothing by the labels.
        choose=stage != "gates",
    )


def _half_jittered(run):
    """Gives the run with true boxes, moved, in place of half of its regions.

    Not of all: gates have to learn of the background, too.
    """
    half = max(run.recipe.num_regions // 2, 1)
    examples = run.data.training
    jittered = proposals.jitter(examples, half, run.recipe.seed)
    training = [
        dataclasses.replace(
            example,
            regions=np.concatenate([moved.regions, example.regions[:half]]),
        )
        if len(example.boxes)
        else example
        for example, moved in zip(examples, jittered, strict=True)
    ]
    data = dataclasses.replace(run.data, training=training)
    return dataclasses.replace(run, data=data)


def _without_regions(run):
    """Gives the run with whole images for its model to learn from."""
    data = dataclasses.replace(
        run.data,
        **{
            part: [
                dataclasses.replace(example, regions=None)
                for example in getattr(run.data, part)
            ]
            for part in ("training", "validation")
        },
    )
    return dataclasses.replace(run, data=data)


def main(argv=None):
    """Trains, measures, explains and exports."""
    arguments, recipe = cli.parse(__doc__, RECIPES, argv)
    regions = {"method": recipe.proposals, "num_regions": recipe.num_regions}
    if recipe.edge_model:
        regions["model_file"] = str(pathlib.Path(recipe.edge_model).resolve())
    directory = steps.train(
        "rgnn", recipe, arguments, build, phases, regions=regions
    )
    # Gigabytes with VGG-16, and a run that has ended needs them no more.
    for stage in ("global", "readout", "open", "gates"):
        shutil.rmtree(directory / stage / "checkpoints", ignore_errors=True)


if __name__ == "__main__":
    main()
