r"""Measures a finished run on a data set.

Run:    python recipes/evaluate.py runs/csra-scenes-tiny-seed0
        python recipes/evaluate.py runs/gap-scenes-tiny-seed0 \
            --residual_weight 0.02 0.05 0.1 0.2
        python recipes/evaluate.py runs/csra-voc2007-resnet101-seed0 \
            --data_dir VOCdevkit --split test --output_dir results

`--residual_weight` adds that share of each class' maximum to a trained GAP
baseline, without training (Zhu and Wu, ICCV 2021, Table 1).
"""

import argparse
import pathlib

import keras

from recipes import cli, steps
from zoo import reports, runs
from zoo.models import add_max_pooling


def main(argv=None):
    """Prints the table of one split, or a row for each residual weight."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("run", type=pathlib.Path, help="a finished run")
    parser.add_argument(
        "--dataset", choices=cli.DATASETS, help="(default: the run's)"
    )
    parser.add_argument(
        "--data_dir", type=pathlib.Path, help="(default: the run's)"
    )
    parser.add_argument("--split", help="(default: the data set's test split)")
    parser.add_argument(
        "--batch_size", type=int, default=32, help="(default: 32)"
    )
    parser.add_argument(
        "--residual_weight",
        type=float,
        nargs="+",
        metavar="LAMBDA",
        help="shares of the maximum to add to a GAP baseline",
    )
    parser.add_argument(
        "--output_dir",
        type=pathlib.Path,
        help=f"new folder for {runs.METRICS} and {runs.PREDICTIONS} "
        "(default: print only)",
    )
    arguments = parser.parse_args(argv)
    with cli.clear_errors():
        card = runs.finished(arguments.run)
        if arguments.output_dir and arguments.output_dir.exists():
            raise FileExistsError(
                "Results are never overwritten, and this folder exists. "
                f"Received: output_dir={str(arguments.output_dir)!r}"
            )
        dataset = arguments.dataset or card["dataset"]
        source = cli.DATASETS[dataset]
        data_dir = arguments.data_dir or (
            card["data_dir"] if dataset == card["dataset"] else None
        )
        if source.needs_data_dir and data_dir is None:
            parser.error(f"--dataset {dataset} needs --data_dir")
        split = arguments.split or source.test_split or source.train_split
        data = steps.read_test(dataset, data_dir, split)
        if list(data.classes) != card["classes"]:
            raise ValueError(
                f"The run knows the classes {card['classes']}. "
                f"Received: --dataset {dataset} with {list(data.classes)}"
            )
        model = keras.saving.load_model(arguments.run / runs.MODEL)
        summed = {
            weight: add_max_pooling(model, weight)
            for weight in arguments.residual_weight or []
        }

    def measure(model):
        return steps.evaluate(
            model,
            data.examples,
            data.classes,
            card["image_size"],
            arguments.batch_size,
        )

    probabilities, report = measure(model)
    images = f"{dataset} {split}"
    if dataset == card["dataset"] and split == source.train_split:
        images += ", TRAINING images"
    report = {"images": images, **report}
    print(reports.table(report, f"{card['method']} on {images}"))
    if summed:
        gained = {weight: measure(m)[1]["mAP"] for weight, m in summed.items()}
        report["mAP_with_max_pooling"] = gained
        print(_gains(report["mAP"], gained))
    if arguments.output_dir:
        runs.save_predictions(
            arguments.output_dir / runs.PREDICTIONS,
            data.examples,
            data.targets(),
            probabilities,
        )
        runs.write_json(arguments.output_dir / runs.METRICS, report)


def _gains(before, gained):
    """Formats the rows of the paper's Table 1."""
    rows = [
        f"  {weight:<6g} {100 * after:6.2f} {100 * (after - before):+6.2f}"
        for weight, after in gained.items()
    ]
    title = (
        f"mAP ({reports.MODE}) with lambda of the maximum added, no training"
    )
    return "\n".join(["", title, *rows])


if __name__ == "__main__":
    main()
