"""The feature transform block of FAN."""

import keras


@keras.saving.register_keras_serializable(package="zoo")
class FeatureTransform(keras.layers.Layer):
    """Brings a level of the backbone to the channels that all levels share.

    A buffer between backbone and head: one residual block, after a 1x1
    convolution that sets the number of channels.

    Formula, from Yan et al. (2019),
    https://doi.org/10.1109/ACCESS.2019.2929512, Fig. 3 (b):

        u = conv1x1(x)
        y = relu(u + conv3x3(relu(batch_norm(conv3x3(u)))))

    Args:
        dim: int. Number of channels of the output, at least 1; the paper
            has 512.

    Call arguments:
        features: Float tensor of shape `(batch, height, width, channels)`.
            Height and width may change from call to call.

    Returns:
        Float tensor of shape `(batch, height, width, dim)`, not below 0.

    Raises:
        ValueError: If `dim` is below 1.

    Example:

    >>> transform = FeatureTransform(dim=512)
    >>> tuple(transform(keras.ops.ones((2, 14, 14, 2048))).shape)
    (2, 14, 14, 512)
    """

    def __init__(self, dim, **kwargs):
        super().__init__(**kwargs)
        if dim < 1:
            raise ValueError(f"`dim` must be at least 1. Received: dim={dim}")
        self.dim = dim
        options = {"padding": "same", "dtype": self.dtype_policy}
        self.project = keras.layers.Conv2D(dim, 1, name="project", **options)
        self.conv_1 = keras.layers.Conv2D(
            dim,
            3,
            use_bias=False,  # batch normalization has one
            name="conv_1",
            **options,
        )
        # Keras' momentum of 0.99 would lag behind the weights in short runs.
        self.norm = keras.layers.BatchNormalization(
            momentum=0.9, dtype=self.dtype_policy, name="norm"
        )
        self.conv_2 = keras.layers.Conv2D(dim, 3, name="conv_2", **options)

    def build(self, input_shape):
        self.project.build(input_shape)
        shape = (*input_shape[:-1], self.dim)
        for layer in (self.conv_1, self.norm, self.conv_2):
            layer.build(shape)

    def call(self, features):
        shortcut = self.project(features)
        # Keras hands `training` on to the batch normalization by itself.
        x = keras.ops.relu(self.norm(self.conv_1(shortcut)))
        return keras.ops.relu(shortcut + self.conv_2(x))

    def get_config(self):
        return {**super().get_config(), "dim": self.dim}
