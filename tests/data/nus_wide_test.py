import contextlib
import io
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from tests.data import trees
from zoo.data import nus_wide, pipeline

LABELS = "Groundtruth/TrainTestLabels"


def image_ids(dataset):
    return [example.image_id for example in dataset.examples]


class ReaderTest(parameterized.TestCase, tf.test.TestCase):
    """Every test has a tree of its own, with 8 images in each list."""

    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.expected = trees.nus_wide(self.root)

    def read(self, split="train", **arguments):
        """Gives the data set and what was printed to standard error."""
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            dataset = nus_wide.read(self.root, split, **arguments)
        return dataset, printed.getvalue()


class SplitTest(ReaderTest):
    @parameterized.parameters("train", "test")
    def test_the_official_lists_without_unlabelled_images(self, split):
        dataset, printed = self.read(split)
        expected = self.expected[split]
        labelled = np.delete(expected, trees.EMPTY_IMAGE, axis=0)
        self.assertAllEqual(dataset.targets(), labelled)
        self.assertEqual(dataset.targets().dtype, np.float32)
        self.assertEqual(dataset.classes, trees.NUS_WIDE_CONCEPTS)
        self.assertEqual(pipeline.unreadable(dataset.examples), {})
        self.assertEqual(printed, "")
        example = dataset.examples[0]
        self.assertEqual(example.image_id, f"actor/0000_{len(split)}000")
        path = self.root / "Flickr" / f"{example.image_id}.jpg"
        self.assertEqual(example.image_path, str(path))
        self.assertEqual(example.boxes.shape, (0, 4))
        dataset, _ = self.read(split, keep_unlabelled=True)
        self.assertAllEqual(dataset.targets(), expected)

    def drawn(self, **arguments):
        arguments = {"num_training": 9, "protocol": "seed_split", **arguments}
        return [
            image_ids(self.read(split, **arguments)[0])
            for split in ("train", "test")
        ]

    def test_seed_split_shares_out_all_labelled_images(self):
        train, test = self.drawn()
        self.assertLen(train, 9)
        official = [
            *image_ids(self.read()[0]),
            *image_ids(self.read("test")[0]),
        ]
        self.assertCountEqual(train + test, official)
        self.assertEqual(self.drawn(), [train, test])
        # Published numbers need it to be this one, for good.
        order = np.random.RandomState(0).permutation(14)
        self.assertEqual(train + test, [official[i] for i in order])
        other, _ = self.drawn(seed=1)
        self.assertNotEqual(set(train), set(other))
        train, test = self.drawn(keep_unlabelled=True)
        self.assertLen({*train, *test}, 16)

    def test_seed_split_keeps_labels_with_their_images(self):
        dataset, _ = self.read("test", protocol="seed_split", num_training=1)
        targets = {}
        for split in ("train", "test"):
            kept, _ = self.read(split)
            targets |= dict(zip(image_ids(kept), kept.targets(), strict=True))
        self.assertAllEqual(
            dataset.targets(), [targets[name] for name in image_ids(dataset)]
        )

    def test_missing_images_do_not_move_others_between_splits(self):
        before = self.drawn()
        gone = {before[0][0], before[1][2]}
        for name in gone:
            (self.root / f"Flickr/{name}.jpg").unlink()
        self.assertEqual(
            self.drawn(),
            [[name for name in part if name not in gone] for part in before],
        )

    @parameterized.parameters(
        ({"num_training": 0}, "from 1 to 13. Received: num_training=0"),
        ({"num_training": 14}, "from 1 to 13. Received: num_training=14"),
        ({"num_training": 2.5}, "an int .*Received: num_training=2.5"),
        ({"num_training": 9, "seed": -1}, "an int from 0 .*seed=-1"),
        ({"num_training": 9, "seed": 0.5}, "an int from 0 .*seed=0.5"),
        ({}, "both splits.*Received: num_training=150000"),
        ({"protocol": "warp"}, "'seed_split'.*Received: protocol='warp'"),
        ({"split": "val"}, "'train', 'test'.*Received: split='val'"),
    )
    def test_names_a_bad_argument(self, arguments, message):
        arguments = {"protocol": "seed_split", **arguments}
        with self.assertRaisesRegex(ValueError, message):
            self.read(**arguments)


