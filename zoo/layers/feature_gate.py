"""The feature-level gate of RGNN."""

import keras

from zoo.layers.region_gate import check_shapes


@keras.saving.register_keras_serializable(package="zoo")
class FeatureGate(keras.layers.Layer):
    """Lets each of a region's scores pass or not.

    Formula, from Zhao et al. (2016), https://doi.org/10.5244/C.30.72, eq.
    (4), for the scores `x` and the representation `u` of a region, where `T`
    is a dense layer to as many numbers as there are scores:

        a  = sigmoid(T(u))
        x' = a * x

    Call arguments:
        scores: Float tensor of shape `(batch, num_regions, num_classes)`, in
            the paper the softmax of FC8.
        representation: Float tensor of shape `(batch, num_regions, units)`,
            in the paper the output of FC7.

    Returns:
        A pair: the gated scores and the gate `a`, 0 to 1, both of the shape
        of `scores`.

    Raises:
        ValueError: If a shape is not as above, or its last axis is unknown.

    Example:

    >>> from keras import ops
    >>> layer = FeatureGate()
    >>> scores, gate = layer(ops.ones((2, 5, 20)), ops.ones((2, 5, 64)))
    >>> tuple(scores.shape), tuple(gate.shape)
    ((2, 5, 20), (2, 5, 20))
    """

    def build(self, scores_shape, representation_shape):
        check_shapes(self, scores_shape, representation_shape)
        self.gate = keras.layers.Dense(
            scores_shape[-1], "sigmoid", dtype=self.dtype_policy, name="gate"
        )
        self.gate.build(representation_shape)

    def call(self, scores, representation):
        gate = self.gate(representation)
        return gate * scores, gate
