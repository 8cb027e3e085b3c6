r"""Measures a finished run on a data set.

Run:    python recipes/evaluate.py runs/csra-scenes-tiny-seed0
        python recipes/evaluate.py runs/gap-scenes-tiny-seed0 \
            --residual_weight 0.02 0.05 0.1 0.2
        python recipes/evaluate.py runs/csra-voc2007-resnet101-seed0 \
            --data_dir VOCdevkit --split test --output_dir results
        python recipes/evaluate.py runs/order_free_rnn-scenes-tiny-seed0 \
            --beam_width 1 3 5
        python recipes/evaluate.py runs/fan-coco2014-resnet101-seed0 \
            --rarest 6 --smallest 6
        python recipes/evaluate.py runs/rarl512 runs/rarl640 \
            --views ten --sizes 512 640
        python recipes/evaluate.py runs/rgnn-scenes-tiny-seed0 \
            --proposals sliding_windows

`--residual_weight` adds that share of each class' maximum to a trained GAP
baseline, without training (Zhu and Wu, ICCV 2021, Table 1).

`--rarest` and `--smallest` single out the classes of the fewest positives, and
those whose objects cover the least of an image (Yan et al., IEEE Access 2019,
Tables 3 and 4), both as counted in the split that is measured.

`--views ten` averages a RARL model's scores over ten views of an image and
over `--sizes`, by one run, or by one for each size (Chen et al., AAAI 2018).

`--proposals` replaces the regions that a run was trained with;
`sliding_windows` are what a server lays where it is given none.

A split without labels, as VOC 2012 test, is predicted and not measured.
"""

import argparse
import dataclasses
import pathlib
import shlex

import recipes  # noqa: F401, sets what TensorFlow reads at its import

# isort: split
import keras
import numpy as np

from recipes import cli
from recipes import report as html
from recipes.answers import answers_of
from recipes.data import (
    DATASETS,
    name_of,
    read_test,
    served_regions,
    with_regions,
)
from zoo import reports, runs, training
from zoo.data import memory, pipeline, proposals, voc
from zoo.data.sources import find
from zoo.models import add_max_pooling
from zoo.models.order_free_rnn import with_beam_width
from zoo.models.rarl_views import ten_views

MARGIN = 64  # pixels: Chen et al. (2018), implementation details


