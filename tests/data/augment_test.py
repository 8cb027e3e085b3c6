from unittest import mock

import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo.data import augment


def crops(shape, count=400, **arguments):
    draw = tf.function(
        lambda i: augment.random_crop(shape, tf.stack([7, i]), **arguments)
    )
    return np.stack([draw(tf.constant(i)) for i in range(count)])


class RandomCropTest(tf.test.TestCase):
    def test_stays_inside_and_keeps_the_area(self):
        boxes = crops((100, 150), min_area=0.5, max_ratio=4 / 3)
        self.assertAllInRange(boxes, 0, 1)
        height, width = (boxes[:, 2:] - boxes[:, :2]).T
        area = height * width
        self.assertAllInRange(area, 0.5 - 1e-5, 1)
        self.assertLess(area.min(), 0.55)
        self.assertGreater(area.max(), 0.95)
        ratio = (width * 150) / (height * 100)
        free = (height < 1) & (width < 1)
        self.assertAllInRange(ratio[free], 3 / 4 - 1e-4, 4 / 3 + 1e-4)
        self.assertGreater(free.sum(), 100)
        self.assertLess(free.sum(), 400)

    def test_is_a_function_of_its_seed(self):
        self.assertAllEqual(crops((9, 9), 20), crops((9, 9), 20))
        self.assertLen(np.unique(crops((9, 9), 20), axis=0), 20)

    def test_area_one_is_the_whole_of_a_square(self):
        boxes = crops((50, 50), 20, min_area=1.0, max_ratio=1.0)
        self.assertAllClose(boxes, np.tile([0.0, 0, 1, 1], (20, 1)))


class RandomWindowTest(tf.test.TestCase):
    def test_has_its_side_and_lies_anywhere(self):
        windows = np.stack(
            [augment.random_window(0.75, (7, i)) for i in range(200)]
        )
        self.assertAllClose(
            windows[:, 2:] - windows[:, :2], np.full((200, 2), 0.75)
        )
        self.assertAllInRange(windows, 0, 1)
        for start in windows[:, :2].T:
            self.assertLess(start.min(), 0.02)
            self.assertGreater(start.max(), 0.23)

    def test_side_one_is_the_whole(self):
        self.assertAllEqual(augment.random_window(1.0, (0, 0)), (0, 0, 1, 1))


def reference_mix(images, targets, kept, unknown):
    """Zhang et al. (2018) and Yun et al. (2019), one pixel at a time."""
    size = images.shape[1]
    mixed, new_targets = np.zeros_like(images), np.zeros_like(targets)
    for i, (weight, top, left, bottom, right) in enumerate(kept):
        seen = 0.0
        for y in range(size):
            for x in range(size):
                cut = top <= y < bottom and left <= x < right
                own = 0.0 if cut else weight
                seen += own / size**2
                mixed[i, y, x] = own * images[i, y, x]
                mixed[i, y, x] += (1 - own) * images[i - 1, y, x]
        for k, parts in enumerate(zip(targets[i], targets[i - 1], strict=True)):
            shares = (seen, 1 - seen)
            if unknown == "ignore" and any(
                share > 0 and part < 0
                for share, part in zip(shares, parts, strict=True)
            ):
                new_targets[i, k] = -1
                continue
            new_targets[i, k] = sum(
                share * max(part, 0)
                for share, part in zip(shares, parts, strict=True)
            )
    return mixed, new_targets


