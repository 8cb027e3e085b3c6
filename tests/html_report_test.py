import base64
import html.parser
import io

import numpy as np
import tensorflow as tf
from PIL import Image

from zoo import html_report, pictures, reports

CLASSES = ("ant", "<b>bee</b>", 'cat & "co"', "dog")
# Four labels of the first image are above one half: "top 3" differs.
PROBABILITIES = [[0.9, 0.6, 0.8, 0.7], [0.2, 0.7, 0, 0]]


class Reader(html.parser.HTMLParser):
    """Lists the tags, the text of each, and checks that all are closed."""

    VOID = ("meta", "img", "!doctype")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append((self.open[-1], data))

    def attributes(self, tag):
        return [found for name, found in self.tags if name == tag]


def write(targets=((1, 0, 0, 1), (1, 1, 0, 0)), title="csra on <scenes>"):
    report = reports.measure(targets, PROBABILITIES, CLASSES)
    chart = pictures.ap_bars(
        np.array(list(report["AP"].values()), "float64"), CLASSES, "continuous"
    )
    images = np.full((1, 8, 8, 3), 200.0)
    photos = pictures.worst_errors(
        images, np.array([[1]]), np.array([[0.1]]), ["ant"]
    )
    sections = {
        "Bars & lines": ("A <note>.", [(chart, "the bars"), (chart, "again")]),
        "Photos": ("", [(photos, 'of "ants"')]),
    }
    facts = {"Method": "csra", "Command": "train --name '<x>'"}
    return report, html_report.page(title, facts, report, sections)


class HTMLReportTest(tf.test.TestCase):
    def test_every_tag_is_closed_and_every_name_escaped(self):
        _, page = write()
        reader = Reader(page)
        self.assertEmpty(reader.open)
        self.assertEqual(
            {tag for tag, _ in reader.tags} & {"b", "scenes", "x", "note"},
            set(),
        )
        for tag, text in (
            ("title", "csra on <scenes>"),
            ("h1", "csra on <scenes>"),
            ("h2", "Bars & lines"),
            ("p", "A <note>."),
            ("dd", "train --name '<x>'"),
            *(("th", name) for name in CLASSES),
        ):
            self.assertIn((tag, text), reader.texts)

    def test_needs_no_network(self):
        _, page = write()
        reader = Reader(page)
        for _, attributes in reader.tags:
            self.assertNotIn("href", attributes)
            source = attributes.get("src", "data:")
            self.assertStartsWith(source, "data:")
        self.assertNotIn("url(", html_report.STYLE)
        self.assertNotIn("@import", html_report.STYLE)
        self.assertEqual(reader.attributes("link"), [])
        # And if something were there, the browser would not load it.
        policy = reader.attributes("meta")[1]["content"]
        self.assertStartsWith(policy, "default-src 'none'; img-src data:")

    def test_shows_every_number(self):
        report, page = write()
        texts = [text for _, text in Reader(page).texts]
        self.assertNotEqual(report["all"], report["top3"])
        for row, protocol in (("all", "all"), ("top 3", "top3")):
            start = texts.index(row) + 1
            self.assertEqual(
                texts[start : start + 6],
                [f"{100 * value:.2f}" for value in report[protocol].values()],
            )
        self.assertIn("mAP (continuous)", texts)
        self.assertIn(f"{100 * report['mAP']:.2f}", texts)

    def test_rows_of_classes(self):
        report, page = write()
        cells = [
            text for tag, text in Reader(page).texts if tag in ("td", "th")
        ]
        start = cells.index("ant")
        ant, bee, _, dog = (
            "none" if ap is None else f"{100 * ap:.2f}"
            for ap in report["AP"].values()
        )
        self.assertEqual(
            [text for text in cells[start:] if text.strip()],
            [
                *("ant", "2", ant, CLASSES[1], "1", bee),
                *(CLASSES[2], "0", "none", "dog", "1", dog),
            ],
        )

    def test_the_tail_and_the_small(self):
        report, page = write()
        self.assertNotIn("The rarest", page)
        ant = 100 * report["AP"]["ant"]
        group = {"AP": {"ant": report["AP"]["ant"]}, "mAP": 0.125}
        report["rarest"] = {**group, "num_positives": {"ant": 2}}
        report["smallest"] = {**group, "mean_area": {"ant": 0.01234}}
        reader = Reader(html_report.page("fan", {}, report, {}))
        texts = [text for _, text in reader.texts if text.strip()]
        for word, amount in (
            ("rarest", "2"),
            ("smallest", "1.23% of the image"),
        ):
            start = texts.index(f"The {word} classes")
            self.assertEqual(
                texts[start + 3 : start + 9],
                [
                    *("AP (continuous), %", "ant", amount, f"{ant:.2f}"),
                    *("mean", "12.50"),
                ],
            )

    def test_charts_and_photos(self):
        _, page = write()
        images = Reader(page).attributes("img")
        self.assertEqual(
            [(image["class"], image["alt"]) for image in images],
            [
                ("chart", "the bars"),
                ("chart", "again"),
                ("photos", 'of "ants"'),
            ],
        )
        modes = []
        for image in images:
            kind, content = image["src"].split(",")
            self.assertEqual(kind, "data:image/webp;base64")
            picture = Image.open(io.BytesIO(base64.b64decode(content)))
            self.assertEqual(picture.width, 2 * int(image["width"]))
            modes.append(picture.mode)
        self.assertEqual(modes, ["RGBA", "RGBA", "RGB"])

    def test_what_was_not_measured_is_none(self):
        _, page = write(targets=np.zeros((2, 4)))
        self.assertIn(("dd", "none"), Reader(page).texts)