def main(argv=None):
    """Prints the table of one split, and writes what was found."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    _check(parser, arguments)
    memory.keep()
    with cli.clear_errors():
        card = _card(arguments.runs, arguments.sizes)
        if arguments.output_dir and arguments.output_dir.exists():
            raise FileExistsError(
                "Results are never overwritten, and this folder exists. "
                f"Received: output_dir={str(arguments.output_dir)!r}"
            )
        dataset = arguments.dataset or card["dataset"]
        if dataset is None:
            parser.error(
                f"{arguments.runs[0]} was converted, not trained here, so it "
                "needs --dataset"
            )
        data_dir = arguments.data_dir or (
            card["data_dir"] if dataset == card["dataset"] else None
        )
        if DATASETS[dataset].needs_data_dir and data_dir is None:
            parser.error(f"--dataset {dataset} needs --data_dir")
        source = find(dataset, data_dir)
        split = (
            arguments.split
            or source.test_split
            or source.validation_split
            or source.train_split
        )
        data = read_test(source, data_dir, split, card["classes"])
        if list(data.classes) != card["classes"]:
            raise ValueError(
                f"The run knows the classes {card['classes']}. "
                f"Received: --dataset {dataset} with {list(data.classes)}"
            )
        targets = data.targets()
        images = name_of(dataset, split, data)
        labelled = (targets != -1).any()
        unmeasurable = [
            f"--{name}"
            for name in ("residual_weight", "rarest", "smallest", "beam_width")
            if getattr(arguments, name)
        ]
        if not labelled and (unmeasurable or not arguments.output_dir):
            raise ValueError(
                f"{images} has no labels to measure with. Give --output_dir "
                "alone to predict them. Received: "
                f"{' '.join(unmeasurable) or 'no --output_dir'}"
            )
        groups = _groups(arguments, data, images)
        models = [
            keras.saving.load_model(run / runs.MODEL) for run in arguments.runs
        ]
        model = models[0]
        if arguments.views:
            # One model has all sizes, or each has its own.
            margin = arguments.margin or MARGIN
            views = {
                size: ten_views(looking, size, margin)
                for looking, size in zip(
                    models * len(arguments.sizes), arguments.sizes, strict=False
                )
            }
        if arguments.residual_weight:
            with_maximum = add_max_pooling(model, residual_weight=1.0)
        if arguments.beam_width:
            widths = keras.Model(  # one pass through the backbone for all
                model.input,
                {
                    str(width): with_beam_width(model, width).output
                    for width in arguments.beam_width
                },
            )
        regions = _regions(arguments, card, model)
        examples = with_regions(data.examples, regions)
        data = dataclasses.replace(data, examples=examples)

    # A converted run has no training to go by.
    batch_size = card.get("batch_size", 16)
    if arguments.views:
        batch_size = max(batch_size // 2, 1)
    batch_size = arguments.batch_size or batch_size

    def predict(model, image_size=card["image_size"]):
        batches = pipeline.evaluation_batches(
            data.examples, image_size, batch_size
        )
        with cli.clear_errors(), pipeline.named_if_unreadable(data.examples):
            return training.predict(model, batches, len(targets))

    if arguments.views:
        outputs = np.mean(
            [predict(view, size) for size, view in views.items()], axis=0
        )
    else:
        outputs = predict(model)
    answers = answers_of(card, outputs)
    if arguments.output_dir:
        runs.save_predictions(
            arguments.output_dir / runs.PREDICTIONS,
            data.examples,
            targets,
            outputs,
            **vars(answers),
        )
    if not labelled:
        print(f"{images} has no labels: predicted, not measured.")
        if dataset == "voc2012":
            _write_voc_results(
                arguments.output_dir, split, data, answers.probabilities
            )
        return
    images += _note(card, dataset, source, split, data_dir)
    title = f"{card['method']} on {images}"
    protocol = {}
    if arguments.views:
        title += f", ten views at {_listed(arguments.sizes)}"
        protocol["views"] = {
            "sizes": arguments.sizes,
            "margin": margin,
            "runs": list(map(str, arguments.runs)),
        }
    if regions:
        title += f", regions by {regions['method']}"
        protocol["regions"] = regions
    report = {
        "images": images,
        "num_missing": data.num_missing,
        "protocol": protocol,
        **reports.measure(targets, classes=data.classes, **vars(answers)),
    }
    for name, (amount, by_class) in groups.items():
        report[name] = {**reports.group(report, by_class), amount: by_class}
    print(reports.table(report, title))
    if arguments.residual_weight:
        # Logits are linear in lambda: two passes give every row.
        maximum = predict(with_maximum) - outputs
        report["mAP_with_max_pooling"] = {
            weight: reports.measure(
                targets,
                training.sigmoid(outputs + weight * maximum),
                data.classes,
            )["mAP"]
            for weight in arguments.residual_weight
        }
        print(_gains(report["mAP"], report["mAP_with_max_pooling"]))
    if arguments.beam_width:
        report["beam_widths"] = {
            width: reports.measure(
                targets,
                classes=data.classes,
                **vars(answers_of(card, found)),
            )
            for width, found in predict(widths).items()
        }
        print(_widths(report["beam_widths"]))
    if arguments.output_dir:
        runs.write_json(arguments.output_dir / runs.METRICS, report)
        path = arguments.output_dir / html.REPORT
        print(f"Drawing {path}, which opens in a browser")
        html.write(path, title, card, report, model, data, answers)


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "runs",
        type=pathlib.Path,
        nargs="+",
        metavar="RUN",
        help="a finished run; with --views, one for each of --sizes, too",
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, help="(default: the run's)"
    )
    parser.add_argument(
        "--data_dir", type=pathlib.Path, help="(default: the run's)"
    )
    parser.add_argument(
        "--split", help="(default: the data set's test split, if it has one)"
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        help="images at a time (default: as in the run's training; with "
        "--views half of it, since each has a mirror image)",
    )
    parser.add_argument(
        "--residual_weight",
        type=float,
        nargs="+",
        metavar="LAMBDA",
        help="shares of the maximum to add to a GAP baseline",
    )
    parser.add_argument(
        "--beam_width",
        type=int,
        nargs="+",
        metavar="WIDTH",
        help="other numbers of paths in the search of an Order-Free RNN",
    )
    parser.add_argument(
        "--views",
        choices=("ten",),
        help="views of an image to average the scores of a RARL over: the "
        "corners and the centre, of it and of its mirror image "
        "(default: the image)",
    )
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        metavar="N",
        help="with --views: heights and widths of the images in pixels, over "
        "which the scores are averaged, too",
    )
    parser.add_argument(
        "--margin",
        type=int,
        help="with --views: how much smaller a view is, in pixels "
        f"(default: {MARGIN})",
    )
    parser.add_argument(
        "--proposals",
        choices=proposals.METHODS,
        help="another way to find the regions that an RGNN looks at, or a "
        "RARL with given ones (default: the run's)",
    )
    parser.add_argument(
        "--rarest",
        type=int,
        metavar="K",
        help="AP of the K classes of the fewest positives, and its mean",
    )
    parser.add_argument(
        "--smallest",
        type=int,
        metavar="K",
        help="AP of the K classes of the smallest boxes, by their mean area, "
        "and its mean",
    )
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        help=f"new folder for {html.REPORT}, {runs.METRICS} and "
        f"{runs.PREDICTIONS} (default: print only)",
    )
    return parser


def _check(parser, arguments):
    """Refuses flags that do not fit, before anything is read."""
    if arguments.batch_size is not None and arguments.batch_size < 1:
        parser.error(
            f"--batch_size must be at least 1. Received: {arguments.batch_size}"
        )
    if any(width < 1 for width in arguments.beam_width or ()):
        parser.error(
            "--beam_width must be at least 1. "
            f"Received: {' '.join(map(str, arguments.beam_width))}"
        )
    if arguments.margin is not None and not arguments.views:
        parser.error(
            "--margin is that of --views ten. "
            f"Received: --margin {arguments.margin}"
        )
    sizes = arguments.sizes or ()
    if bool(arguments.views) != bool(sizes) or len(set(sizes)) < len(sizes):
        parser.error(
            "--views ten needs --sizes, each once, and --sizes need it. "
            f"Received: --views {arguments.views}, --sizes {arguments.sizes}"
        )
    if len(arguments.runs) not in (1, len(sizes)):
        parser.error(
            "Expected one run, or with --views one for each of --sizes. "
            f"Received: {len(arguments.runs)} runs, {len(sizes)} sizes"
        )


def _card(directories, sizes):
    """Reads the first run's card; the others must be like it, of their size."""
    cards = list(map(runs.finished, directories))
    if len(cards) > 1:
        for directory, each, size in zip(
            directories, cards, sizes, strict=True
        ):
            if each.get("resize") not in (None, 0, size):
                raise ValueError(
                    "A run and its size stand at the same place of their "
                    f"lists. Received: {size} for {directory}, which was "
                    f"trained with --resize {each['resize']}"
                )
    card, *others = cards
    for directory, other in zip(directories[1:], others, strict=True):
        for name in ("method", "dataset", "classes"):
            if other[name] != card[name]:
                raise ValueError(
                    f"Runs that are averaged must have the same {name}. "
                    f"Received: {card[name]!r} in {directories[0]}, "
                    f"{other[name]!r} in {directory}"
                )
    return card


