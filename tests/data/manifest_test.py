import csv
import json
import pathlib
import re
import subprocess
import sys
import unicodedata
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image

from zoo.data import manifest, voc
from zoo.data.manifest import __main__ as command_line
from zoo.data.manifest import reading

MINI = pathlib.Path(__file__).parents[3] / "shared/data/voc_mini/VOCdevkit"
NO_LABEL = (
    "No image of the split {!r} has a label, so that there is nothing to "
    "measure. Where the labels are not known, list them elsewhere and use "
    "recipes/predict.py."
)


def boxes_of(example, classes):
    """Gives (class, box, difficult) of each box."""
    return [
        (classes[k], box.round(3).tolist(), bool(difficult))
        for k, box, difficult in zip(
            example.box_classes,
            example.boxes.astype(float),
            example.box_difficult,
            strict=True,
        )
    ]


class ManifestTestCase(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        # Without the parameters, which may be no name of a file.
        name = self.id().partition(" ")[0]
        self.root = pathlib.Path(self.get_temp_dir(), name)
        self.root.mkdir()

    def write(self, text, name="photos.csv", encoding="utf-8"):
        path = self.root / name
        path.write_bytes(text.encode(encoding))
        return path

    def write_image(self, name, grey=0, side=8):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (side, side), grey).save(path)

    def refused(self, text, name="photos.csv", encoding="utf-8"):
        """Gives the message with which a manifest is refused."""
        path = self.write(text, name, encoding)
        with self.assertRaises(ValueError) as caught:
            manifest.read(path, "train")
        return str(caught.exception)