class LayoutTest(ReaderTest):
    def test_folders_in_another_case(self):
        before, _ = self.read()
        for old, new in (
            ("Flickr/actor", "Flickr/Actor"),
            ("Flickr", "Images"),
            (LABELS, "Groundtruth/traintestlabels"),
            ("Groundtruth", "GroundTruth"),
            ("ImageList/TrainImagelist.txt", "ImageList/TrainImageList.txt"),
        ):
            (self.root / old).rename(self.root / new)
        dataset, printed = self.read()
        self.assertEqual(image_ids(dataset), image_ids(before))
        self.assertAllEqual(dataset.targets(), before.targets())
        self.assertEqual(printed, "")

    def test_files_without_their_folders(self):
        before, _ = self.read()
        for name in ("ConceptsList", "ImageList", "Groundtruth"):
            for child in (self.root / name).iterdir():
                child.rename(self.root / child.name)
        dataset, _ = self.read()
        self.assertAllEqual(dataset.targets(), before.targets())

    def test_only_folders_hold_images_and_the_first_in_order_wins(self):
        before, _ = self.read()
        (self.root / "image").write_text("not a folder")
        shutil.copytree(self.root / "Flickr", self.root / "images")
        listed = sorted(self.root.iterdir())
        for order in (listed, listed[::-1]):
            with mock.patch.object(pathlib.Path, "iterdir") as iterdir:
                iterdir.side_effect = lambda order=order: iter(order)
                paths = nus_wide._image_paths(
                    self.root, ["actor/0000_5000.jpg"]
                )
            self.assertEqual(
                list(paths.values()), [before.examples[0].image_path]
            )

    @parameterized.parameters(("actor/", ""), ("actor/0000_", ""))
    def test_images_in_one_folder(self, *replaced):
        before, _ = self.read()
        flat = self.root / "images"
        flat.mkdir()
        content = {}
        for example in before.examples:
            path = pathlib.Path(example.image_path)
            number = path.name if replaced[0] == "actor/" else path.name[5:]
            content[example.image_id] = path.read_bytes()
            path.rename(flat / number)
        shutil.rmtree(self.root / "Flickr")
        dataset, _ = self.read()
        found = {
            example.image_id: pathlib.Path(example.image_path).read_bytes()
            for example in dataset.examples
        }
        self.assertEqual(found, content)


class MissingTest(ReaderTest):
    def setUp(self):
        super().setUp()
        self.before = self.read()[0]
        self.gone = [image_ids(self.before)[i] for i in (0, 4)]
        for name in self.gone:
            (self.root / f"Flickr/{name}.jpg").unlink()
        self.name = "missing_images.txt"
        self.list = "".join(f"{name}.jpg\n" for name in self.gone)

    def test_are_left_out_and_reported_once(self):
        dataset, printed = self.read()
        self.assertEqual(
            printed,
            "2 of 7 images of train are missing and are left out; "
            f"{self.root / self.name} lists all that are.\n",
        )
        self.assertEqual(dataset.num_missing, 2)
        self.assertEqual((self.root / self.name).read_text(), self.list)
        self.assertAllEqual(
            dataset.targets(), np.delete(self.before.targets(), [0, 4], axis=0)
        )
        self.assertEqual(pipeline.unreadable(dataset.examples), {})

    def test_one_list_has_those_of_the_release_whatever_is_read(self):
        empty = f"actor/{trees.EMPTY_IMAGE:04d}_5{trees.EMPTY_IMAGE:03d}"
        of_test = "actor/0004_4004"
        for name in (empty, of_test):
            (self.root / f"Flickr/{name}.jpg").unlink()
        counts = []
        for arguments in (
            {},
            {"keep_unlabelled": True},
            {"split": "test"},
            {"protocol": "seed_split", "num_training": 9},
            {"protocol": "seed_split", "num_training": 9, "split": "test"},
        ):
            dataset, _ = self.read(**arguments)
            counts.append(dataset.num_missing)
            lines = (self.root / self.name).read_text().splitlines()
            self.assertCountEqual(
                lines, [f"{k}.jpg" for k in (*self.gone, empty, of_test)]
            )
        self.assertEqual(counts[:3], [2, 3, 1])
        self.assertEqual(sum(counts[3:]), 3)
        lists = [path.name for path in self.root.glob("missing*")]
        self.assertEqual(lists, [self.name])

    def test_a_list_goes_when_none_is_missing_any_more(self):
        self.read()
        for name in self.gone:
            (self.root / f"Flickr/{name}.jpg").write_bytes(b"found again")
        dataset, printed = self.read()
        self.assertEqual((dataset.num_missing, printed), (0, ""))
        self.assertFalse((self.root / self.name).exists())

    def test_are_listed_in_the_current_folder_where_root_is_read_only(self):
        (self.root / self.name).mkdir()  # no permission stops a superuser
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        with contextlib.chdir(folder):
            _, printed = self.read()
        self.assertEqual((folder / self.name).read_text(), self.list)
        self.assertIn(os.path.realpath(folder / self.name), printed)

    def test_stay_if_asked(self):
        dataset, printed = self.read(keep_missing=True)
        self.assertEqual(printed, "")
        self.assertEqual(
            [example.image_path for example in dataset.examples],
            [example.image_path for example in self.before.examples],
        )

    def test_all_are_an_error(self):
        shutil.rmtree(self.root / "Flickr")
        for folder in ("Flickr/else", "photos"):
            (self.root / folder).mkdir(parents=True)
        first = self.root / "Flickr/actor/0000_5000.jpg"
        message = f"None of the 7 .*'{first}'.*'flickr'.*root='"
        with self.assertRaisesRegex(FileNotFoundError, message):
            self.read()


