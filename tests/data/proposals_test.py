import contextlib
import dataclasses
import io
import pathlib
import sys
import tempfile
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import parameterized
from PIL import Image

from tests import encodings
from zoo import preprocess
from zoo.data import boxes, proposals, voc
from zoo.data.example import Example
from zoo.data.proposals import __main__ as command_line
from zoo.data.proposals import edges, finding

MINI = pathlib.Path(__file__).parents[3] / "shared/data/voc_mini/VOCdevkit"


def draw(seed=0, height=120, width=160, count=3):
    """Draws rectangles on noise; gives pixels and where the rectangles are."""
    rng = np.random.default_rng(seed)
    image = rng.normal(128, 8, (height, width, 3))
    colours = ((230, 40, 40), (40, 60, 220), (30, 170, 60))
    drawn = []
    for i, colour in enumerate(colours[:count]):
        top = rng.integers(5, height // 2)
        left = i * width // 3 + rng.integers(2, 3 + width // 20)
        bottom = top + rng.integers(height // 4, height // 2 - 5)
        right = left + width // 4
        image[top:bottom, left:right] = colour
        drawn.append((top, left, bottom, right))
    sides = np.array([height, width, height, width])
    return np.uint8(image.clip(0, 255)), np.float32(drawn / sides)


class ProposalsTestCase(parameterized.TestCase, tf.test.TestCase):
    def setUp(self):
        super().setUp()
        self.root = pathlib.Path(tempfile.mkdtemp(dir=self.get_temp_dir()))
        self.cache = self.root / "cache"

    def example(self, name, image_bytes, crop=None, true_boxes=()):
        path = self.root / name
        path.write_bytes(image_bytes)
        true_boxes = np.reshape(np.float32(true_boxes), (-1, 4))
        return Example(
            image_id=name,
            image_path=str(path),
            targets=np.zeros(1, "float32"),
            boxes=true_boxes,
            box_classes=np.zeros(len(true_boxes), "int32"),
            box_difficult=np.zeros(len(true_boxes), bool),
            crop=crop,
        )

    def drawn_examples(self, count):
        return [
            self.example(
                f"{seed}.png",
                encodings.encoded(Image.fromarray(pixels), "PNG"),
                true_boxes=true_boxes,
            )
            for seed in range(count)
            for pixels, true_boxes in [draw(seed, height=60, width=80)]
        ]

    def propose(self, examples, **settings):
        """Gives examples with regions, and what was printed."""
        settings = {"num_regions": 20, "cache_dir": self.cache, **settings}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            examples = proposals.propose(examples, **settings)
        return examples, printed.getvalue()

    def cached(self):
        """Gives each file, and what changes when it is written again."""
        return {
            path: (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in self.cache.rglob("*")
            if path.is_file()
        }


class SlidingWindowsTest(ProposalsTestCase):
    def test_default_grid(self):
        grid = proposals.sliding_windows()
        self.assertEqual(grid.dtype, "float32")
        self.assertBetween(len(grid), 200, 250)
        self.assertLen(np.unique(grid, axis=0), len(grid))
        self.assertAllInRange(grid, 0, 1)
        sides = grid[:, 2:] - grid[:, :2]
        self.assertAllGreater(sides, 0.1)
        areas = sides.prod(axis=1)
        self.assertAllLess(np.diff(areas), 1e-4)
        # RGNN takes the best of each of these bins.
        bins = [0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]
        self.assertAllGreater(np.histogram(areas, bins)[0], 20)
        self.assertEqual(grid[:, :2].min(), 0)
        self.assertEqual(grid[:, 2:].max(), 1)
        self.assertAllEqual(grid, proposals.sliding_windows())

    def test_every_place_is_in_windows_of_the_large_scales(self):
        grid = proposals.sliding_windows()
        areas = (grid[:, 2:] - grid[:, :2]).prod(axis=1)
        places = np.stack(np.mgrid[:1:50j, :1:50j], axis=-1)[:, :, None]
        for low, high in ((1 / 16, 1 / 8), (1 / 8, 1 / 4), (1 / 4, 1)):
            some = grid[(areas > low) & (areas <= high)]
            is_in = (some[:, :2] <= places) & (places <= some[:, 2:])
            self.assertTrue(is_in.all(axis=-1).any(axis=-1).all())

    @parameterized.parameters(20, 50, 100, 200)
    def test_a_few_have_all_sizes_and_lie_all_over_the_image(self, count):
        grid = proposals.sliding_windows(num_regions=count)
        self.assertLen(np.unique(grid, axis=0), count)
        areas = (grid[:, 2:] - grid[:, :2]).prod(axis=1)
        every = proposals.sliding_windows()
        all_areas = (every[:, 2:] - every[:, :2]).prod(axis=1)
        self.assertAllEqual(
            np.argsort(-areas.round(5), kind="stable"), np.arange(count)
        )
        for edge in (1 / 32, 1 / 16, 1 / 8, 1 / 4):
            share, all_share = (
                (areas <= edge).mean(),
                (all_areas <= edge).mean(),
            )
            self.assertAlmostEqual(share, all_share, delta=1.5 / count)
        centre = ((grid[:, :2] + grid[:, 2:]) / 2).mean(axis=0)
        self.assertAllInRange(centre, 0.4, 0.6)

    def test_more_than_there_are_is_all(self):
        for number in (242, 1000):
            self.assertAllEqual(
                proposals.sliding_windows(num_regions=number),
                proposals.sliding_windows(),
            )

    def test_sides_and_places(self):
        grid = proposals.sliding_windows([0.5], [0.25], strides=[0.5])
        # 0.25 high and 1 wide.
        tops = np.arange(7) / 8
        expected = [(top, 0, top + 0.25, 1) for top in tops]
        self.assertAllClose(sorted(grid.tolist()), expected)
        grid = proposals.sliding_windows([0.6], [1], strides=[1])
        self.assertAllClose(np.unique(grid[:, 0]), [0, 0.4])
        grid = proposals.sliding_windows([0.25, 0.2], [1], strides=[1, 2])
        self.assertAllClose(
            np.unique(grid[:, 0]), [0, 0.25, 0.4, 0.5, 0.75, 0.8]
        )

    def test_a_window_as_large_as_the_image_is_there_once(self):
        grid = proposals.sliding_windows([1, 2], [1, 2, 0.5], [1, 1])
        whole = (grid == [0, 0, 1, 1]).all(axis=1)
        self.assertEqual(whole.sum(), 1)

    @parameterized.parameters(
        ({"scales": []}, r"scales=\[\]"),
        ({"scales": [0]}, r"scales=\[0\]"),
        ({"ratios": [1, -1]}, r"ratios=\[1, -1\]"),
        ({"strides": [0]}, r"strides=\[0\]"),
        ({"scales": [0.5], "strides": [1, 2]}, r"strides=\[1, 2\], scales="),
    )
    def test_refuses(self, arguments, message):
        with self.assertRaisesRegex(ValueError, f"Received: {message}"):
            proposals.sliding_windows(**arguments)


class JitteredBoxesTest(ProposalsTestCase):
    def test_regions_lie_around_the_boxes_in_turn(self):
        true_boxes = np.float32([[0.1, 0.1, 0.4, 0.3], [0.5, 0.6, 1, 1]])
        regions = proposals.jittered_boxes(true_boxes, 400, seed=3)
        self.assertEqual(regions.dtype, "float32")
        overlap = boxes.iou(regions, true_boxes)
        self.assertAllGreater(overlap[::2, 0].mean(), 0.4)
        self.assertAllGreater(overlap[1::2, 1].mean(), 0.4)
        self.assertGreater(overlap[::2, 0].std(), 0.1)
        again = proposals.jittered_boxes(true_boxes, 400, seed=3)
        self.assertAllEqual(regions, again)
        other = proposals.jittered_boxes(true_boxes, 400, seed=4)
        self.assertNotAllClose(regions, other)
        exact = proposals.jittered_boxes(true_boxes, 4, seed=3, jitter=0)
        self.assertAllClose(exact, np.tile(true_boxes, (2, 1)))

    def test_regions_have_an_area_in_the_image(self):
        thin = [[0, 0.99, 1, 1], [0, 0, 0.01, 0.01]]
        regions = proposals.jittered_boxes(thin, 1000, seed=0, jitter=1)
        self.assertAllInRange(regions, 0, 1)
        self.assertAllGreater(regions[:, 2:] - regions[:, :2], 0)

    def test_limits(self):
        none = proposals.jittered_boxes(np.zeros((0, 4)), 5, seed=0)
        self.assertEqual(none.shape, (0, 4))
        with self.assertRaisesRegex(ValueError, "Received: num_regions=0"):
            proposals.jittered_boxes([[0, 0, 1, 1]], 0, seed=0)
        with self.assertRaisesRegex(ValueError, "jitter=-1"):
            proposals.jittered_boxes([[0, 0, 1, 1]], 1, seed=0, jitter=-1)


class JitterTest(ProposalsTestCase):
    def test_regions_lie_around_the_boxes_of_each_example(self):
        examples = self.drawn_examples(2)
        found = proposals.jitter(examples, 100, seed=1)
        for example, before in zip(found, examples, strict=True):
            self.assertEqual(example.regions.shape, (100, 4))
            overlap = boxes.iou(example.regions, example.boxes)
            self.assertAllGreater(overlap.max(axis=0), 0.6)
            self.assertAllEqual(example.boxes, before.boxes)
            self.assertIsNone(before.regions)

    def test_seed_and_image_decide(self):
        first, _ = self.drawn_examples(2)
        other = dataclasses.replace(first, image_id="other")
        a, b = proposals.jitter([first, other], 5, seed=1)
        (c,) = proposals.jitter([first], 5, seed=2)
        self.assertNotAllClose(a.regions, b.regions)
        self.assertNotAllClose(a.regions, c.regions)
        for examples in ([other, first], [first]):
            *_, again = proposals.jitter(examples, 5, seed=1)
            self.assertAllEqual(again.regions, a.regions)
        # As in any process, unlike what depends on `hash`.
        self.assertAllClose(
            proposals.jitter([first], 1, seed=0)[0].regions,
            proposals.jittered_boxes(first.boxes, 1, (0, 1538739476)),
        )

    def test_without_boxes(self):
        plain = self.example("plain.png", b"")
        own = dataclasses.replace(plain, regions=np.float32([[0, 0, 1, 1]]))
        found = proposals.jitter([plain, own], 5, seed=0)
        self.assertEqual(found[0].regions.shape, (0, 4))
        self.assertAllEqual(found[1].regions, own.regions)
        (drawn,) = self.drawn_examples(1)
        drawn = dataclasses.replace(drawn, regions=own.regions)
        (found,) = proposals.jitter([drawn], 5, seed=0)
        self.assertEqual(found.regions.shape, (5, 4))


class EdgeBoxesTest(ProposalsTestCase):
    @parameterized.parameters((120, 160), (600, 450), (48, 40))
    def test_finds_rectangles_on_noise(self, height, width):
        for seed in range(3):
            image, drawn = draw(seed, height, width)
            regions, scores = proposals.edge_boxes(image, num_regions=30)
            self.assertEqual(regions.dtype, "float32")
            self.assertEqual(scores.shape, (len(regions),))
            self.assertAllLessEqual(np.diff(scores), 0)
            found = boxes.iou(regions, drawn).max(axis=0)
            # A better one may be dropped for one that is scored higher.
            self.assertAllGreater(found, 0.6)

    def test_regions_lie_in_place(self):
        image = np.zeros((200, 100, 3), "uint8")
        image[60:160, 20:70] = 200
        regions, _ = proposals.edge_boxes(image, num_regions=1)
        self.assertAllClose(regions, [[0.3, 0.2, 0.8, 0.7]], atol=0.015)

    def test_an_edge_between_colours_of_equal_grey(self):
        image = np.full((100, 100, 3), (150, 0, 0), "uint8")
        image[30:70, 20:60] = (0, 76, 0)
        regions, _ = proposals.edge_boxes(image, num_regions=1)
        self.assertAllClose(regions, [[0.3, 0.2, 0.7, 0.6]], atol=0.015)

    def test_orientation_is_that_of_the_normal(self):
        # The image rises to the right and, twice as steeply, upwards.
        y, x = np.mgrid[:64, :64]
        image = 1 / (1 + np.exp((2 * y - x - 32) / 3))
        image = np.repeat(np.float32(image)[..., None], 3, axis=-1)
        strength, angle = edges._gradient_edges(image)
        inside = angle[4:-4, 4:-4][strength[4:-4, 4:-4] > 0.3]
        self.assertBetween(len(inside), 30, 120)
        expected = np.full(len(inside), np.pi - np.arctan(2))
        self.assertAllClose(inside, expected, atol=0.02)

    def test_best_are_the_same_whatever_the_number(self):
        image, _ = draw(5)
        few, _ = proposals.edge_boxes(image, num_regions=10)
        many, _ = proposals.edge_boxes(image, num_regions=100)
        self.assertLen(few, 10)
        self.assertAllEqual(few, many[:10])

    def test_no_two_overlap_more_than_nms(self):
        image, _ = draw(2)
        regions, _ = proposals.edge_boxes(image, num_regions=50, nms=0.5)
        overlap = boxes.iou(regions, regions) - np.eye(len(regions))
        # OpenCV rounds to pixels before it compares, and we cut to the image.
        self.assertAllLess(overlap, 0.6)
        regions, _ = proposals.edge_boxes(image, num_regions=50, nms=0.9)
        overlap = boxes.iou(regions, regions) - np.eye(len(regions))
        self.assertGreater(overlap.max(), 0.75)

    @parameterized.parameters(
        (1, 1), (1, 900), (900, 1), (3, 900), (7, 5), (30, 30)
    )
    def test_odd_shapes(self, height, width):
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3))
        for image in (np.uint8(noise), np.zeros((height, width, 3), "uint8")):
            regions, scores = proposals.edge_boxes(image)
            self.assertEqual(regions.shape, (len(scores), 4))
            self.assertAllInRange(regions, 0, 1)
            self.assertTrue((regions[:, 2:] > regions[:, :2]).all())
        self.assertEmpty(regions)  # a plain image has no edges

    def test_edges_of_a_structured_forest(self):
        image, drawn = draw(1)
        path = self.root / "model.yml"
        path.write_text("%YAML:1.0\n---\noptions:\n  stride: 2\n")
        given = edges._gradient_edges

        class Forest:  # as OpenCV's, but that its edges are a gradient's
            def detectEdges(self, image):
                assert image.dtype == np.float32 and image.max() <= 1
                strength, self.angle = given(image)
                return strength

            def computeOrientation(self, strength):
                return self.angle

            def edgesNms(self, strength, orientation):
                return strength

        name = "createStructuredEdgeDetection"
        examples = self.drawn_examples(3)
        with (
            mock.patch.object(edges.opencv().ximgproc, name) as create,
            mock.patch.object(edges, "_gradient_edges", None),
        ):
            create.return_value = Forest()
            forest = edges.Forest(path)
            regions, _ = proposals.edge_boxes(image, 20, forest=forest)
            create.assert_called_once_with(str(path))
            create.reset_mock()
            found, _ = self.propose(examples, model_file=path)
            create.assert_called_once_with(str(path))
        self.assertAllEqual(regions, proposals.edge_boxes(image, 20)[0])
        for a, b in zip(found, self.propose(examples)[0], strict=True):
            self.assertAllEqual(a.regions, b.regions)

    @parameterized.parameters(b"", b"no forest", b"%YAML:1.0\n---\na: 1\n")
    def test_a_forest_that_cannot_be_read(self, content):
        path = self.root / "model.yml"
        path.write_bytes(content)
        with self.assertRaisesRegex(
            ValueError, "`model_file` must be .* model_file='.*model.yml'$"
        ):
            proposals.propose(self.drawn_examples(1), model_file=path)

    @parameterized.parameters(
        ({"num_regions": 0}, ValueError, "num_regions=0"),
        ({"nms": 0}, ValueError, "nms=0"),
        ({"nms": 1.0}, ValueError, "nms=1.0"),
        ({"model_file": "no.yml"}, FileNotFoundError, "model_file='no.yml'"),
    )
    def test_refuses(self, arguments, error, message):
        if "model_file" not in arguments:
            with self.assertRaisesRegex(error, f"Received: {message}"):
                proposals.edge_boxes(np.zeros((9, 9, 3), "uint8"), **arguments)
        with self.assertRaisesRegex(error, f"Received: {message}"):
            proposals.propose([], **arguments)

    @parameterized.parameters(
        ((9, 8), "uint8"), ((9, 8, 4), "uint8"), ((9, 8, 3), "float32")
    )
    def test_refuses_an_image_that_is_not_rgb(self, shape, dtype):
        with self.assertRaisesRegex(ValueError, f"shape=.*, dtype={dtype}"):
            proposals.edge_boxes(np.zeros(shape, dtype))

    @parameterized.parameters(None, mock.Mock(spec=["__version__"]))
    def test_names_the_extra_where_opencv_is_missing(self, module):
        with mock.patch.dict(sys.modules, {"cv2": module}):
            with self.assertRaisesRegex(ImportError, r"'\.\[proposals\]'"):
                proposals.propose([])
            proposals.propose([], "sliding_windows")


class ProposeTest(ProposalsTestCase):
    def test_edge_boxes_of_the_files(self):
        examples = self.drawn_examples(3)
        found, printed = self.propose(examples)
        for example, before in zip(found, examples, strict=True):
            image = np.asarray(Image.open(example.image_path))
            expected, _ = proposals.edge_boxes(image, num_regions=20)
            self.assertAllEqual(example.regions, expected)
            self.assertGreater(
                boxes.iou(example.regions, example.boxes).max(axis=0).min(),
                0.7,
            )
            self.assertEqual(
                dataclasses.replace(before, regions=0).__dict__,
                dataclasses.replace(example, regions=0).__dict__,
            )
        self.assertRegex(
            printed, r"3 images now \(.* an image\), 0 from .*cache, 0 cannot"
        )

    def test_true_boxes_do_not_matter(self):
        (example,) = self.drawn_examples(1)
        blind = dataclasses.replace(example, boxes=None, targets=None)
        for method in ("edge_boxes", "sliding_windows"):
            settings = {"method": method, "cache_dir": self.root / "none"}
            (a,), _ = self.propose([example], **settings)
            (b,), _ = self.propose([blind], **settings)
            self.assertAllEqual(a.regions, b.regions)
        with self.assertRaisesRegex(
            ValueError, "never come from true boxes.* method='jittered_boxes'"
        ):
            self.propose([example], method="jittered_boxes")

    def test_the_cache_is_used_again(self):
        examples = self.drawn_examples(3)
        first, _ = self.propose(examples)
        before = self.cached()
        self.assertLen(before, 3)
        with mock.patch.object(edges, "edge_boxes") as find:
            again, printed = self.propose(examples)
            find.assert_not_called()
        for a, b in zip(first, again, strict=True):
            self.assertAllEqual(a.regions, b.regions)
            self.assertEqual(b.regions.dtype, "float32")
        self.assertIn("Regions: 0 images now, 3 from", printed)
        # A copy under another name has the same content.
        copy = self.root / "copy.png"
        copy.write_bytes(pathlib.Path(examples[1].image_path).read_bytes())
        copied = dataclasses.replace(examples[1], image_path=str(copy))
        self.assertIn(" 1 from", self.propose([copied])[1])
        self.assertEqual(self.cached(), before)

    def test_what_the_cache_depends_on(self):
        (example,) = self.drawn_examples(1)
        forest = self.root / "forest"
        forest.write_bytes(b"one")
        self.propose([example])

        def is_new(example=example, **settings):
            before = len(self.cached())
            self.propose([example], **settings)
            return len(self.cached()) == before + 1

        self.assertFalse(is_new())
        self.assertFalse(is_new(num_workers=1))
        self.assertTrue(is_new(num_regions=21))
        self.assertTrue(is_new(nms=0.6))
        crop = dataclasses.replace(example, crop=(0.0, 0.0, 0.5, 1.0))
        self.assertTrue(is_new(crop))
        with mock.patch.object(edges, "VERSION", -1):
            self.assertTrue(is_new())
        with mock.patch.object(edges.opencv(), "__version__", "0"):
            self.assertTrue(is_new())
        with mock.patch.object(edges, "Forest") as create:
            create.return_value.find_edges = edges._gradient_edges
            self.assertTrue(is_new(model_file=forest))
            moved = self.root / "moved"
            moved.write_bytes(b"one")
            self.assertFalse(is_new(model_file=moved))
            forest.write_bytes(b"two")
            self.assertTrue(is_new(model_file=forest))
        Image.open(example.image_path).rotate(9).save(example.image_path)
        self.assertTrue(is_new())

    def test_goes_on_after_a_stop_in_the_middle(self):
        examples = self.drawn_examples(6)
        expected, _ = self.propose(examples, cache_dir=self.root / "other")
        find = edges.edge_boxes
        third, _ = draw(3, height=60, width=80)

        def stopped(image, **settings):
            if np.array_equal(image, third):
                raise KeyboardInterrupt
            return find(image, **settings)

        with mock.patch.object(edges, "edge_boxes", stopped):
            with self.assertRaises(KeyboardInterrupt):
                self.propose(examples, num_workers=1)
        there = self.cached()
        self.assertBetween(len(there), 3, 5)
        found, _ = self.propose(examples)
        for a, b in zip(found, expected, strict=True):
            self.assertAllEqual(a.regions, b.regions)
        self.assertLen(self.cached(), 6)
        self.assertContainsSubset(there.items(), self.cached().items())

    def test_a_failure_to_write_leaves_nothing(self):
        examples = self.drawn_examples(1)

        def fail(file, array):
            file.write(b"some")
            raise OSError("the disk is full")

        with (
            mock.patch.object(np, "save", fail),
            self.assertRaisesRegex(OSError, "the disk is full"),
        ):
            self.propose(examples)
        self.assertEmpty(self.cached())

    def test_a_file_is_whole_on_the_disk_before_it_has_its_name(self):
        calls = mock.Mock()
        with (
            mock.patch.object(finding.os, "fsync", calls.fsync),
            mock.patch.object(finding.os, "replace", calls.replace),
        ):
            self.propose(self.drawn_examples(1))
        self.assertEqual([c[0] for c in calls.mock_calls], ["fsync", "replace"])

    def test_files_have_the_mode_that_others_have(self):
        (example,) = self.drawn_examples(1)
        self.propose([example])
        (path,) = self.cached()
        mode = pathlib.Path(example.image_path).stat().st_mode
        self.assertEqual(path.stat().st_mode, mode)

    def check_is_found_again(self, damage):
        """Damages the file of an image, and looks at what is made of it."""
        examples = self.drawn_examples(1)
        (expected,), _ = self.propose(examples)
        (path,) = self.cached()
        damage(path)
        (again,), printed = self.propose(examples)
        self.assertIn("Regions: 1 images now", printed)
        self.assertAllEqual(again.regions, expected.regions)
        self.assertAllEqual(np.load(path), expected.regions)

    @parameterized.parameters(0, 50, 140)
    def test_a_file_that_a_power_failure_cut_off(self, length):
        self.check_is_found_again(
            lambda path: path.write_bytes(path.read_bytes()[:length])
        )

    @parameterized.parameters((b"\x93NUMPY", b"PK\3\4PK"), (b"}", b"("))
    def test_a_file_with_a_broken_header(self, old, new):
        # NumPy raises neither OSError nor ValueError.
        self.check_is_found_again(
            lambda path: path.write_bytes(path.read_bytes().replace(old, new))
        )

    @parameterized.parameters(
        ([0.0, 0, 1, 1], "float32"),
        ([[0.0, 0, 1, 1]], "float64"),
        ([[0.0, 0, 1]], "float32"),
        ([[0.0, 0, 1, 0]], "float32"),
        ([[0.0, 0, 1, np.nan]], "float32"),
        ([[0.0, 0, 1, np.inf]], "float32"),
        ([[0.0, 0, 1, 1]] * 21, "float32"),
        (0.0, "float32"),
    )
    def test_a_file_that_holds_no_regions(self, content, dtype):
        self.check_is_found_again(
            lambda path: np.save(path, np.array(content, dtype))
        )

    def test_images_that_cannot_be_read(self):
        good = self.drawn_examples(2)
        whole = pathlib.Path(good[0].image_path).read_bytes()
        cut = self.example("cut.png", whole[:-300])
        text = self.example("text.jpg", b"no image")
        gone = dataclasses.replace(text, image_path=str(self.root / "gone.jpg"))
        examples = [good[0], cut, text, good[1], gone]
        for _ in range(2):  # also with a cache
            found, printed = self.propose(examples)
            self.assertEqual(
                [len(e.regions) > 0 for e in found], [1, 0, 0, 1, 0]
            )
            self.assertEqual(found[1].regions.shape, (0, 4))
            self.assertEqual(found[1].regions.dtype, "float32")
            self.assertRegex(
                printed,
                r", 3 cannot be read\n    .*cut.png: not a whole JPEG, PNG or "
                r"WebP image\n    .*text.jpg: of an unknown format; .*\n    "
                r".*gone.jpg: No such file",
            )
        with mock.patch.object(finding, "MAX_NAMED", 1):
            printed = self.propose(examples)[1]
        self.assertEndsWith(printed, "\n    and 2 more\n")
        self.assertNotIn("text.jpg", printed)

    def test_images_that_a_model_refuses(self):
        image = encodings.picture()
        gif = self.example("a.gif", encodings.encoded(image, "GIF"))
        crop = dataclasses.replace(gif, crop=(0, 0, 0.5, 0.5))
        head = self.example("head.jpg", b"\xff\xd8\xff\xd8")
        found, printed = self.propose([gif, crop, head])
        self.assertEqual([len(e.regions) for e in found], [0, 0, 0])
        self.assertRegex(
            printed,
            "3 cannot be read(\n .*a.gif: a GIF; .* are taken){2}\n"
            ".*head.jpg: not a whole JPEG",
        )

    def test_results_do_not_depend_on_the_number_of_workers(self):
        examples = self.drawn_examples(8)
        results = [
            self.propose(examples, num_workers=n, cache_dir=self.root / str(n))
            for n in (1, 2, 5)
        ]
        for found, _ in results[1:]:
            for a, b in zip(found, results[0][0], strict=True):
                self.assertAllEqual(a.regions, b.regions)

    @parameterized.product(
        orientation=(1, 3, 6, 8),
        crop=(None, (0.1, 0.25, 0.62, 0.9), (0.0, 0.999, 0.001, 1.0)),
    )
    def test_sees_the_pixels_that_a_model_sees(self, orientation, crop):
        exif = {"exif": encodings.exif(orientation)}
        # Pillow turns by this too, a model does not.
        xmp = {"xmp": b'<x tiff:Orientation="%d"/>' % orientation}
        for options in (exif, xmp):
            image_bytes = encodings.encoded(encodings.picture(), **options)
            if crop is None:
                expected = preprocess.decode(image_bytes)
            else:
                expected = preprocess.decode_crop(image_bytes, crop)
            with mock.patch.object(edges, "edge_boxes") as find:
                find.return_value = np.zeros((0, 4), "float32"), None
                name = f"{next(iter(options))}.jpg"
                self.propose([self.example(name, image_bytes, crop)])
            (image,) = find.call_args.args
            self.assertAllEqual(image, expected)

    def test_other_methods(self):
        (example,) = self.drawn_examples(1)
        (found,), _ = self.propose([example], method="sliding_windows")
        self.assertAllEqual(
            found.regions, proposals.sliding_windows(num_regions=20)
        )
        own = dataclasses.replace(example, regions=np.eye(4, dtype="float32"))
        (found,), _ = self.propose([own], method="own", num_regions=3)
        self.assertAllEqual(found.regions, np.eye(4)[:3])
        with self.assertRaisesRegex(
            ValueError, "Received: 1 examples without, the first is '0.png'"
        ):
            self.propose([own, example], method="own")
        self.assertEmpty(self.cached())

    def test_default_cache(self):
        examples = self.drawn_examples(1)
        home = str(self.root / "home")
        with mock.patch.dict("os.environ", {"XDG_CACHE_HOME": home}):
            self.propose(examples, cache_dir=None)
        folder = self.root / "home/multilabel_zoo/edge_boxes"
        self.assertLen(list(folder.rglob("*.npy")), 1)

    def test_progress_in_a_file_and_on_a_terminal(self):
        examples = self.drawn_examples(3)
        with mock.patch.object(finding, "PROGRESS_SECONDS", 0):
            printed = self.propose(examples)[1]
        self.assertIn("Regions: 2 of 3\n", printed)
        stream = io.StringIO()
        stream.isatty = lambda: True
        with contextlib.redirect_stdout(stream):
            proposals.propose(examples, num_regions=20, cache_dir=self.cache)
        self.assertIn("3/3", stream.getvalue())


class CommandTest(ProposalsTestCase):
    def run_command(self, *arguments):
        home = {"XDG_CACHE_HOME": str(self.cache)}
        with (
            mock.patch.dict("os.environ", home),
            contextlib.redirect_stdout(io.StringIO()) as printed,
        ):
            command_line.main([str(argument) for argument in arguments])
        return printed.getvalue()

    def manifest(self, column="boxes", label="a "):
        examples = self.drawn_examples(3)
        lines = [f"image,labels,{column}"]
        for example in examples:
            cells = [
                f"{label}ymin={y} xmin={x} ymax={end_y} xmax={end_x}"
                for y, x, end_y, end_x in example.boxes
            ]
            lines.append(f"{example.image_path},a,{'|'.join(cells)}")
        plain = Image.new("RGB", (40, 40))
        self.example("plain.png", encodings.encoded(plain, "PNG"))
        path = self.root / "photos.csv"
        path.write_text("\n".join([*lines, "plain.png,,"]))
        return path

    def test_table(self):
        printed = self.run_command(
            *("manifest", self.manifest(), "--split", "train"),
            *("--num_regions", 200),
        )
        self.assertIn("Regions: 4 images now", printed)
        lines = printed.splitlines()[-5:]
        self.assertEqual(lines[0].split(), "regions IoU 0.5 IoU 0.7".split())
        rows = [line.split() for line in lines[1:4]]
        self.assertEqual([row[0] for row in rows], ["10", "100", "200"])
        self.assertEqual(rows[2], ["200", "1.000", "1.000"])
        self.assertEqual(lines[4], "Recall of 9 boxes")

    def test_recall(self):
        regions = np.float32([[0, 0, 0.5, 1], [0, 0, 0.3, 1], [0, 0, 0, 0]])
        (example,) = self.drawn_examples(1)
        example = dataclasses.replace(
            example,
            regions=regions,
            boxes=np.float32(
                [[0, 0, 1, 1], [0, 0, 0.45, 1], [0, 0, 0.3, 1], [0, 0, 1, 0.6]]
            ),
            box_difficult=np.array([0, 0, 0, 1], bool),
        )
        # Of one example nothing is found.
        none = dataclasses.replace(example, regions=regions[:0])
        self.assertAllClose(
            command_line.recall([example, none], 1), [3 / 6, 1 / 6]
        )
        self.assertAllClose(
            command_line.recall([example, none], 3), [3 / 6, 2 / 6]
        )
        again = dataclasses.replace(example, regions=regions[1:])
        self.assertAllClose(command_line.recall([again], 1), [2 / 3, 1 / 3])

    def test_errors(self):
        path = self.manifest()
        for arguments, message in (
            (("manifest", self.root / "no", "--split", "train"), "no such"),
            (("manifest", path, "--split", "test"), "Received: split='test'"),
            (("manifest", path, "--split", "train", "--nms", 3), "nms=3"),
        ):
            with self.assertRaisesRegex(SystemExit, f"error: .*{message}"):
                self.run_command(*arguments)
        path = self.manifest("regions", label="")
        with self.assertRaisesRegex(SystemExit, "no true box.*manifest train"):
            self.run_command("manifest", path, "--split", "train")
        printed = contextlib.redirect_stderr(io.StringIO())
        with printed as text, self.assertRaises(SystemExit):
            self.run_command("voc2007", "--split", "test")
        self.assertIn("voc2007 needs a data_dir", text.getvalue())

    def test_own_regions_of_a_manifest(self):
        path = self.manifest()
        text = path.read_text().splitlines()
        rows = [f"{text[0]},regions"]
        rows += [
            f"{row},{row.split(',')[2].replace('a ', '')}" for row in text[1:]
        ]
        path.write_text("\n".join(rows))
        printed = self.run_command(
            "manifest", path, "--split", "train", "--method", "own"
        )
        self.assertRegex(printed, r"\n +10 +1.000 +1.000\n")

    @pytest.mark.heavy
    def test_recall_on_photos(self):
        if not MINI.exists():
            self.skipTest("shared/data is not in this checkout")
        examples = voc.read(MINI, "trainval").examples
        found, _ = self.propose(examples, num_regions=1000)
        at_50, at_70 = command_line.recall(found, 1000)
        self.assertGreater(at_50, 0.85)
        self.assertGreater(at_70, 0.70)
