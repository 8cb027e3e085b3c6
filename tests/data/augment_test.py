import numpy as np
import tensorflow as tf

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


class RandomFlipTest(tf.test.TestCase):
    def test_mirrors_half_of_the_images(self):
        image = np.random.default_rng(0).normal(size=(4, 6, 3))
        flipped = 0
        for i in range(200):
            result = augment.random_flip(image, (0, i)).numpy()
            if (result == image[:, ::-1]).all():
                flipped += 1
            else:
                self.assertAllEqual(result, image)
        self.assertBetween(flipped, 70, 130)


class RandomShiftTest(tf.test.TestCase):
    def test_moves_by_whole_pixels_in_every_direction(self):
        image = np.random.default_rng(0).normal(size=(9, 12, 3))
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
        seen = set()
        for i in range(200):
            moved = augment.random_shift(image, (0, i), 2).numpy()
            places = [
                (y, x)
                for y in range(5)
                for x in range(5)
                if (moved == padded[y : y + 9, x : x + 12]).all()
            ]
            self.assertLen(places, 1)
            seen.update(places)
        self.assertLen(seen, 25)

    def test_zero_leaves_the_image(self):
        image = np.random.default_rng(0).normal(size=(9, 12, 3))
        self.assertAllEqual(augment.random_shift(image, (0, 0), 0), image)