class FileTest(ReaderTest):
    @parameterized.parameters(
        ("0\n1\n0\n", "expected 8 lines, .* Received: 3 lines"),
        ("0\n" * 9, "expected 8 lines, .* Received: 9 lines"),
        ("0\n" * 5 + "2\n0\n0\n", r"txt:6: expected 0 or 1. Received: b'2'"),
        ("0\n" * 5 + "-1\n0\n0\n", r"txt:6: .*Received: b'-1'"),
        ("0\n" * 5 + "\n0\n0\n", r"txt:6: .*Received: b''"),
        ("01\n" + "0\n" * 6, r"txt:1: .*Received: b'01'"),
        ("01\n\n" + "0\n" * 6, r"txt:1: .*Received: b'01'"),
        ("000\n" + "0\n" * 6, r"txt:1: .*Received: b'000'"),
        ("", r"txt:1: .*Received: b''"),
    )
    def test_names_a_bad_label(self, text, message):
        path = self.root / LABELS / "Labels_bear_Train.txt"
        path.write_text(text)
        message = f"Labels_bear_Train.*{message}"
        with self.assertRaisesRegex(ValueError, message):
            self.read()

    def test_space_around_labels_is_none_of_them(self):
        before, _ = self.read()
        path = self.root / LABELS / "Labels_bear_Train.txt"
        labels = path.read_text().split()
        path.write_text(" \r\n".join(labels) + "\t\n\n")
        self.assertAllEqual(self.read()[0].targets(), before.targets())
        path.write_text("\n".join(labels))
        self.assertAllEqual(self.read()[0].targets(), before.targets())

    @parameterized.parameters(
        (f"{LABELS}/Labels_sky_Train.txt", "Labels_sky_Train.txt'"),
        ("ImageList/TrainImagelist.txt", "'ImageList/TrainImagelist.txt'"),
        ("ConceptsList/Concepts81.txt", "'ConceptsList/Concepts81.txt'"),
    )
    def test_names_a_missing_file(self, name, message):
        (self.root / name).unlink()
        message = f"There is no .*{message}.*Received: root="
        with self.assertRaisesRegex(FileNotFoundError, message):
            self.read()

    def test_names_a_root_that_is_not_there(self):
        shutil.rmtree(self.root)
        message = f"Received: root='{self.root}'"
        with self.assertRaisesRegex(FileNotFoundError, message):
            self.read()

    def test_names_an_image_listed_twice(self):
        path = self.root / "ImageList/TestImagelist.txt"
        names = path.read_text().splitlines()
        train = (self.root / "ImageList/TrainImagelist.txt").read_text()
        for name, protocol, first in (
            (names[2], "official", "TestImagelist.txt:3"),
            (train.split()[1], "seed_split", "TrainImagelist.txt:2"),
        ):
            path.write_text("\n".join([*names[:5], name.upper(), *names[6:]]))
            message = f"TestImagelist.txt:6: .*{first} has this one"
            with self.assertRaisesRegex(ValueError, message):
                self.read("test", protocol=protocol)

    def test_a_mark_of_utf_8_is_no_part_of_a_name(self):
        path = self.root / "ConceptsList/Concepts81.txt"
        path.write_text(path.read_text(), "utf-8-sig")
        self.assertEqual(self.read()[0].classes, trees.NUS_WIDE_CONCEPTS)

    def test_names_the_labels_of_concepts_that_were_cut_off(self):
        path = self.root / "ConceptsList/Concepts81.txt"
        path.write_text("\n".join(trees.NUS_WIDE_CONCEPTS[:4]))
        message = "Received: 4 concepts.* Labels_zebra_Test.txt, Labels_zebra_T"
        with self.assertRaisesRegex(ValueError, message):
            self.read()

    def test_names_an_empty_list(self):
        (self.root / "ConceptsList/Concepts81.txt").write_text("\n")
        with self.assertRaisesRegex(ValueError, "Concepts81.txt' is empty"):
            self.read()
