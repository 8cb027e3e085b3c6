import math

import keras
import numpy as np
import tensorflow as tf
from absl.testing import parameterized
from keras import ops

from tests.contract import check_layer
from zoo.layers import RecurrentAttention

K, T, SIZE = 5, 3, 3  # classes, steps, rows and columns of a crop
SCALES, RATIOS = (0.3, 0.7), (2.0, 1.0, 0.5)
REGIONS = np.array(  # two images, as `locations="given"` takes them
    [
        [[0.1, 0.2, 0.6, 0.9], [0, 0, 0, 0], [0.5, 0, 1, 0.3]],
        [[0, 0, 0, 0], [0.3, 0.3, 0.4, 0.8], [0, 0, 0, 0]],
    ],
    "float32",
)


def build(num_classes=K, **options):
    keras.utils.set_random_seed(0)
    layer = RecurrentAttention(
        num_classes,
        T,
        SCALES,
        RATIOS,
        units=6,
        size=SIZE,
        **{"seed": 0, **options},
    )
    regions = (2, T, 4) if layer.locations == "given" else None
    layer.build((2, 5, 6, 4), regions)
    for weight in layer.weights:  # far from what the initializers give
        weight.assign(keras.random.normal(weight.shape) * 0.5)
    return layer


def features(num_images=2):
    rng = np.random.default_rng(0)
    return rng.normal(size=(num_images, 5, 6, 4)).astype("float32")


def answer(layer, *inputs, **options):
    """Gives what the layer says, as NumPy arrays."""
    outputs = layer(*inputs, **options)
    return {key: ops.convert_to_numpy(x) for key, x in outputs.items()}


def crop(image, region):
    """Samples `(height, width, channels)` bilinearly at a grid of points."""
    ymin, xmin, ymax, xmax = region
    height, width, channels = image.shape
    points = np.zeros((SIZE, SIZE, channels))
    for i in range(SIZE):
        for j in range(SIZE):
            y = (ymin + i * (ymax - ymin) / (SIZE - 1)) * (height - 1)
            x = (xmin + j * (xmax - xmin) / (SIZE - 1)) * (width - 1)
            for row in range(height):
                for column in range(width):
                    share = max(0, 1 - abs(y - row)) * max(
                        0, 1 - abs(x - column)
                    )
                    points[i, j] += share * image[row, column]
    return points


def anchors(place):
    """Lays the regions around a place, y and x from -1 to 1."""
    y, x = np.clip((np.asarray(place, "float64") + 1) / 2, 0, 1)
    regions = []
    for scale in SCALES:
        for ratio in RATIOS:
            height, width = scale * np.sqrt(ratio), scale / np.sqrt(ratio)
            corners = (
                *(y - height / 2, x - width / 2),
                *(y + height / 2, x + width / 2),
            )
            regions.append(np.clip(corners, 0, 1))
    return np.array(regions)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(image, layer, places=None, regions=None):
    """Chen et al. (2018), eqs. (1) to (4), one region at a time.

    Args:
        image: array `(height, width, channels)`, the features of one image.
        layer: `RecurrentAttention`, for its weights.
        places: array `(T, 2)` of where to look, `None` for the means.
        regions: array `(T, 4)`, given ones.

    Returns:
        dict of what the layer gives of an episode.
    """
    weights = {
        "/".join(weight.path.split("/")[-2:]): ops.convert_to_numpy(weight)
        for weight in layer.weights
    }

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def step(around, h, c):
        scores, seen, hidden, carries = [], [], [], []
        for region in around:
            f = np.maximum(dense(crop(image, region).ravel(), "represent"), 0)
            h_r, c_r = h, c
            if "cell/kernel" in weights:
                gates = (
                    f @ weights["cell/kernel"]
                    + h @ weights["cell/recurrent_kernel"]
                    + weights["cell/bias"]
                )
                i, forget, g, o = np.split(gates, 4)
                c_r = sigmoid(forget) * c + sigmoid(i) * np.tanh(g)
                h_r = sigmoid(o) * np.tanh(c_r)
            scores.append(
                dense(h_r if layer.lstm == "both" else f, "classifier")
            )
            seen.append(f if layer.lstm == "none" else h_r)
            hidden.append(h_r)
            carries.append(c_r)
        mean = [np.mean(x, axis=0) for x in (seen, hidden, carries)]
        return np.array(scores), *mean

    zeros = np.zeros(layer.units)
    _, seen, h, c = step([(0, 0, 1, 1)], zeros, zeros)
    found = {"region_scores": [], "regions": []}
    if layer.locations == "learned":
        found |= {"means": [], "baselines": []}
    for t in range(T):
        if regions is not None:
            around = regions[t : t + 1] if regions[t].any() else [(0, 0, 1, 1)]
        else:
            place = None if places is None else places[t]
            if layer.locations == "learned":
                mean = np.tanh(dense(seen, "locator"))
                found["means"].append(mean)
                found["baselines"].append(dense(seen, "baseline")[0])
                place = mean if place is None else place
            around = anchors(place)
        scores, seen, h, c = step(around, h, c)
        found["region_scores"].append(scores)
        found["regions"].append(around)
    found["scores"] = np.max(found["region_scores"], axis=(0, 1))
    return found