class MixTest(parameterized.TestCase, tf.test.TestCase):
    def draws(self, count=400, size=20, **arguments):
        draw = tf.function(
            lambda i: augment.draw_mix(size, tf.stack([7, i]), **arguments)
        )
        return np.stack([draw(tf.constant(i)) for i in range(count)])

    @parameterized.parameters(0.01, 0.2, 1.0, 5.0)
    def test_weights_are_drawn_from_beta(self, alpha):
        weights, *window = self.draws(mixup=alpha).T
        self.assertAllEqual(window, np.zeros_like(window))
        self.assertAllInRange(weights, 0, 1)
        variance = 1 / (4 * (2 * alpha + 1))
        error = np.sqrt(variance / 400)
        self.assertAllClose(weights.mean(), 0.5, atol=4 * error)
        self.assertAllClose(weights.var(), variance, rtol=0.2)

    def test_windows_are_whole_pixels_of_the_drawn_area(self):
        weights, top, left, bottom, right = self.draws(cutmix=1.0, size=50).T
        self.assertAllEqual(weights, np.ones(400))
        for start, end in ((top, bottom), (left, right)):
            self.assertAllEqual(start, np.round(start))
            self.assertAllInRange(start, 0, 50)
            self.assertAllInRange(end, 0, 50)
            # They reach all edges.
            self.assertEqual((start.min(), end.max()), (0, 50))
        height, width = bottom - top, right - left
        self.assertAllInRange(height - width, -1, 1)  # rounding
        share = 1 - height * width / 50**2
        self.assertAllClose(share.mean(), 0.5, atol=0.06)
        self.assertAllClose(share.var(), 1 / 12, rtol=0.2)

    def test_half_of_the_images_get_either(self):
        drawn = self.draws(mixup=0.5, cutmix=1.0)
        is_cut = drawn[:, 0] == 1
        self.assertAllEqual(drawn[~is_cut, 1:], np.zeros(((~is_cut).sum(), 4)))
        self.assertBetween(is_cut.mean(), 0.4, 0.6)

    def test_is_a_function_of_its_seed(self):
        for alphas in ({"mixup": 0.5}, {"cutmix": 1.0}):
            drawn = self.draws(20, **alphas)
            self.assertAllEqual(drawn, self.draws(20, **alphas))
            self.assertGreater(len(np.unique(drawn, axis=0)), 15)

    @parameterized.parameters("absent", "ignore")
    def test_matches_reference(self, unknown):
        rng = np.random.default_rng(0)
        images = rng.uniform(0, 255, (6, 4, 4, 3)).astype("float32")
        targets = rng.integers(-1, 2, (6, 30)).astype("float32")
        kept = np.float32(
            [
                [0.3, 0, 0, 0, 0],
                [1, 0, 1, 2, 4],
                [1, 0, 0, 4, 4],  # nothing is left of it
                [1, 2, 2, 2, 2],  # it stays as it is
                [0, 0, 0, 0, 0],
                [0.9, 1, 1, 3, 4],
            ]
        )
        expected = reference_mix(images, targets, kept, unknown)
        found = augment.mix(images, targets, kept, unknown)
        self.assertAllClose(found[0], expected[0], rtol=0, atol=1e-4)
        self.assertAllClose(found[1], expected[1], rtol=0, atol=1e-6)
        # Whole labels stay whole, so that they are told from mixed ones.
        self.assertAllEqual(found[1] == 1, expected[1] > 1 - 1e-6)
        if unknown == "ignore":
            self.assertAllEqual(found[1][2], targets[1])
            self.assertAllEqual(found[1][3], targets[3])

    @parameterized.parameters((0.0, 0.0), (-1.0, 1.0))
    def test_names_bad_numbers(self, mixup, cutmix):
        with self.assertRaisesRegex(
            ValueError, f"Received: mixup={mixup}, cutmix={cutmix}"
        ):
            augment.draw_mix(8, (0, 0), mixup, cutmix)


class RandomFlipTest(tf.test.TestCase):
    def test_mirrors_half_of_the_images(self):
        image = np.random.default_rng(0).normal(size=(4, 6, 3))
        flipped = 0
        for i in range(200):
            result, view = augment.random_flip(image, (0, i))
            if (result.numpy() == image[:, ::-1]).all():
                flipped += 1
                self.assertAllEqual(view, (0, 1, 1, 0))
            else:
                self.assertAllEqual(result, image)
                self.assertAllEqual(view, (0, 0, 1, 1))
        self.assertBetween(flipped, 70, 130)