def _note(card, dataset, source, split, data_dir):
    """Says what the training has seen of the images that are measured."""
    trained_on = DATASETS.get(card["dataset"])
    # Own data of another folder is other data.
    if dataset == card["dataset"] and not (
        source.own and str(pathlib.Path(data_dir).resolve()) != card["data_dir"]
    ):
        if split in (source.train_split, *source.overlapping):
            return ", TRAINING images"
        elif split == source.validation_split:
            return ", VALIDATION images, which chose the epoch"
    elif trained_on and source.images and source.images == trained_on.images:
        return ", may hold TRAINING images"
    return ""


def _regions(arguments, card, model):
    """Gives the arguments of `proposals.propose`; `None` for no regions."""
    regions, method = card.get("regions"), arguments.proposals
    if not method:
        return regions
    if not regions:
        raise ValueError(
            "--proposals is for runs whose model looks at given regions. "
            f"Received: {arguments.runs[0]}, made by {card['method']}"
        )
    if method == "sliding_windows":
        return served_regions(regions, model)
    return {**regions, "method": method}


def _groups(arguments, data, images):
    """Finds the classes to single out, by what is lowest of them."""
    groups = {}
    if arguments.rarest is not None:
        groups["rarest"] = (
            "num_positives",
            reports.rarest(data.targets(), data.classes, arguments.rarest),
        )
    if arguments.smallest is not None:
        boxes, box_classes = (
            np.concatenate(
                [getattr(e, name)[~e.box_difficult] for e in data.examples]
            )
            for name in ("boxes", "box_classes")
        )
        if not boxes.size:
            raise ValueError(
                f"{images} has no boxes, which tell the size of a class. "
                f"Received: --smallest {arguments.smallest}"
            )
        groups["smallest"] = (
            "mean_area",
            reports.smallest(
                boxes, box_classes, data.classes, arguments.smallest
            ),
        )
    return groups


def _listed(numbers):
    return " and ".join(map(str, numbers))


def _gains(before, gained):
    """Formats the rows of the paper's Table 1."""
    rows = []
    for weight, after in gained.items():
        # Both are `None` where nothing is positive.
        gain = "" if after is None else f"{100 * (after - before):+6.2f}"
        row = f"  {weight:<6g} {reports.per_cent(after):>6} {gain}"
        rows.append(row.rstrip())
    title = (
        f"mAP ({reports.MODE}) with lambda of the maximum added, no training"
    )
    return "\n".join(["", title, *rows])


def _widths(measured):
    """Formats a row for each width of the beam."""
    lines = [
        "",
        f"Width of the beam, at the run's threshold: mAP ({reports.MODE}), "
        "CF1, OF1",
    ]
    for width, report in measured.items():
        numbers = report["mAP"], report["all"]["CF1"], report["all"]["OF1"]
        cells = "".join(f"{reports.per_cent(n):>7}" for n in numbers)
        lines.append(f"  {width:6}{cells}")
    return "\n".join(lines)


def _write_voc_results(directory, split, data, probabilities):
    """Writes what the VOC 2012 evaluation server takes; says how to send it."""
    image_ids = [example.image_id for example in data.examples]
    voc.write_results(directory, split, image_ids, probabilities)
    folder, archive = map(shlex.quote, (f"{directory}", f"{directory}.tgz"))
    print(
        f"""Pack and upload them to http://host.robots.ox.ac.uk:8080, as comp2:
  tar -czf {archive} -C {folder} results"""
    )


if __name__ == "__main__":
    main()
