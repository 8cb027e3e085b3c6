import contextlib
import io
import pathlib
import shutil
import tempfile
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from tests.data import trees
from zoo.data import check, voc

TREES = {
    "voc2007": trees.voc2007,
    "voc2012": trees.voc2012,
    "coco2014": trees.coco2014,
    "wider": trees.wider_attribute,
    "nus_wide": trees.nus_wide,
}


class CheckTest(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))

    def check(self, name, *flags):
        """Gives the exit status and the lines printed, without extra spaces."""
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            status = check.main([name, str(self.root), *flags])
        lines = printed.getvalue().splitlines()
        return status, [" ".join(line.split()) for line in lines]

    def expect(self, name):
        """Writes a tree, and takes what is in it for the published counts."""
        self.targets = TREES[name](self.root)
        expected = {
            split: {
                "examples": len(targets),
                "examples with a label": int((targets == 1).any(axis=1).sum()),
            }
            for split, targets in self.targets.items()
            if split in check.EXPECTED[name]
        }
        self.assertEqual(set(expected), set(check.EXPECTED[name]))
        self.enter_context(
            mock.patch.dict(check.EXPECTED, {name: expected}, clear=True)
        )
        return expected

    @parameterized.parameters(*TREES)
    def test_right_counts_pass(self, name):
        expected = self.expect(name)
        status, lines = self.check(name)
        self.assertEqual(status, 0)
        for split, counts in expected.items():
            start = lines.index(f"{name} {split}: reading")
            number, labelled = counts.values()
            for line in (
                f"examples {number} {number} ok",
                f"examples with a label {labelled} {labelled} ok",
                "missing image files 0 0 ok",
            ):
                self.assertIn(line, lines[start:])

    def test_coco_counts_the_image_without_a_label(self):
        counts = self.expect("coco2014")["val2014"]
        self.assertEqual(
            counts["examples with a label"], counts["examples"] - 1
        )

    @parameterized.parameters(*TREES)
    def test_published_counts_are_not_those_of_a_small_tree(self, name):
        TREES[name](self.root)
        status, lines = self.check(name)
        self.assertEqual(status, 1)
        for counts in check.EXPECTED[name].values():
            for what, number in counts.items():
                row = [x for x in lines if x.startswith(f"{what} {number} ")]
                self.assertLen(row, 1)
                self.assertEndsWith(row[0], " MISMATCH")

    def test_a_wrong_class_is_named(self):
        expected = self.expect("voc2007")
        column = self.targets["test"][:, voc.CLASSES.index("dog")]
        dogs = int((column == 1).sum())
        expected["test"]["dog"] = dogs + 1
        status, lines = self.check("voc2007")
        self.assertEqual(status, 1)
        wrong = [line for line in lines if "MISMATCH" in line]
        self.assertEqual(wrong, [f"dog {dogs + 1} {dogs} MISMATCH"])

    def test_missing_and_broken_files_are_named(self):
        self.expect("voc2007")
        folder = self.root / "VOC2007/JPEGImages"
        (folder / "000001.jpg").unlink()
        whole = (folder / "000002.jpg").read_bytes()
        (folder / "000002.jpg").write_bytes(whole[:300])
        missing = [
            "missing image files 0 1 MISMATCH",
            f"missing image files: {folder}/000001.jpg",
        ]
        status, lines = self.check("voc2007")
        self.assertEqual(status, 1)
        self.assertContainsSubset(missing, lines)
        status, lines = self.check("voc2007", "--decode")
        self.assertEqual(status, 1)
        verdicts = [
            "broken image files 0 1 MISMATCH",  # trainval
            "broken image files 0 0 ok",  # test
        ]
        self.assertContainsSubset([*missing, *verdicts], lines)
        [line] = [x for x in lines if x.startswith("broken image files: ")]
        self.assertIn("000002.jpg", line)

    def test_a_missing_folder_of_images(self):
        counts = self.expect("coco2014")["val2014"]
        shutil.rmtree(self.root / "val2014")
        status, lines = self.check("coco2014")
        self.assertEqual(status, 1)
        number = counts["examples"]
        self.assertIn(f"missing image files 0 {number} MISMATCH", lines)

    def test_a_split_that_is_not_there(self):
        self.expect("coco2014")
        (self.root / "annotations/instances_train2014.json").unlink()
        status, lines = self.check("coco2014")
        self.assertEqual(status, 1)
        wrong = [line for line in lines if "MISMATCH" in line]
        self.assertLen(wrong, 1)
        self.assertRegex(wrong[0], "^MISMATCH: There is no .*train2014")
        self.assertIn("coco2014 val2014: reading", lines)