class RandomShiftTest(tf.test.TestCase):
    def test_moves_by_whole_pixels_in_every_direction(self):
        image = np.random.default_rng(0).normal(size=(9, 12, 3))
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
        seen = set()
        for i in range(200):
            moved, view = augment.random_shift(image, (0, i), 2)
            places = [
                (y, x)
                for y in range(5)
                for x in range(5)
                if (moved == padded[y : y + 9, x : x + 12]).numpy().all()
            ]
            self.assertLen(places, 1)
            seen.update(places)
            top, left = np.subtract(places[0], 2)
            pixels = (top, left, top + 9, left + 12)
            self.assertAllClose(view, np.divide(pixels, (9, 12, 9, 12)))
        self.assertLen(seen, 25)

    def test_zero_leaves_the_image(self):
        image = np.random.default_rng(0).normal(size=(9, 12, 3))
        moved, view = augment.random_shift(image, (0, 0), 0)
        self.assertAllEqual(moved, image)
        self.assertAllEqual(view, (0, 0, 1, 1))


class RegionsInViewsTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.named_parameters(
        ("whole", (0, 0, 1, 1), (0.2, 0.4, 0.6, 0.8)),
        ("part", (0.1, 0.2, 0.9, 1.0), (0.125, 0.25, 0.625, 0.75)),
        ("clipped", (0.3, 0.5, 0.7, 0.9), (0, 0, 0.75, 0.75)),
        ("a_sliver", (0.55, 0.0, 1.0, 1.0), (0, 0, 0, 0)),
        ("mirrored", (0, 1, 1, 0), (0.2, 0.2, 0.6, 0.6)),
        ("mirrored_part", (0.3, 1.0, 0.8, 0.6), (0, 0.5, 0.6, 1)),
        ("beyond", (-0.1, 0.1, 0.9, 1.1), (0.3, 0.3, 0.7, 0.7)),
        ("above_it", (0.6, 0, 1, 1), (0, 0, 0, 0)),  # they share an edge
        ("left_of_it", (0, 0.9, 1, 1), (0, 0, 0, 0)),
    )
    def test_moves_a_region(self, view, expected):
        padding = np.zeros((2, 4))
        regions = np.float32([[0.2, 0.4, 0.6, 0.8], *padding])
        moved = augment.regions_in_views(regions, [view])
        self.assertEqual(moved.dtype, "float32")
        self.assertAllClose(moved, [expected, *padding])
        # Padding is told by its zeros, so almost zero will not do.
        zeros = np.all(np.equal([expected, *padding], 0), axis=1)
        self.assertAllEqual(np.all(moved.numpy() == 0, axis=1), zeros)

    @parameterized.parameters(
        # What is kept of the region's height, by one view after the other.
        ((0.0, 0.24), (0, 1), False),
        ((0.0, 0.26), (0, 1), True),
        ((0.0, 0.5), (0, 0.6), True),
        ((0.0, 0.5), (0, 0.4), False),  # of 0.5, so 0.2 of the region
        ((0.5, 0.0), (1, 0.4), True),  # mirrored twice
        ((0.5, 0.0), (1, 0.6), False),
    )
    def test_drops_slivers(self, first, second, is_kept):
        regions = np.float32([[0, 0.2, 1, 0.6]])
        views = [(y[0], 0.0, y[1], 1.0) for y in (first, second)]
        moved = augment.regions_in_views(regions, views)
        self.assertAllClose(moved, [[0, 0.2, 1, 0.6]] if is_kept else [[0] * 4])

    def test_takes_no_region(self):
        none = np.zeros((0, 4), "float32")
        self.assertAllEqual(
            augment.regions_in_views(none, [(0, 0, 0.5, 0.5)]), none
        )


def photo(seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (4, 4, 3)).astype("float32")
    coarse[0, 0], coarse[3, 3] = 0, 255
    return tf.image.resize(coarse, (32, 32))


