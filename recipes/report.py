"""The HTML page of an evaluation: its facts, numbers and pictures."""

import numpy as np

from recipes import cli, evidence
from zoo import html_report, pictures, reports, runs
from zoo.data import pipeline

REPORT = "report.html"
NUM_PICTURES = 8  # of either kind
# What of a card is no number of the recipe, or stands elsewhere on the page.
NOT_OF_THE_RECIPE = (
    *("method", "dataset", "data_dir", "classes", "metrics"),
    *("data_sha256", "test_sha256"),
    *("num_training_images", "num_validation_images", "preprocessing"),
    *("devices", "workers", "replicas", "versions", "commit", "command"),
    "earlier_starts",
)


def write(path, title, card, report, model, data, answers):
    """Writes the page of a measured run.

    Args:
        path: `pathlib.Path` of the page.
        title: str.
        card: dict, the run's card.
        report: dict, what `zoo.reports.measure` gave, with `images` and
            `protocol`, a dict of what the measuring did beside the usual.
        model: `keras.Model` that was measured.
        data: `zoo.data.example.Dataset` that it was measured on.
        answers: `recipes.answers.Answers`.
    """
    page = html_report.page(
        title,
        _facts(card, report),
        report,
        _sections(card, model, data, answers, report),
    )
    runs.write_beside(
        path, lambda temporary: temporary.write_text(page, "utf-8")
    )


def _facts(card, report):
    """Says what the report's numbers are of, and by which protocol."""
    mode, gained = report["mAP_mode"], report.get("mAP_with_max_pooling", {})
    own_view = {"sizes": [card["image_size"]]}
    sizes = report["protocol"].get("views", own_view)["sizes"]
    return {
        "Model": f"{card['method']} on {card['backbone']}, from the weights "
        f"{card['pretrained']!r}",
        "Trained on": f"{card['dataset']}, {card['num_training_images']} "
        f"images, seed {card['seed']}"
        if card["dataset"]
        else "not here: the model was converted",
        "Recipe": _settings(
            {k: v for k, v in card.items() if k not in NOT_OF_THE_RECIPE}
        ),
        "Measured on": f"{report['images']}, {report['num_examples']} images "
        f"of {' and '.join(map(str, sizes))} pixels, {len(report['AP'])} "
        "classes",
        **{
            name.capitalize(): _settings(settings)
            for name, settings in report["protocol"].items()
        },
        "Average precision": f"{mode}; a class without "
        "positives is left out of the mean; unknown targets are left out",
        "Labels": report["labels"],
        "Top 3": f"of these, an image's {reports.TOP_K} most probable",
        **{
            f"mAP ({mode}), {name.replace('_', ' ')}": reports.per_cent(value)
            for name, value in report["other_mAP"].items()
        },
        **{
            f"mAP ({mode}) with {weight:g} of the maximum": reports.per_cent(
                value
            )
            for weight, value in gained.items()
        },
        **{
            f"Beam of width {width}": f"mAP ({mode}) "
            f"{reports.per_cent(found['mAP'])}, "
            f"CF1 {reports.per_cent(found['all']['CF1'])}, "
            f"OF1 {reports.per_cent(found['all']['OF1'])}"
            for width, found in report.get("beam_widths", {}).items()
        },
        "Commit": card["commit"] or "unknown",
        "Versions": ", ".join(f"{k} {v}" for k, v in card["versions"].items()),
        "Command": card["command"],
    }


def _settings(values):
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _sections(card, model, data, answers, report):
    """Draws the pictures of the report, see `zoo.html_report.page`."""
    targets, classes = data.targets(), data.classes
    probabilities, predicted = answers.probabilities, answers.predicted
    ap = np.array([report["AP"][name] for name in classes], "float64")

    # Some from everywhere: a data set may be sorted by its labels.
    count = min(len(targets), NUM_PICTURES)
    spread = np.linspace(0, len(targets) - 1, count).astype(int)
    explain = cli.EXPLAIN[card["method"]](model)
    inputs = inputs_of(card, data, spread)
    seen = evidence.of_batch(explain, inputs)
    looked = []
    for i, image, found in zip(
        spread, evidence.images_of(inputs), seen, strict=True
    ):
        figure = evidence.draw(
            image, found, probabilities[i], classes, targets[i]
        )
        looked.append(
            (figure, f"{data.examples[i].image_id}, where the model looked")
        )
    worst = pictures.worst_images(targets, probabilities, NUM_PICTURES)
    wrong = pictures.worst_errors(
        evidence.images_of(inputs_of(card, data, worst)),
        targets[worst],
        probabilities[worst],
        classes,
        reports.THRESHOLD,
        None if predicted is None else predicted[worst],
    )
    worst_ids = ", ".join(data.examples[i].image_id for i in worst)
    bars = pictures.ap_bars(ap, classes, report["mAP_mode"])
    curves = pictures.precision_recall(targets, probabilities, classes)
    return {
        "Average precision": (
            "The best class first.",
            [(bars, "The table of classes as bars")],
        ),
        "Precision and recall": (
            "At every threshold. The area under a curve is the class' AP "
            "(continuous); pooled, all classes share one ranking.",
            [(curves, "Curves of precision over recall")],
        ),
        "Where the model looked": (
            f"{count} images from all over the split: the true labels, then "
            "the maps of the most probable classes, or of the labels in the "
            "order found, each in its own range, with probabilities; or the "
            "regions of each step; or those of the highest and lowest gates.",
            looked,
        ),
        "Worst errors": (
            "The images of the highest mean cross-entropy. Above: true labels "
            "that were not given; below: absent ones that were; in grey the "
            "nearest to it, where there is none. "
            f"Row by row: {worst_ids}.",
            [(wrong, f"Images with missed and wrong labels: {worst_ids}")],
        ),
    }


def inputs_of(card, data, indices):
    """Loads a few images, and their regions, as the model sees them."""
    inputs, _ = pipeline.evaluation_batch(
        [data.examples[i] for i in indices], card["image_size"]
    )
    return inputs