def normal(x):
    """Gives the share of a standard normal distribution below x."""
    return (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def follows(sample, distribution):
    """Tells whether a sample may come from a distribution (Kolmogorov)."""
    x, n = np.sort(sample), len(sample)
    below = distribution(x)
    steps = np.arange(n + 1) / n
    distance = max((steps[1:] - below).max(), (below - steps[:-1]).max())
    return distance < 1.95 / math.sqrt(n)  # chance exceeds it once in 1,000


class RecurrentAttentionTest(parameterized.TestCase, tf.test.TestCase):
    def assert_matches(self, outputs, expected, image, episode=0):
        self.assertEqual(set(outputs) - {"drawn"}, set(expected))
        for key, value in expected.items():
            self.assertAllClose(
                outputs[key][image, episode], value, 1e-3, 1e-3, msg=key
            )

    @parameterized.parameters(
        {"lstm": "both", "deviation": 0.2},
        {"lstm": "none", "locations": "random"},
    )
    def test_contract(self, **options):
        layer = RecurrentAttention(
            4,
            num_steps=1,
            scales=(0.3, 0.8),
            ratios=(1.0, 0.5),
            units=3,
            size=2,
            seed=1,
            **options,
        )
        check_layer(layer, (2, 5, 6, 3), self.get_temp_dir())

    @parameterized.product(
        lstm=("both", "location", "none"),
        locations=("learned", "random", "given"),
    )
    def test_matches_paper(self, lstm, locations):
        layer = build(lstm=lstm, locations=locations)
        given = (REGIONS,) if locations == "given" else ()
        outputs = answer(layer, features(), *given)
        for b, image in enumerate(features()):
            expected = reference(
                image,
                layer,
                layer.fixed_places if locations == "random" else None,
                REGIONS[b] if given else None,
            )
            self.assert_matches(outputs, expected, b)
        if locations == "learned":  # and there is something to choose
            self.assertGreater(np.ptp(outputs["means"], axis=0).min(), 1e-3)
            self.assertAllEqual(outputs["drawn"], outputs["means"])

    def test_episodes_look_where_they_drew(self):
        layer = build(episodes=3)
        outputs = answer(layer, features(), training=True)
        for b, image in enumerate(features()):
            for e in range(3):
                expected = reference(image, layer, outputs["drawn"][b, e])
                self.assert_matches(outputs, expected, b, e)
        drawn = outputs["drawn"].reshape(2 * 3 * T, 2)
        self.assertLen(np.unique(drawn, axis=0), len(drawn))
        # The first place follows from the image alone.
        first = outputs["means"][:, :, 0]
        self.assertAllEqual(first, np.repeat(first[:, :1], 3, axis=1))
        self.assertNotAllClose(first[0], first[1])

    @parameterized.parameters(0.11, 0.3)
    def test_draws_around_the_mean(self, deviation):
        layer = build(deviation=deviation, episodes=2)
        same = np.repeat(features(1), 500, axis=0)
        outputs = answer(layer, same, training=True)
        for t in range(T):
            away = (outputs["drawn"] - outputs["means"])[:, :, t]
            away = away.reshape(-1, 2) / deviation
            for coordinate in away.T:
                self.assertTrue(follows(coordinate, normal))
            self.assertLess(abs(np.corrcoef(away.T)[0, 1]), 0.1)
        again = answer(layer, same, training=True)["drawn"]
        self.assertNotAllClose(again, outputs["drawn"])

    def test_random_places_cover_the_image(self):
        layer = build(locations="random", episodes=2)
        same = np.repeat(features(1), 250, axis=0)
        regions = answer(layer, same, training=True)["regions"]
        self.assertEqual(regions.shape, (250, 2, T, 6, 4))
        # The first anchor is clipped on no side within this part.
        y, x = regions[:, :, :, 0, :2].reshape(-1, 2).T
        for places in (y, x):
            self.assertLen(np.unique(places[places > 0]), (places > 0).sum())
        height = SCALES[0] * np.sqrt(RATIOS[0])
        inside = y[(y > 0) & (y < 1 - height)] / (1 - height)
        self.assertTrue(follows(inside, lambda x: x))

    @parameterized.parameters("learned", "random", "given")
    def test_evaluation_is_of_one_image_and_always_the_same(self, locations):
        layer = build(locations=locations, episodes=4)
        inputs = [features()] + [REGIONS] * (locations == "given")
        together = answer(layer, *inputs)
        self.assertEqual(together["scores"].shape, (2, 1, K))
        for b in range(2):
            alone = answer(layer, *(x[b : b + 1] for x in inputs))
            for key, value in alone.items():
                self.assertAllClose(value[0], together[key][b], msg=key)

    @parameterized.parameters("learned", "random", "given")
    def test_outputs_are_what_the_graph_says(self, locations):
        for policy in ("float32", "mixed_float16"):
            layer = build(locations=locations, episodes=2, dtype=policy)
            shapes = [(5, 6, 4)] + [(T, 4)] * (locations == "given")
            inputs = [keras.Input(shape) for shape in shapes]
            arrays = [features(), REGIONS][: len(inputs)]
            for training in (False, True):
                declared = layer(*inputs, training=training)
                outputs = layer(*arrays, training=training)
                self.assertEqual(set(outputs), set(declared))
                for key, value in outputs.items():
                    self.assertEqual(value.dtype, declared[key].dtype, key)
                    self.assertEqual(value.dtype, "float32", key)
                    self.assertEqual(value.shape[1:], declared[key].shape[1:])

    def test_given_regions_keep_their_precision(self):
        exact = np.full((2, T, 4), [0.1234567, 0.1, 0.8765432, 0.9], "float32")
        layer = build(locations="given", dtype="mixed_bfloat16")
        regions = answer(layer, features(), exact)["regions"]
        self.assertAllEqual(regions[:, 0, :, 0], exact)

    def test_zero_rows_stand_for_the_whole_image(self):
        layer = build(locations="given")
        whole = np.where(REGIONS.any(-1, keepdims=True), REGIONS, [0, 0, 1, 1])
        outputs = answer(layer, features(), REGIONS)
        expected = answer(layer, features(), whole.astype("float32"))
        for key, value in expected.items():
            self.assertAllEqual(outputs[key], value, msg=key)

    @parameterized.parameters(7, None)
    def test_a_saved_file_keeps_the_random_places(self, seed):
        layer = build(locations="random", seed=seed)
        image = keras.Input((5, 6, 4))
        model = keras.Model(image, layer(image))
        path = f"{self.get_temp_dir()}/model.keras"
        model.save(path)
        loaded = keras.saving.load_model(path)
        for key, value in answer(loaded, features()).items():
            self.assertAllEqual(value, answer(model, features())[key], msg=key)
        other = build(locations="random", seed=8)
        self.assertNotAllClose(other.fixed_places, layer.fixed_places)
        self.assertAllInRange(layer.fixed_places, -1, 1)

    @parameterized.parameters("both", "location", "none")
    def test_scores_teach_no_locator(self, lstm):
        layer = build(lstm=lstm)
        learns = {
            "scores": {"represent", "classifier"},
            "means": {"represent", "locator"},
            "baselines": {"baseline"},
            "drawn": set(),
            "regions": set(),
        }
        if lstm == "both":
            learns["scores"].add("cell")
        if lstm != "none":
            learns["means"].add("cell")
        x = tf.constant(features())
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            outputs = layer(x, training=True)
            losses = {key: tf.reduce_sum(outputs[key]) for key in learns}
        variables = layer.trainable_variables
        for key, expected in learns.items():
            of_x, *found = tape.gradient(
                losses[key], [x, *(v.value for v in variables)]
            )
            reached = {
                v.path.split("/")[-2]
                for v, g in zip(variables, found, strict=True)
                if g is not None and np.abs(g).max() > 0
            }
            self.assertEqual(reached, expected, key)
            self.assertEqual(of_x is not None, "represent" in expected, key)

    @parameterized.parameters(
        ({"num_classes": 0}, "num_classes=0"),
        ({"num_steps": 0}, "num_steps=0"),
        ({"units": 0}, "units=0"),
        ({"size": 0}, "size=0"),
        ({"episodes": 0}, "episodes=0"),
        ({"lstm": "all"}, "lstm='all'"),
        ({"locations": "best"}, "locations='best'"),
        ({"deviation": 0}, "deviation=0"),
        ({"scales": (0.5, 0)}, "scales="),
        ({"ratios": ()}, "ratios="),
    )
    def test_names_a_bad_argument(self, arguments, received):
        with self.assertRaisesRegex(ValueError, f"Received: .*{received}"):
            RecurrentAttention(**{"num_classes": 2, **arguments})

    @parameterized.parameters(
        ("learned", (2, 5, 4), None, r"features_shape=\(2, 5, 4\)"),
        ("learned", (2, 5, 6, None), None, "features_shape="),
        ("learned", (2, 5, 6, 4), (2, 2, 4), "locations='learned'"),
        ("given", (2, 5, 6, 4), None, "regions_shape=None"),
        ("given", (2, 5, 6, 4), (2, 3, 5), "locations='given', regions_shape="),
    )
    def test_names_bad_shapes(self, locations, features, regions, received):
        layer = RecurrentAttention(4, 2, locations=locations)
        inputs = [keras.Input(batch_shape=features)]
        if regions:
            inputs.append(keras.Input(batch_shape=regions))
        with self.assertRaisesRegex(ValueError, f"Received: .*{received}"):
            layer(*inputs)