class RandAugmentTest(tf.test.TestCase):
    def draw(self, count, num_ops, strength=0.3):
        change = augment.RandAugment(num_ops, strength)
        draw = tf.function(lambda i: change(photo(), tf.stack([7, i])))
        return np.stack([draw(tf.constant(i)) for i in range(count)])

    def test_is_a_function_of_the_seed_alone(self):
        change = augment.RandAugment(num_ops=2)

        def draw(order):
            dataset = tf.data.Dataset.from_tensor_slices(order).map(
                lambda i: change(photo(), tf.stack([7, i])),
                num_parallel_calls=2,
            )
            return list(dataset.as_numpy_iterator())

        first, second = draw([0, 1, 2, 3]), draw([3, 2, 1, 0])
        self.assertAllEqual(first, second[::-1])
        self.assertNotAllClose(first[0], first[1])

    def test_stays_in_range_and_uses_every_operation(self):
        images = self.draw(150, num_ops=1)
        self.assertEqual(images.shape, (150, 32, 32, 3))
        self.assertAllInRange(images, 0, 255)
        change = augment.RandAugment(1)
        self.assertLen(change.layers, 11)
        chosen = set()

        def note(index, branches):
            chosen.add(int(index))
            return branches[0]()

        with mock.patch.object(augment.tf, "switch_case", note):
            for i in range(100):
                change(photo(), (7, i))
        self.assertEqual(chosen, set(range(11)))

    def one(self, name, strength=0.3, count=20, image=None):
        """Gives what one operation alone makes of an image, by many seeds."""
        image = photo() if image is None else image
        change = augment.RandAugment(1, strength)
        (layer,) = (x for x in change.layers if type(x).__name__ == name)
        with mock.patch.object(change, "layers", [layer]):
            return np.stack([change(image, (7, i)) for i in range(count)])

    def test_each_operation_changes_the_image(self):
        dull = photo() / 2 + 60
        for layer in augment.RandAugment(1).layers:
            name = type(layer).__name__
            changed = np.abs(self.one(name, 0.6, 4, dull) - dull).mean()
            self.assertBetween(changed, 0.5, 90, name)

    def test_strength_limits_the_colours(self):
        image = np.asarray(photo())
        with self.subTest("brightness"):
            differences = self.one("RandomBrightness", 0.2) - image
            inside = (image > 60) & (image < 190)
            self.assertAllInRange(differences[:, inside], -51.1, 51.1)
            self.assertLess(differences[:, inside].min(), -30)
            self.assertGreater(differences[:, inside].max(), 30)
        with self.subTest("posterization"):  # 7 - 8: 1 bit less at the most
            for strength, bits in ((0.3, 7), (0.5, 6), (1.0, 4)):
                levels = [
                    np.unique(result).size
                    for result in self.one("RandomPosterization", strength)
                ]
                self.assertLessEqual(max(levels), 2**7)
                steps = np.diff(
                    np.unique(self.one("RandomPosterization", strength))
                )
                self.assertGreaterEqual(steps.min(), 1)
                error = image - self.one("RandomPosterization", strength)
                self.assertAllInRange(error, -0.5, 2 ** (8 - bits))
                self.assertGreater(error.max(), 2 ** (8 - bits) - 2)
        with self.subTest("solarization"):
            for strength in (0.1, 0.6):
                results = self.one("_Solarization", strength)
                threshold = 255 * (1 - strength)
                dark = image < threshold
                self.assertAllClose(
                    results[:, dark],
                    np.broadcast_to(image[dark], results[:, dark].shape),
                )
                self.assertNotAllClose(results, np.stack([image] * 20))

    def test_more_strength_changes_more(self):
        weak, strong = (
            np.abs(self.draw(60, 2, strength) - photo()).mean()
            for strength in (0.05, 0.6)
        )
        self.assertLess(weak, strong)
