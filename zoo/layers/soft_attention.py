"""Soft attention over the positions of an image."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="zoo")
class SoftAttention(keras.layers.Layer):
    """Weighs the positions of an image by a query, and averages them so.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1707.05495, eqs.
    (4) and (5), with the scores of Xu et al. (2015),
    https://arxiv.org/abs/1502.03044, for features `v` and a query `h`:

        e[i] = w . tanh(W v[i] + U h)
        a    = softmax(e)
        z    = sum_i a[i] v[i]

    Args:
        units: int. Size of the space where features and queries are compared,
            at least 1.

    Call arguments:
        features: Float tensor of shape `(batch, positions, channels)`.
        query: Float tensor of shape `(batch, query_units)`, or `(batch,
            queries, query_units)` for several queries of an image, which share
            its features without a copy.
        keys: Float tensor of shape `(batch, positions, units)` or `None`. What
            `project(features)` gave: `W v` above is the same for every query.

    Returns:
        A pair: the context `z`, a float tensor of shape `(batch, channels)` or
        `(batch, queries, channels)`; and the attention `a`, float32 of shape
        `(batch, positions)` or `(batch, queries, positions)`, with a sum of 1
        over the positions.

    Raises:
        ValueError: If `units` is below 1, or a shape is not as above with a
            known last axis.

    Example:

    >>> layer = SoftAttention(units=8)
    >>> context, attention = layer(ops.ones((2, 49, 16)), ops.ones((2, 3, 5)))
    >>> tuple(context.shape), tuple(attention.shape)
    ((2, 3, 16), (2, 3, 49))
    """

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.features_projection = self._projection(units, "features")
        self.query_projection = self._projection(units, "query")
        self.score = self._projection(1, "score")

    def _projection(self, units, name):
        return keras.layers.Dense(
            units, use_bias=False, dtype=self.dtype_policy, name=name
        )

    def build(self, features_shape, query_shape):
        if len(features_shape) != 3 or features_shape[-1] is None:
            raise ValueError(
                "`SoftAttention` expects features of shape `(batch, positions, "
                "channels)` with known channels. "
                f"Received: features_shape={features_shape}"
            )
        if len(query_shape) not in (2, 3) or query_shape[-1] is None:
            raise ValueError(
                "`SoftAttention` expects a query of shape `(batch, "
                "query_units)` or `(batch, queries, query_units)` with known "
                f"query_units. Received: query_shape={query_shape}"
            )
        if not self.features_projection.built:  # by `project`
            self.features_projection.build(features_shape)
        self.query_projection.build(query_shape)
        self.score.build((None, None, None, self.units))

    def project(self, features):
        """Gives the keys of features, for many calls with the same features.

        Args:
            features: Float tensor of shape `(batch, positions, channels)`.

        Returns:
            Float tensor of shape `(batch, positions, units)`.
        """
        return self.features_projection(features)

    def call(self, features, query, keys=None):
        if keys is None:
            keys = self.project(features)
        queries = self.query_projection(query)
        single = len(queries.shape) == 2
        if single:
            queries = queries[:, None]
        # (B, 1, P, U) + (B, Q, 1, U)
        hidden = ops.tanh(keys[:, None] + queries[:, :, None])
        scores = ops.squeeze(self.score(hidden), axis=-1)  # (B, Q, P)
        # float32 also under mixed precision: many small weights add up to 1.
        attention = ops.softmax(ops.cast(scores, "float32"))
        context = ops.matmul(ops.cast(attention, features.dtype), features)
        if single:
            return context[:, 0], attention[:, 0]
        return context, attention

    def get_config(self):
        return {**super().get_config(), "units": self.units}