class ReadTest(ManifestTestCase):
    def test_csv(self):
        path = self.write(
            "\ufeffimage, labels ,unknown,boxes,_note\r\n"
            'a/1.jpg," dog | cat|dog","hat, red",'
            '"cat xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9|'
            'hat, red ymax=1 ymin=0 xmax=1 xmin=0","two\r\nlines"\r\n'
            "\r\n"
            ",,,,\r\n"
            "/abs/2.png,,,,\r\n"
        )
        dataset = manifest.read(path, "train")
        self.assertEqual(dataset.classes, ("cat", "dog", "hat, red"))
        self.assertAllEqual(dataset.targets(), [[1, 1, -1], [0, 0, 0]])
        first, second = dataset.examples
        self.assertEqual(first.image_path, str(self.root / "a/1.jpg"))
        self.assertEqual(second.image_path, "/abs/2.png")
        self.assertEqual(
            boxes_of(first, dataset.classes),
            [
                ("cat", [0.2, 0.1, 0.9, 0.5], False),
                ("hat, red", [0, 0, 1, 1], True),
            ],
        )
        self.assertEqual(second.boxes.shape, (0, 4))
        self.assertEqual(second.boxes.dtype, "float32")
        self.assertEqual(second.box_classes.dtype, "int32")
        self.assertEqual(second.box_difficult.dtype, bool)

    def test_json_lines(self):
        box = {"label": "cat", "xmin": 0.1, "ymin": 0, "xmax": 1, "ymax": 0.5}
        lines = [
            {"image": "1.jpg", "labels": ["cat", "a|b"], "boxes": [box]},
            {"image": "2.jpg", "labels": [], "unknown": ["cat"], "_id": 7},
            {"image": "3.jpg", "labels": "cat|dog", "split": None},
        ]
        text = "\n\n".join(json.dumps(line) for line in lines)
        dataset = manifest.read(self.write(text, "photos.JSONL"), "train")
        self.assertEqual(dataset.classes, ("a|b", "cat", "dog"))
        self.assertAllEqual(
            dataset.targets(), [[1, 1, 0], [0, -1, 0], [0, 1, 1]]
        )
        self.assertEqual(
            boxes_of(dataset.examples[0], dataset.classes),
            [("cat", [0, 0.1, 0.5, 1], False)],
        )

    def test_regions(self):
        path = self.write(
            "image,labels,regions\n"
            "1.jpg,cat,xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9| "
            "ymax=1 ymin=0 xmax=1 xmin=0.5 \n"
            "2.jpg,,\n"
            "3.jpg,,xmin=0 ymin=0 xmax=0.1 ymax=1 score=-2|"
            "score=0.5 xmin=0 ymin=0 xmax=0.2 ymax=1|"
            "xmin=0 ymin=0 xmax=0.3 ymax=1 score=3e0|"
            "xmin=0 ymin=0 xmax=0.4 ymax=1 score=0.5\n"
        )
        first, second, third = manifest.read(path, "train").examples
        self.assertEqual(first.regions.dtype, "float32")
        self.assertAllClose(
            first.regions, [[0.2, 0.1, 0.9, 0.5], [0, 0.5, 1, 1]]
        )
        self.assertEqual(second.regions.shape, (0, 4))
        self.assertEqual(second.regions.dtype, "float32")
        self.assertAllClose(third.regions[:, 3], [0.3, 0.2, 0.4, 0.1])

    def test_regions_of_json_lines(self):
        region = {"xmin": 0.1, "ymin": 0, "xmax": 1, "ymax": 0.5}
        other = {**region, "xmin": 0.2, "score": 0.1}
        rows = [[], [{**region, "score": 0}, other], [region]]
        lines = [
            json.dumps({"image": f"{i}.jpg", "labels": ["a"], "regions": row})
            for i, row in enumerate(rows)
        ]
        path = self.write("\n".join(lines), "photos.jsonl")
        regions = [e.regions for e in manifest.read(path, "train").examples]
        self.assertEqual(regions[0].shape, (0, 4))
        self.assertAllClose(regions[1], [[0, 0.2, 0.5, 1], [0, 0.1, 0.5, 1]])
        self.assertAllClose(regions[2], [[0, 0.1, 0.5, 1]])

    def test_as_many_regions_as_a_detector_gives(self):
        cell = "|".join([f"xmin={1 / 3} ymin={1 / 7} xmax=1 ymax=1"] * 4000)
        text = f"image,labels,regions\n1.jpg,cat,{cell}\n"
        limit = csv.field_size_limit()
        (example,) = manifest.read(self.write(text), "train").examples
        self.assertLen(example.regions, 4000)
        self.assertEqual(csv.field_size_limit(), limit)
        with mock.patch.object(reading, "MAX_CELL", 1000):
            self.assertRegex(
                self.refused(text), "photos.csv:2: .* more than 1,000 char"
            )
        self.assertEqual(csv.field_size_limit(), limit)

    def test_no_regions_without_the_field(self):
        path = self.write("image,labels\n1.jpg,cat\n")
        self.assertIsNone(manifest.read(path, "train").examples[0].regions)

    def test_two_spellings_of_an_accent_are_one_label(self):
        name = "café"
        composed, decomposed = (
            unicodedata.normalize(form, name) for form in ("NFC", "NFD")
        )
        path = self.write(
            f"image,labels\n{decomposed}.jpg,{decomposed}\nb.jpg,{composed}\n"
        )
        dataset = manifest.read(path, "train")
        self.assertEqual(dataset.classes, (composed,))
        # The file has the name that it has.
        self.assertEndsWith(dataset.examples[0].image_path, f"{decomposed}.jpg")

    def test_splits_share_one_order_of_classes(self):
        path = self.write(
            "image,labels,split\n1.jpg,dog,test\n2.jpg,cat,train\n3.jpg,,train"
        )
        self.assertEqual(manifest.splits(path), ("train", "test"))
        for split, targets in (("train", [[1, 0], [0, 0]]), ("test", [[0, 1]])):
            dataset = manifest.read(path, split)
            self.assertEqual(dataset.classes, ("cat", "dog"))
            self.assertAllEqual(dataset.targets(), targets)
        with self.assertRaisesRegex(
            ValueError, r"splits \('train', 'test'\)\. Received: split='val'"
        ):
            manifest.read(path, "val")

    def test_given_classes(self):
        path = self.write("image,labels\n1.jpg,dog\n2.jpg,\n")
        dataset = manifest.read(path, "train", classes=("dog", "ant"))
        self.assertEqual(dataset.classes, ("dog", "ant"))
        self.assertAllEqual(dataset.targets(), [[1, 0], [0, 0]])
        with self.assertRaisesRegex(
            ValueError, "photos.csv:2: .*the 1 classes given. Received: 'dog'"
        ):
            manifest.read(path, "train", classes=("ant",))

    def test_image_ids_are_names_of_files(self):
        images = [
            "a/1.jpg",
            "a_1.jpg",
            "a/1.png",
            "../b c.jpg",
            "___.jpg",
            "é/日本.jpg",
            "日" * 100 + ".jpg",
        ]
        path = self.write(
            "image,labels\n" + "".join(f"{i},x\n" for i in images)
        )
        ids = [e.image_id for e in manifest.read(path, "train").examples]
        self.assertEqual(
            ids[:6], ["a_1", "a_1_2", "a_1_3", "b_c", "image", "é_日本"]
        )
        for image_id in ids:
            (self.root / f"{image_id}.png").touch()

    def test_image_ids_of_many_that_end_alike(self):
        class Counting(dict):
            asked = 0

            def __contains__(self, name):
                self.asked += 1
                return super().__contains__(name)

        taken = Counting()
        images = ["a_3.jpg", "a.jpg", *["b/" + "x" * 50] * 500, *["a"] * 3]
        ids = [reading._image_id(image, taken) for image in images]
        self.assertEqual(ids[:2] + ids[-3:], ["a_3", "a", "a_2", "a_4", "a_5"])
        self.assertLen(set(ids), len(images))
        self.assertLess(taken.asked, 3 * len(images))

    def test_image_ids_do_not_depend_on_the_split(self):
        path = self.write(
            "image,labels,split\na/1.jpg,x,train\na_1.jpg,x,test\n"
        )
        (example,) = manifest.read(path, "test").examples
        self.assertEqual(example.image_id, "a_1_2")

    def test_agrees_with_the_reader_of_voc(self):
        if not MINI.exists():
            self.skipTest("shared/data is not in this checkout")
        expected = voc.read(MINI, "trainval")
        names = expected.classes
        lines = ["image,labels,unknown,boxes"]
        for example in expected.examples:
            labels, unknown = (
                "|".join(names[k] for k in np.flatnonzero(example.targets == t))
                for t in (1, -1)
            )
            boxes = "|".join(
                f"{names[k]} ymin={a} xmin={b} ymax={c} xmax={d}"
                for k, (a, b, c, d) in zip(
                    example.box_classes, example.boxes, strict=True
                )
            )
            lines.append(f"{example.image_path},{labels},{unknown},{boxes}")
        path = self.write("\n".join(lines))
        dataset = manifest.read(path, "train", classes=names)
        self.assertAllEqual(dataset.targets(), expected.targets())
        for ours, theirs in zip(
            dataset.examples, expected.examples, strict=True
        ):
            self.assertEqual(ours.image_path, theirs.image_path)
            self.assertAllEqual(ours.boxes, theirs.boxes)
            self.assertAllEqual(ours.box_classes, theirs.box_classes)
        found = manifest.check(path)
        self.assertEmpty(found.errors)
        self.assertRegex(str(found), r"images +100 ")


