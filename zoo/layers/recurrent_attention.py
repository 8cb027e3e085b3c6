"""The recurrent module of RARL: look at regions, score them, look elsewhere."""

import random

import keras
import numpy as np
from keras import ops

from zoo.layers.region_anchors import RegionAnchors
from zoo.layers.roi_crop_and_resize import RoiCropAndResize

LSTMS = ("both", "location", "none")
LOCATIONS = ("learned", "random", "given")


@keras.saving.register_keras_serializable(package="zoo")
class RecurrentAttention(keras.layers.Layer):
    """Scores the classes at one place of the image after another.

    Step 0 sees the whole image, and only chooses the first place. Every later
    step sees some regions around its place and scores the classes in each; one
    LSTM cell reads them all from the same state, and the mean of what it makes
    of them is the new state, which chooses the next place. In training places
    are drawn around the chosen ones, so that a policy can be learnt; otherwise
    they are the chosen ones. Replicas of one step draw alike, each around the
    places of its own images.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1712.07465, eqs.
    (1) to (4), for features `V`, `k` regions `R[t, r]` around `l[t]`, and the
    fixed size to which a region's features are brought, `crop`:

        f[t, r]          = relu(W_f crop(V, R[t, r]) + b_f)
        h[t, r], c[t, r] = LSTM(f[t, r], h[t-1], c[t-1])
        a[t, r]          = W_cls h[t, r] + b_cls
        h[t], c[t]       = mean_r h[t, r], mean_r c[t, r]
        m[t+1]           = tanh(W_loc h[t] + b_loc)
        l[t+1]           ~ Normal(m[t+1], deviation)
        a                = max_{t, r} a[t, r]

    and, for the training, a guess at the reward to come (Mnih et al., 2014),
    which learns without changing `h`:

        b[t+1] = W_b h[t] + b_b

    Args:
        num_classes: int. Number of classes, at least 1.
        num_steps: int. Places to look at, the paper's T, at least 1.
        scales: sequence of float above 0. Sides of the regions, as shares of
            the image's.
        ratios: sequence of float above 0. Their heights over widths.
        units: int. Size of `f` and of the hidden state, at least 1.
        size: int. Rows and columns that a region is brought to, at least 1.
        lstm: str. `"both"`: the hidden state scores and locates. `"location"`:
            regions are scored by `f` (Table 4, B). `"none"`: there is no LSTM,
            `f` scores and locates (Table 4, A).
        locations: str. `"learned"`; `"random"`: anywhere, in training anew for
            each image, otherwise the same places for all images (Table 3);
            `"given"`: a step has one region, which is an input (Table 3).
        deviation: float above 0. Of the places that are drawn, where the
            image reaches from -1 to 1.
        episodes: int. How many times places are drawn for an image in
            training, eq. (8)'s M, at least 1.
        seed: int or `None`. Of what is drawn.

    Call arguments:
        features: Float tensor of shape `(batch, height, width, channels)`.
        regions: with `locations="given"`, float tensor of shape `(batch,
            num_regions, 4)`: ymin xmin ymax xmax, 0 to 1 of the image, of
            which a step takes one. A row of zeros, or a missing one, stands
            for the whole image.

    Returns:
        A dict of float32 tensors, where `E` is `episodes` in training, else 1,
        and `k` the number of regions around a place: `scores`, `(batch, E,
        num_classes)`, the paper's `a`; `region_scores`, `(batch, E, num_steps,
        k, num_classes)`; `regions`, `(batch, E, num_steps, k, 4)`. With
        `locations="learned"` also `means`, `(batch, E, num_steps, 2)`, y and x
        from -1 to 1, the chosen places; `drawn`, of the same shape, where it
        looked, which has no gradient; `baselines`, `(batch, E, num_steps)`.

    Raises:
        ValueError: If an argument is out of its range, `features` is not a
            rank-4 tensor with known channels, or `regions` are missing where
            they are needed, or there where they are not.

    Example:

    >>> layer = RecurrentAttention(num_classes=20, num_steps=5, units=8)
    >>> outputs = layer(ops.ones((2, 14, 14, 16)))
    >>> tuple(outputs["scores"].shape), tuple(outputs["regions"].shape)
    ((2, 1, 20), (2, 1, 5, 9, 4))
    """

    def __init__(
        self,
        num_classes,
        num_steps=5,
        scales=(80 / 448, 160 / 448, 320 / 448),
        ratios=(2.0, 1.0, 0.5),
        units=512,
        size=7,
        lstm="both",
        locations="learned",
        deviation=0.11,
        episodes=1,
        seed=None,
        **kwargs,
    ):
        # Half precision would move the regions by whole pixels.
        super().__init__(autocast=False, **kwargs)
        for name, number in {
            "num_classes": num_classes,
            "num_steps": num_steps,
            "units": units,
            "size": size,
            "episodes": episodes,
        }.items():
            if number < 1:
                raise ValueError(
                    f"`{name}` must be at least 1. Received: {name}={number}"
                )
        if lstm not in LSTMS:
            raise ValueError(
                f"`lstm` must be one of {LSTMS}. Received: lstm={lstm!r}"
            )
        if locations not in LOCATIONS:
            raise ValueError(
                f"`locations` must be one of {LOCATIONS}. "
                f"Received: locations={locations!r}"
            )
        if deviation <= 0:
            raise ValueError(
                f"`deviation` must be above 0. Received: deviation={deviation}"
            )
        self.num_classes = num_classes
        self.num_steps = num_steps
        self.scales = tuple(scales)
        self.ratios = tuple(ratios)
        self.units = units
        self.size = size
        self.lstm = lstm
        self.locations = locations
        self.deviation = deviation
        self.episodes = episodes
        # Also where none is given: a saved model keeps its random places.
        self.seed = random.randrange(2**31) if seed is None else seed
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        # What evaluation and a served model see in place of random places.
        self.fixed_places = np.random.default_rng(self.seed).uniform(
            -1, 1, (num_steps, 2)
        )
        dtype = self.dtype_policy
        self.anchors = RegionAnchors(
            scales, ratios, dtype="float32", name="anchors"
        )
        self.crop = RoiCropAndResize(size, dtype=dtype, name="crop")
        self.represent = keras.layers.Dense(
            units, activation="relu", dtype=dtype, name="represent"
        )
        # float32 also under mixed precision: a softmax and a density follow.
        self.classifier = keras.layers.Dense(
            num_classes, dtype="float32", name="classifier"
        )
        # Where nothing is to be located, nothing would read such a state.
        located = locations == "learned"
        self.recurrent = lstm == "both" or (lstm == "location" and located)
        if self.recurrent:
            self.cell = keras.layers.LSTMCell(units, dtype=dtype, name="cell")
        if located:
            self.locator = keras.layers.Dense(
                2, activation="tanh", dtype="float32", name="locator"
            )
            self.baseline = keras.layers.Dense(
                1, dtype="float32", name="baseline"
            )

    def build(self, features_shape, regions_shape=None):
        self._check_shapes(features_shape, regions_shape)
        self.represent.build((None, self.size**2 * features_shape[-1]))
        hidden_shape = (None, self.units)
        self.classifier.build(hidden_shape)
        if self.recurrent:
            self.cell.build(hidden_shape)
        if self.locations == "learned":
            self.locator.build(hidden_shape)
            self.baseline.build(hidden_shape)

    def call(self, features, regions=None, training=None):
        batch = ops.shape(features)[0]
        episodes = self._episodes(training)
        rows = batch * episodes  # those of an image stand beside each other
        zeros = ops.zeros((rows, self.units), self.compute_dtype)
        whole = ops.zeros((rows, 1, 4)) + ops.array([0.0, 0.0, 1.0, 1.0])
        _, seen, state = self._look(features, whole, [zeros, zeros], episodes)
        if self.locations == "given":
            missing = ops.zeros((batch, self.num_steps, 4))
            regions = ops.concatenate([regions, missing], axis=1)
        steps = []
        for t in range(self.num_steps):
            if self.locations == "given":
                chosen, around = {}, _or_whole(regions[:, t][:, None])
            else:
                chosen, place = self._choose(seen, t, training)
                # From -1 .. 1 to 0 .. 1 of the image, whose edge is the end.
                around = self.anchors(ops.clip((place + 1) / 2, 0, 1))
            to_score, seen, state = self._look(
                features, around, state, episodes
            )
            scores = self.classifier(to_score)
            steps.append({"region_scores": scores, "regions": around, **chosen})
        outputs = {
            key: self._by_episode(
                ops.stack([step[key] for step in steps], axis=1), episodes
            )
            for key in steps[0]
        }
        scores = ops.max(outputs["region_scores"], axis=(2, 3))
        return {"scores": scores, **outputs}

    # Keras would trace all steps to learn these.
    def compute_output_spec(self, features, regions=None, training=None):
        self._check_shapes(
            features.shape, None if regions is None else regions.shape
        )
        given = self.locations == "given"
        num_regions = 1 if given else len(self.scales) * len(self.ratios)
        step_shapes = {
            "region_scores": (num_regions, self.num_classes),
            "regions": (num_regions, 4),
        }
        if self.locations == "learned":
            step_shapes |= {"means": (2,), "drawn": (2,), "baselines": ()}
        leading = (features.shape[0], self._episodes(training))
        return {
            "scores": keras.KerasTensor((*leading, self.num_classes)),
            **{
                key: keras.KerasTensor((*leading, self.num_steps, *shape))
                for key, shape in step_shapes.items()
            },
        }

    def _episodes(self, training):
        # Places that are given are the same every time.
        once = not training or self.locations == "given"
        return 1 if once else self.episodes

    def _look(self, features, regions, state, episodes):
        """Takes one step: what to score, what to locate by, the new state.

        `regions` are `(rows, k, 4)`, `state` two of `(rows, units)`.
        """
        k = regions.shape[1]
        # The episodes of an image crop its features, not copies of them.
        by_image = ops.reshape(regions, (-1, episodes * k, 4))
        crops = self.crop(features, by_image)
        flat = ops.reshape(crops, (-1, self.size**2 * features.shape[-1]))
        represented = self.represent(flat)  # (rows * k, units)

        def by_row(x):
            return ops.reshape(x, (-1, k, self.units))

        if not self.recurrent:
            represented = by_row(represented)
            return represented, ops.mean(represented, axis=1), state
        repeated = [ops.repeat(x, k, axis=0) for x in state]
        _, new = self.cell(represented, repeated)
        state = [ops.mean(by_row(x), axis=1) for x in new]
        to_score = new[0] if self.lstm == "both" else represented
        return by_row(to_score), state[0], state

    def _choose(self, seen, t, training):
        """Gives the place of step `t` with what the training needs of it."""
        shape = (ops.shape(seen)[0], 2)
        if self.locations == "random":
            if training:
                return {}, keras.random.uniform(
                    shape, -1, 1, seed=self.seed_generator
                )
            return {}, ops.zeros(shape) + ops.cast(
                self.fixed_places[t], "float32"
            )
        mean = drawn = self.locator(seen)
        if training:
            drawn += self.deviation * keras.random.normal(
                shape, seed=self.seed_generator
            )
        drawn = ops.stop_gradient(drawn)
        baseline = self.baseline(ops.stop_gradient(seen))[:, 0]
        chosen = {"means": mean, "drawn": drawn, "baselines": baseline}
        return chosen, drawn

    def _by_episode(self, x, episodes):
        return ops.reshape(x, (-1, episodes, *x.shape[1:]))

    def _check_shapes(self, features_shape, regions_shape):
        if len(features_shape) != 4 or features_shape[-1] is None:
            raise ValueError(
                "`RecurrentAttention` expects features of shape `(batch, "
                "height, width, channels)` with known channels. "
                f"Received: features_shape={tuple(features_shape)}"
            )
        if self.locations == "given":
            fits = regions_shape is not None
            fits = fits and len(regions_shape) == 3 and regions_shape[2] == 4
        else:
            fits = regions_shape is None
        if not fits:
            raise ValueError(
                "`RecurrentAttention` expects regions of shape `(batch, "
                'num_regions, 4)` with `locations="given"`, and none with '
                f"others. Received: locations={self.locations!r}, "
                f"regions_shape={regions_shape}"
            )

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "num_steps": self.num_steps,
            "scales": self.scales,
            "ratios": self.ratios,
            "units": self.units,
            "size": self.size,
            "lstm": self.lstm,
            "locations": self.locations,
            "deviation": self.deviation,
            "episodes": self.episodes,
            "seed": self.seed,
        }


def _or_whole(regions):
    """Puts the whole image in the place of rows of zeros."""
    padding = ops.all(regions == 0, axis=-1, keepdims=True)
    return ops.where(padding, ops.array([0.0, 0.0, 1.0, 1.0]), regions)
