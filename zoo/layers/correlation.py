"""The correlation layer of FAN."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="zoo")
class Correlation(keras.layers.Layer):
    """Gathers the features of all positions that a position relates to.

    Self-attention across three levels: objects that occur together are found
    at other positions, and so features of one come to speak for the other.

    Formula, from Yan et al. (2019),
    https://doi.org/10.1109/ACCESS.2019.2929512, eqs. (4) and (5), with 1x1
    embeddings `theta`, `phi` and `g`, linear as the text calls them:

        y[i] = sum_j softmax_j(<theta(query[i]), phi(key[j])>) g(value[j])

    The softmax is the paper's `1 / C(x)`; nothing divides by the root of `dim`.

    Args:
        dim: int. Number of channels of the embeddings and of the output,
            at least 1.
        residual: bool. Whether to add `value`, which eq. (4) does not.

    Call arguments:
        query: Float tensor of shape `(batch, height, width, channels)`, in
            the paper the refined level `P3`.
        key: Float tensor of this height and width, there `P2`.
        value: Float tensor of this height and width, there `P4`. All three
            sizes may change from call to call.

    Returns:
        Float tensor of shape `(batch, height, width, dim)`.

    Raises:
        ValueError: If `dim` is below 1, the three maps are not rank-4
            tensors of one size with known channels, or `value` has other
            than `dim` channels with `residual`.

    Example:

    >>> correlation = Correlation(dim=512)
    >>> maps = [ops.ones((2, 14, 14, 256)) for _ in range(3)]
    >>> tuple(correlation(*maps).shape)
    (2, 14, 14, 512)
    """

    def __init__(self, dim, residual=False, **kwargs):
        super().__init__(**kwargs)
        if dim < 1:
            raise ValueError(f"`dim` must be at least 1. Received: dim={dim}")
        self.dim = dim
        self.residual = residual
        options = {"use_bias": False, "dtype": self.dtype_policy}
        self.query = keras.layers.Dense(dim, name="query", **options)
        self.key = keras.layers.Dense(dim, name="key", **options)
        self.value = keras.layers.Dense(dim, name="value", **options)

    def build(self, query_shape, key_shape, value_shape):
        shapes = (query_shape, key_shape, value_shape)
        # Tuples, since a saved file gives lists.
        sizes = {tuple(shape[1:-1]) for shape in shapes}
        if len(sizes) > 1 or any(
            len(shape) != 4 or shape[-1] is None for shape in shapes
        ):
            raise ValueError(
                "`Correlation` expects three maps of shape `(batch, height, "
                "width, channels)` of one size with known channels. Received: "
                f"query_shape={query_shape}, key_shape={key_shape}, "
                f"value_shape={value_shape}"
            )
        if self.residual and value_shape[-1] != self.dim:
            raise ValueError(
                f"With `residual`, `value` must have {self.dim} channels, as "
                f"the output. Received: value_shape={value_shape}"
            )
        self.query.build(query_shape)
        self.key.build(key_shape)
        self.value.build(value_shape)

    def call(self, query, key, value):
        # float32 also under mixed precision: scores that are not scaled grow
        # with `dim`, and half precision would round them before the softmax.
        attended = ops.dot_product_attention(
            self._one_head(self.query(query)),
            self._one_head(self.key(key)),
            self._one_head(self.value(value)),
            scale=1.0,
        )  # (B, H*W, 1, dim)
        attended = ops.reshape(attended, (*ops.shape(query)[:3], self.dim))
        attended = ops.cast(attended, self.compute_dtype)
        return attended + value if self.residual else attended

    def _one_head(self, features):
        flat = ops.reshape(features, (ops.shape(features)[0], -1, 1, self.dim))
        return ops.cast(flat, "float32")

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "residual": self.residual,
        }