class FoldersTest(ManifestTestCase):
    def test_one_folder_a_class(self):
        for name in ("dog/2.JPG", "cat/1.webp", "train/1.png", ".git/1.jpg"):
            self.write_image(name)
        self.write("", "dog/Thumbs.db")
        dataset = manifest.read(self.root, "train")
        self.assertEqual(dataset.classes, ("cat", "dog", "train"))
        self.assertAllEqual(dataset.targets(), np.eye(3))
        self.assertEqual(
            [example.image_id for example in dataset.examples],
            ["cat_1", "dog_2", "train_1"],
        )
        warning = manifest.check(self.root, decode=False).warnings[-1]
        self.assertStartsWith(warning, "Files that are passed over")
        self.assertEndsWith(warning, ": 1 .db")

    def test_splits(self):
        for name in ("train/cat/1.png", "train/dog/2.png", "test/dog/1.png"):
            self.write_image(name)
        self.assertEqual(manifest.splits(self.root), ("train", "test"))
        dataset = manifest.read(self.root, "test")
        self.assertEqual(dataset.classes, ("cat", "dog"))
        self.assertAllEqual(dataset.targets(), [[0, 1]])

    def test_classes_with_the_names_of_splits(self):
        for name in ("train/1.png", "test/1.png"):
            self.write_image(name)
        dataset = manifest.read(self.root, "train")
        self.assertEqual(dataset.classes, ("test", "train"))

    def test_refuses_images_at_another_depth(self):
        self.write_image("1.jpg")
        with self.assertRaisesRegex(ValueError, "1.jpg: an image must lie in"):
            manifest.read(self.root, "train")
        for name in ("cat/2.jpg", "cat/more/3.jpg"):
            self.write_image(name)
        with self.assertRaisesRegex(
            ValueError, "(?s) 1.jpg: .* cat/more: the folder of a class"
        ):
            manifest.read(self.root, "train")

    @parameterized.parameters(
        ("valid/cat/1.png", "train, valid"),
        ("Test/cat/1.png", "Test, train"),
        ("testing/1.png", "testing, train"),
        ("other/1.png", "other, train"),
    )
    def test_refuses_folders_that_are_no_splits(self, name, found):
        self.write_image("train/cat/1.png")
        self.write_image(name)
        with self.assertRaises(ValueError) as caught:
            manifest.read(self.root, "train")
        self.assertIn(
            "at the top must be train, val, test", str(caught.exception)
        )
        self.assertEndsWith(str(caught.exception), f"Received: folders {found}")

    @parameterized.parameters("train/stray.png", "test/stray.png")
    def test_refuses_an_image_beside_the_classes(self, name):
        for image in ("train/cat/1.png", name):
            self.write_image(image)
        with self.assertRaisesRegex(
            ValueError, f"{name}: an image must lie in the folder of its class"
        ):
            manifest.read(self.root, "train")

    def test_what_is_hidden_is_not_passed_over(self):
        self.write_image("cat/1.png")
        for name in (".git/objects/ab", "cat/.cache/x.txt", "cat/.DS_Store"):
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        warnings = manifest.check(self.root, decode=False).warnings
        self.assertNotIn("passed over", "".join(warnings))

    def test_a_file_name_that_is_not_utf_8(self):
        self.write_image("cat/1.png")
        try:
            (self.root / "cat/caf\udce9.png").touch()
        except OSError:
            self.skipTest("the file system takes UTF-8 only")
        with self.assertRaises(ValueError) as caught:
            manifest.read(self.root, "train")
        self.assertRegex(
            str(caught.exception).encode().decode(),
            r"cat/caf\\udce9.png: 'image' has a character that is not UTF-8",
        )

    def test_refuses_an_empty_folder(self):
        with self.assertRaisesRegex(ValueError, "names no image"):
            manifest.read(self.root, "train")


