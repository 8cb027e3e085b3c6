import numpy as np
import tensorflow as tf
from absl.testing import parameterized

from zoo.data import drawing

OBJECTS = (
    drawing.ball,
    drawing.bird,
    drawing.boat,
    drawing.car,
    drawing.cloud,
    drawing.fish,
    drawing.flower,
    drawing.house,
    drawing.kite,
    drawing.lamp,
    drawing.moon,
    drawing.person,
    drawing.star,
    drawing.sun,
    drawing.tree,
    drawing.umbrella,
)
MAIN, ACCENT = (210, 40, 60), (40, 90, 200)


def tile(draw, seed, side=60, main=MAIN, accent=ACCENT, **how):
    sketch = drawing.Sketch()
    draw(sketch, np.random.default_rng(seed), main, accent)
    return np.asarray(drawing.render(sketch, side=side, **how)).astype(int)


class ObjectsTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.named_parameters(
        (draw.__name__, draw) for draw in (*OBJECTS, drawing.part)
    )
    def test_every_variant_fills_its_tile(self, draw):
        for seed in range(12):
            for side in (17, 77):
                alpha = tile(draw, seed, side, angle=seed)[..., 3]
                self.assertEqual(max(alpha.shape), side)
                self.assertGreater(alpha.max(), 200)
                # A corner of a polygon may be thinner than a pixel.
                border = [alpha[:2], alpha[-2:], alpha[:, :2], alpha[:, -2:]]
                self.assertTrue(all(edge.max() > 20 for edge in border))

    @parameterized.named_parameters((draw.__name__, draw) for draw in OBJECTS)
    def test_both_colours_show(self, draw):
        for changed in ({"main": (0, 255, 0)}, {"accent": (0, 255, 0)}):
            shares = []
            for seed in range(6):
                plain, other = tile(draw, seed), tile(draw, seed, **changed)
                self.assertAllEqual(other[..., 3], plain[..., 3])
                shares.append((np.abs(other - plain).max(-1) > 20).mean())
            # Not in every variant: a dress covers the trousers.
            self.assertGreater(max(shares), 0.005)

    def test_no_two_classes_look_the_same(self):
        tiles = [np.resize(tile(draw, 0)[..., 3], 1200) for draw in OBJECTS]
        for i, one in enumerate(tiles):
            for other in tiles[:i]:
                self.assertGreater(np.abs(one - other).mean(), 20)


class RenderTest(tf.test.TestCase):
    def flag(self):
        """Gives a bar, 2 wide and 1 high, whose left half is red."""
        sketch = drawing.Sketch()
        sketch.box(0, 0, 2, 1, (0, 0, 255))
        sketch.box(0, 0, 1, 1, (255, 0, 0))
        return sketch

    def test_scale(self):
        picture = drawing.render(self.flag(), side=40)
        self.assertEqual((picture.mode, picture.size), ("RGBA", (40, 20)))
        self.assertAllEqual(np.asarray(picture)[..., 3], np.full((20, 40), 255))

    def test_flip_and_half_turn_put_red_on_the_right(self):
        plain = drawing.render(self.flag(), side=40)
        self.assertEqual(plain.getpixel((5, 10)), (255, 0, 0, 255))
        for how in ({"flip": True}, {"angle": 180}):
            picture = drawing.render(self.flag(), side=40, **how)
            self.assertEqual(picture.size, (40, 20))
            self.assertEqual(picture.getpixel((35, 10)), (255, 0, 0, 255))
            self.assertEqual(picture.getpixel((5, 10)), (0, 0, 255, 255))

    def test_turns_clockwise(self):
        picture = drawing.render(self.flag(), side=40, angle=90)
        self.assertEqual(picture.size, (20, 40))
        self.assertEqual(picture.getpixel((10, 5)), (255, 0, 0, 255))

    def test_stretch_widens(self):
        picture = drawing.render(self.flag(), side=40, stretch=0.25)
        self.assertEqual(picture.size, (20, 40))

    def test_edges_are_smooth_and_keep_their_colour(self):
        sketch = drawing.Sketch()
        sketch.ellipse(0, 0, 1, 1, (250, 200, 0))
        picture = np.asarray(drawing.render(sketch, side=30)).astype(int)
        alpha = picture[..., 3]
        self.assertGreater(np.count_nonzero((alpha > 0) & (alpha < 255)), 40)
        self.assertAllClose(np.mean(alpha) / 255, np.pi / 4, atol=0.02)
        edge = picture[(alpha > 50) & (alpha < 255)][:, :3]
        self.assertAllClose(
            edge, np.broadcast_to((250, 200, 0), edge.shape), atol=6
        )

    def test_thin_things_keep_a_pixel(self):
        sketch = drawing.Sketch()
        sketch.stroke([(0, 0), (1, 0)], 0.001, MAIN)
        self.assertEqual(drawing.render(sketch, side=10).size, (10, 1))


class SketchTest(tf.test.TestCase):
    def test_stroke_joins_its_segments(self):
        sketch = drawing.Sketch()
        sketch.stroke([(0, 0), (1, 0), (1, 1)], 0.2, MAIN)
        first, second = (points for points, _ in sketch.polygons)
        self.assertAllClose(first.min(axis=0), (-0.1, -0.1))
        self.assertAllClose(first.max(axis=0), (1.1, 0.1))
        self.assertAllClose(second.min(axis=0), (0.9, -0.1))
        self.assertAllClose(second.max(axis=0), (1.1, 1.1))

    def test_arc_runs_clockwise_on_the_screen(self):
        points = drawing.arc(5, 5, 2, 1, 0, 90)
        self.assertAllClose(points[0], (7, 5))
        self.assertAllClose(points[-1], (5, 6))
        self.assertAllClose(
            (((points - 5) / (2, 1)) ** 2).sum(axis=1), [1.0] * len(points)
        )

    def test_shade_stays_a_colour(self):
        self.assertEqual(drawing.shade((100, 200, 40), 1.5), (150, 255, 60))


class BackgroundTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters("street", "garden", "sea", "sky", "night")
    def test_fills_the_image(self, scene):
        pictures = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            picture = drawing.background(rng, scene, size=64)
            self.assertEqual((picture.mode, picture.size), ("RGB", (64, 64)))
            pictures.append(np.asarray(picture).astype(int))
            self.assertGreater(pictures[-1].std(), 2)
        self.assertGreater(np.abs(pictures[0] - pictures[1]).mean(), 2)

    def test_night_is_dark(self):
        mean = {
            scene: np.mean(
                [
                    drawing.background(np.random.default_rng(seed), scene, 64)
                    for seed in range(4)
                ]
            )
            for scene in ("night", "sky")
        }
        self.assertLess(mean["night"], 0.6 * mean["sky"])
