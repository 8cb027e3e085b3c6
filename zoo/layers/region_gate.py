"""The region-level gate of RGNN."""

import keras


@keras.saving.register_keras_serializable(package="zoo")
class RegionGate(keras.layers.Layer):
    """Lets a region's scores pass or not, as a whole.

    Formula, from Zhao et al. (2016), https://doi.org/10.5244/C.30.72, eq.
    (2), for the scores `x` and the representation `u` of a region, where `T`
    is a dense layer to one number:

        a  = sigmoid(T(u))
        x' = a x

    Call arguments:
        scores: Float tensor of shape `(batch, num_regions, num_classes)`, in
            the paper the softmax of FC8.
        representation: Float tensor of shape `(batch, num_regions, units)`,
            in the paper the output of FC7.

    Returns:
        A pair: the gated scores, of the shape of `scores`; and the gate `a`,
        of shape `(batch, num_regions, 1)`, 0 to 1.

    Raises:
        ValueError: If a shape is not as above, or its last axis is unknown.

    Example:

    >>> from keras import ops
    >>> scores, gate = RegionGate()(ops.ones((2, 5, 20)), ops.ones((2, 5, 64)))
    >>> tuple(scores.shape), tuple(gate.shape)
    ((2, 5, 20), (2, 5, 1))
    """

    def build(self, scores_shape, representation_shape):
        check_shapes(self, scores_shape, representation_shape)
        self.gate = keras.layers.Dense(
            1, "sigmoid", dtype=self.dtype_policy, name="gate"
        )
        self.gate.build(representation_shape)

    def call(self, scores, representation):
        gate = self.gate(representation)
        return gate * scores, gate


def check_shapes(layer, scores_shape, representation_shape):
    """Raises `ValueError` if these are not what a gate takes."""
    for name, shape in (
        ("scores", scores_shape),
        ("representation", representation_shape),
    ):
        if len(shape) != 3 or shape[-1] is None:
            raise ValueError(
                f"`{type(layer).__name__}` expects {name} of rank 3, `(batch, "
                "num_regions, ...)`, with a known last axis. "
                f"Received: {name}_shape={tuple(shape)}"
            )