class RefusalTest(ManifestTestCase):
    @parameterized.parameters(
        (",cat,,,", "'image' has an empty name. Received: image=''"),
        ("a\\1.jpg,cat,,,", "'image' must have forward slashes. Received"),
        ("1.jpg,cat||dog,,,", "'labels' has an empty name. Received: labels="),
        ('1.jpg,"a\nb",,,', "'labels' has a line break or another control"),
        (
            "1.jpg,cat,dog|cat,,",
            "present or unknown, not both. Received: 'cat'",
        ),
        (
            "1.jpg,cat,,valid,",
            "one of train, val, test. Received: split='valid'",
        ),
        ("1.jpg,cat,,,cat 1 2 3 4", "'boxes' must be like 'cat xmin=0.1 ymin"),
        ("1.jpg,cat,,,|", "'boxes' must be like"),
        (
            "1.jpg,cat,,,cat xmin=0 ymin=0 xmax=1 ymax=x",
            "'boxes' has a side that is no number",
        ),
        (
            "1.jpg,cat,,,cat xmin=0 ymin=0 xmax=9 ymax=1",
            "shares of the image's width and height, not pixels",
        ),
        (
            "1.jpg,cat,,,cat xmin=0 ymin=0.5 xmax=1 ymax=0.5",
            "must have 0 <= xmin < xmax <= 1",
        ),
        (
            "1.jpg,cat,,,cat xmin=0 ymin=nan xmax=1 ymax=1",
            "must have 0 <= xmin < xmax <= 1",
        ),
        (
            "1.jpg,cat,,,dog xmin=0 ymin=0 xmax=1 ymax=1",
            "'boxes' has a label that the line has not. Received: 'dog'",
        ),
        ("1.jpg,cat,dog", "expected 5 cells, as in the header; .* 3 cells"),
        ('1.jpg,"cat,,,', "cannot be read as CSV, perhaps for a quote"),
    )
    def test_names_the_line(self, line, message):
        header = "image,labels,unknown,split,boxes\n"
        # The cell with a line break begins before the line that ends it.
        text = f'{header}\n0.jpg,,,,\n"x\ny.jpg",,,,\n{line}\n'
        self.assertRegex(self.refused(text), f"(?m)photos.csv:6: .*{message}")

    @parameterized.parameters(
        ("", "must be like 'xmin=0.1 ymin=0.2 xmax=0.5 ymax=0.9'"),
        ("cat xmin=0 ymin=0 xmax=1 ymax=1", "must be like"),
        ("xmin=0 ymin=0 xmax=1", "must be like"),
        ("xmin=0 ymin=0 xmax=1 ymax=x", "has a side that is no number"),
        ("xmin=0 ymin=0 xmax=9 ymax=1", "must have 0 <= xmin < xmax"),
        ("xmin=0 ymin=0 xmax=1 ymax=1 xmin=0.3", "has a side or a score twice"),
        ("xmin=0.1 ymin=0 xmax=0.1000000001 ymax=1", "has no area when"),
        ("xmin=0 ymin=0.1 xmax=1 ymax=0.1000000001", "has no area when"),
        (
            "xmin=0 ymin=0 xmax=1 ymax=1 score=1",
            "must have a score if region 1",
        ),
    )
    def test_names_the_line_and_the_region(self, region, message):
        cell = "|".join(["xmin=0 ymin=0 xmax=1 ymax=1"] * 50 + [region])
        text = f"image,labels,regions\n0.jpg,,\n1.jpg,,{cell}\n"
        message = f"photos.csv:3: 'regions': region 51 {message}.* Received: "
        self.assertRegex(self.refused(text), f"{message}'{region}'")

    @parameterized.parameters(
        ("score=x", "has a score that is no number"),
        ("score=nan", "has a score that is not finite"),
        ("score=1 score=2", "has a side or a score twice"),
    )
    def test_names_the_line_of_a_score(self, score, message):
        cell = f"xmin=0 ymin=0 xmax=1 ymax=1 {score}"
        self.assertRegex(
            self.refused(f"image,labels,regions\n1.jpg,,{cell}\n"),
            f"photos.csv:2: 'regions': region 1 {message}. Received: '{cell}'",
        )

    @parameterized.parameters(
        ({"score": None}, "has a score that is no number"),
        ({"score": True}, "has a score that is no number"),
        ({"xmax": True}, "has a side that is no number"),
        ({"xmin": 0.99999999999}, "has no area when"),
        ({"xmin": 1e300}, "must have 0 <= xmin < xmax"),
        ({"label": "cat"}, "must be like"),
    )
    def test_names_the_region_in_json(self, wrong, message):
        region = {"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}
        text = json.dumps(
            {
                "image": "a",
                "labels": [],
                "regions": [region, {**region, **wrong}],
            }
        )
        message = f"photos.jsonl:1: 'regions': region 2 {message}.* Received: "
        shown = re.escape(str({**region, **wrong}))
        self.assertRegex(self.refused(text, "photos.jsonl"), message + shown)

    @parameterized.parameters(
        ("[7]", "'regions': region 1 must be like .* Received: 7"),
        ("{}", "'regions' must be a list, .* Received: regions={}"),
        ('[{"xmin": 0, "xmin": 0}]', "the field 'xmin' is there 2 times"),
    )
    def test_what_is_no_region_in_json(self, value, message):
        text = f'{{"image": "a", "labels": [], "regions": {value}}}'
        message = f"photos.jsonl:1: .*{message}"
        self.assertRegex(self.refused(text, "photos.jsonl"), message)

    def test_regions_on_some_lines_only(self):
        text = '{"image": "a", "labels": [], "regions": []}\n'
        text += '{"image": "b", "labels": []}\n'
        self.assertRegex(
            self.refused(text, "photos.jsonl"),
            r"photos.jsonl:2: the field 'regions' is missing, .* \[\] says",
        )

    @parameterized.parameters(
        ("{", "no JSON: .* at character 2. Received: '{'"),
        ("[1]", r"expected one object, {...}, a line. Received: '\[1\]'"),
        ('{"image": "1.jpg"}', "the field 'labels' is missing"),
        (
            '{"image": "1.jpg", "labels": ["cat"], "labels": []}',
            "cannot be read as JSON: the field 'labels' is there 2 times",
        ),
        (
            '{"image": "\\ud800.jpg", "labels": []}',
            "'image' has a character that is not UTF-8. Received: image=",
        ),
        (
            '{"image": "a", "labels": ["\\udfff"]}',
            "'labels' has a character that is not UTF-8",
        ),
        (
            '{"image": 7, "labels": []}',
            "'image' must be text. Received: image=7",
        ),
        ('{"image": "a", "labels": [7]}', "'labels' must be text"),
        ('{"image": "a", "labels": {}}', "'labels' must be a list, or text"),
        ('{"image": "a", "labels": [], "split": 1}', "'split' must be one of"),
        ('{"image": "a", "labels": [], "boxes": [7]}', "'boxes' must be like"),
        (
            '{"image": "a", "labels": [], "boxes": [{"label": "cat", "xmin": '
            'null, "ymin": 0, "xmax": 1, "ymax": 1}]}',
            "'boxes' has a side that is no number",
        ),
    )
    def test_names_the_line_of_json(self, line, message):
        text = f'{{"image": "0.jpg", "labels": []}}\n\n{line}\n'
        self.assertRegex(
            self.refused(text, "photos.jsonl"), f"photos.jsonl:3: .*{message}"
        )

    @parameterized.named_parameters(
        ("digits", "9" * 5000, "cannot be read as JSON: .*digits.*'9999"),
        ("depth", "[" * 100000, r"cannot be read as JSON: .*recursion.*'\[\["),
        (
            "float",
            '{"image": "a", "labels": [], "boxes": [{"label": "cat", "xmin": '
            f'{"9" * 999}, "ymin": 0, "xmax": 1, "ymax": 1}}]}}',
            "'boxes' has a side that is no number",
        ),
    )
    def test_names_a_line_of_json_beyond_limits(self, line, message):
        message = f"photos.jsonl:2: .*{message}"
        self.assertRegex(self.refused(f"\n{line}\n", "photos.jsonl"), message)

    @parameterized.parameters(
        ("image,lables", "did you mean the field 'labels'.*Received: 'lables'"),
        ("image,notes", "the field 'labels' is missing"),
        ("sep=,", "must name the fields; delete this.* Received: 'sep='"),
        ("SEP=;", "must name the fields; delete this.* Received: 'SEP=;'"),
        (",image,labels", "Fields are image, labels.* Received: ''"),
        ("image,labels,labels", "the field 'labels' is there 2 times"),
        ("image;labels", "separated by commas. Received: ';'"),
        ("1.jpg,cat", "'image' is missing(.|\n)*'labels' is missing"),
    )
    def test_names_the_field(self, header, message):
        message = f"photos.csv:1: .*{message}"
        self.assertRegex(self.refused(f"{header}\n1.jpg,cat\n"), message)

    def test_a_misspelt_field_is_named_once(self):
        message = self.refused("image,lables\n1.jpg,cat\n")
        self.assertNotIn("missing", message)

    def test_an_image_twice(self):
        text = "image,labels\na/1.jpg,cat\na/2.jpg,\n./a//1.jpg,dog\n"
        self.assertIn(
            "photos.csv:4: the image is in photos.csv:2 already, and one line "
            "has all its labels. Received: image='./a//1.jpg'",
            self.refused(text),
        )

    def test_a_split_on_some_lines_only(self):
        text = "image,labels,split\n1.jpg,cat,train\n2.jpg,cat, \n"
        self.assertRegex(
            self.refused(text), "photos.csv:3: 'split' .*Received: split=''"
        )

    def test_all_problems_at_once(self):
        bad = "".join(f"{i}.jpg,|,x\n" for i in range(15))
        message = self.refused(f"image,labels,split\n{bad}")
        self.assertIn("photos.csv:2: 'labels'", message)
        self.assertIn("photos.csv:2: 'split'", message)
        self.assertIn("photos.csv:11: 'split'", message)
        self.assertNotIn("photos.csv:12", message)
        self.assertEndsWith(message, "and 10 more")

    def test_a_long_cell_is_cut(self):
        self.assertLess(
            len(self.refused(f"image,labels\n1.jpg,{'x' * 9999}|\n")), 400
        )

    def test_encodings(self):
        text = "image,labels\n1.jpg,cat\n2.jpg,café\n"
        self.assertRegex(
            self.refused(text, encoding="latin-1"),
            "photos.csv:3: expected UTF-8.* Received: byte 0xe9",
        )
        self.assertRegex(
            self.refused(text, encoding="utf-16"), "photos.csv:1: expected UTF"
        )

    def test_nothing_to_read(self):
        for text, message in {
            "": "names no image",
            "image,labels\n": "names no image",
            "image,labels\n1.jpg,\n": "has a label",
        }.items():
            self.assertIn(message, self.refused(text))
        self.assertIn("'.csv' or '.jsonl'", self.refused("", "photos.xlsx"))
        with self.assertRaisesRegex(FileNotFoundError, "Received: root='.*no"):
            manifest.splits(self.root / "no")


class CopiesTest(ManifestTestCase):
    def test_groups(self):
        for name, data in {
            "a": b"one",
            "b": b"two",
            "c": b"one",
            "d": b"another",
            "e": b"two",
            "f": b"one",
            "g": b"",
            "h": b"",
        }.items():
            (self.root / name).write_bytes(data)
        (self.root / "folder").mkdir()
        (self.root / "folder2").mkdir()
        names = ["e", "b", "a", "a", *"cdfgh", "gone", "folder", "folder2"]
        groups = manifest.copies(
            [(str(self.root / name), None) for name in names]
        )
        self.assertEqual(
            [[pathlib.Path(p).name for p, _ in group] for group in groups],
            [["e", "b"], ["a", "c", "f"]],
        )

    def test_a_file_that_fails_while_it_is_read(self):
        for name in "ab":
            (self.root / name).write_bytes(b"same")
        locations = [(str(self.root / name), None) for name in "ab"]
        self.assertEqual(manifest.copies(locations), [locations])
        with mock.patch("builtins.open", side_effect=PermissionError):
            self.assertEqual(manifest.copies(locations), [])

    def test_nothing(self):
        self.assertEqual(manifest.copies([]), [])


class CheckTest(ManifestTestCase):
    def check(self, lines, decode=False):
        return manifest.check(self.write("\n".join(lines)), decode)

    def test_table(self):
        self.write_image("1.png")
        for i in (2, 3, 4):
            self.write_image(f"{i}.png", side=8 + i)
        found = self.check(
            [
                "image,labels,unknown,split",
                "1.png,cat,,train",
                "2.png,cat|dog|cat,hat,train",
                "3.png,,,test",
                "4.png,dog|bee,,test",
            ]
        )
        self.assertEqual(
            found.table.splitlines(),
            [
                "            train     test  unknown",
                "images          2        2        1",
                "no label        0        1",
                "-" * 35,
                "cat             2        0        0",
                "dog             1        1        0",
                "bee             0        1        0",
                "hat             0        0        1",
            ],
        )
        self.assertEqual(
            found.warnings,
            [
                "Classes without an example in train cannot be learnt (2 of "
                "4): bee, hat",
                "Classes without an example in test cannot be measured (2 of "
                "4): cat, hat",
                "Classes with fewer than 10 images in train (2 of 4): cat, dog",
            ],
        )
        self.assertEmpty(found.errors)

    def test_the_table_counts_what_cannot_be_read(self):
        self.write_image("1.png")
        self.write("no image", "2.png")
        found = self.check(
            [
                "image,labels,split",
                "1.png,cat,train",
                "2.png,cat,test",
                "3.png,cat,test",
            ],
            decode=True,
        )
        self.assertEqual(
            found.table.splitlines()[1:5],
            [
                "images            1        2        0",
                "no label          0        0",
                "unreadable        0        2",
                "-" * 37,
            ],
        )

    def test_odd_names_of_labels(self):
        lines = ["1.png,cat;dog|None", '2.png,"ant, bee|nan"', "3.png,N/A|one"]
        lines += ["4.png,cat|\uff23at|c\u200bat|cath"]
        warnings = self.check(["image,labels", *lines]).warnings
        self.assertContainsSubset(
            [
                "Labels that hold ',' or ';', while '|' separates labels: "
                "ant, bee, cat;dog",
                "Labels that may mean that there is none, for which the field "
                "stays empty: N/A, None, nan",
                "Labels that may be one, written in two ways: "
                "cat = 'c\\u200bat' = \uff23at",
            ],
            warnings,
        )

    def test_labels_that_are_not_two(self):
        names = [f"{i}.png" for i in range(12)]
        for i, name in enumerate(names):
            self.write_image(name, side=8 + i)
        lines = [f"{name},cat|fur|one" for name in names[:11]]
        lines += [f"{names[11]},fire truck|Fire_Truck|one"]
        warnings = self.check(["image,labels", *lines]).warnings
        self.assertEqual(
            warnings[1:],
            [
                "Labels that always come together: cat = fur",
                "Labels that may be one, written in two ways: "
                "Fire_Truck = fire truck",
            ],
        )

    def test_copies(self):
        for name in ("1.png", "2.png", "3.png"):
            self.write_image(name)
        for name in ("4.png", "5.png"):
            self.write_image(name, side=50)
        for name, data in (("6.png", b"abc"), ("7.png", b"abd")):
            (self.root / name).write_bytes(data)
        for name in ("8.png", "9.png"):
            (self.root / name).touch()
        splits = ["train", "train", "test", *["train"] * 6]
        found = self.check(
            ["image,labels,split"]
            + [f"{i}.png,l{i},{s}" for i, s in enumerate(splits, 1)]
        )
        self.assertEqual(
            found.warnings[:2],
            [
                "LEAK BETWEEN SPLITS: the same image in more than one, so what "
                "is measured will be too good (1 images):\n    "
                "photos.csv:2 (train: l1) = photos.csv:4 (test: l3) = "
                "photos.csv:3 (train: l2)",
                "The same image more than once (1 images):\n    "
                "photos.csv:5 (train: l4) = photos.csv:6 (train: l5)",
            ],
        )
        self.assertStartsWith(found.warnings[2], "Classes")

    def test_a_large_group_of_copies_is_cut(self):
        for i in range(30):
            self.write_image(f"{i}.png")
        lines = [f"{i}.png,cat,train" for i in range(29)]
        found = self.check(["image,labels,split", *lines, "29.png,cat,test"])
        self.assertLen(found.warnings[0].splitlines(), 2)
        self.assertIn("photos.csv:31 (test: cat)", found.warnings[0])
        self.assertEndsWith(found.warnings[0], "and 10 more")

    def test_files_that_cannot_be_read(self):
        self.write_image("1.jpg")
        self.write("not an image", "2.jpg")
        lines = ["image,labels", "1.jpg,cat", "2.jpg,cat", "3.jpg,cat"]
        gone = f"photos.csv:4: {self.root}/3.jpg: there is no such file"
        self.assertEqual(
            self.check(lines).warnings[-1],
            "Images of train that cannot be read and are left out (1 of 3):"
            f"\n    {gone}",
        )
        found = self.check(lines, decode=True)
        head, bad, *rest = found.warnings[-1].split("\n    ")
        self.assertEndsWith(head, "(2 of 3):")
        self.assertStartsWith(bad, f"photos.csv:3: {self.root}/2.jpg: ")
        self.assertEqual(rest, [gone])
        self.assertEmpty(found.errors)
        # Nothing to train on, or another test than the one that was meant.
        (error,) = self.check(["image,labels", *lines[3:]]).errors
        self.assertStartsWith(
            error, "Images of train that cannot be read (1 of"
        )
        self.write_image("4.jpg")
        lines = ["image,labels,split", "1.jpg,cat,train", "3.jpg,cat,test"]
        lines += ["4.jpg,cat,test"]
        (error,) = self.check(lines).errors
        self.assertStartsWith(
            error, "Images of test that cannot be read (1 of 2):"
        )

    def test_nothing_to_learn(self):
        self.write_image("1.jpg")
        found = self.check(["image,labels,split", "1.jpg,,test"])
        self.assertEqual(
            found.errors,
            [
                "There is no image of the split 'train'.",
                "No image has a label.",
                NO_LABEL.format("test"),
            ],
        )

    def test_nothing_to_measure(self):
        self.write_image("1.jpg")
        lines = ["1.jpg,cat,,train", "2.jpg,,,val", "3.jpg,,cat,test"]
        errors = self.check(["image,labels,unknown,split", *lines]).errors
        self.assertContainsSubset(
            [NO_LABEL.format("val"), NO_LABEL.format("test")], errors
        )
        self.assertNotIn(NO_LABEL.format("train"), errors)

    def test_report_decodes_nothing(self):
        path = self.write("image,labels\nphotos.csv,cat\n")
        text = str(manifest.check(path, decode=False))
        self.assertRegex(text, "(?s)images +1 .*WARNING: .*fewer than 10")
        self.assertNotIn("cannot be read", text)
        self.assertIn("cannot be read", str(manifest.check(path)))

    def test_names_the_line_of_a_broken_file(self):
        for i in range(5):
            self.write_image(f"{i}.png")
        self.write("no", "3.png")
        lines = ["image,labels", *[f"{i}.png,cat" for i in range(5)]]
        found = self.check(lines, decode=True)
        self.assertIn("photos.csv:5: ", found.warnings[-1])

    def run_main(self, text):
        with self.assertRaises(SystemExit) as caught:
            command_line.main(["check", str(self.write(text))])
        return caught.exception.code

    def test_exit_status(self):
        self.write_image("1.jpg")
        self.assertEqual(self.run_main("image,labels\n1.jpg,cat\n"), 0)
        self.assertEqual(self.run_main("image,labels\n1.jpg,\n"), 1)
        self.assertRegex(
            self.run_main("image,labels\n1.jpg\n"), "error: (.|\n)*photos.csv:2"
        )

    @pytest.mark.heavy
    def test_command(self):
        self.write_image("1.jpg")
        path = self.write("image,labels\n1.jpg,cat\n2.jpg,cat\n")
        done = subprocess.run(
            [sys.executable, "-m", "zoo.data.manifest", "check", str(path)],
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("photos.csv:3: ", done.stdout)
        self.assertEndsWith(done.stdout, "photos.csv can be used.\n")
        self.assertNotIn("RuntimeWarning", done.stderr)
