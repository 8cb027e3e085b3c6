"""What trains a model whose loss has parts of its own."""

import keras
from keras import ops


class Learner(keras.Model):
    """Trains by losses that one comparison of targets and outputs cannot give.

    Functional: built from inputs and outputs as `keras.Model` is, in the scope
    of the strategy that the layers were made in. A subclass gives the losses
    of each image; `fit`, callbacks and checkpoints are Keras' own.

    Args:
        inputs: as `keras.Model`.
        outputs: as `keras.Model`.
        names: list of str. What the logs show beside `loss`: means over the
            epoch of what is handed to `track`.
        **kwargs: as `keras.Model`.
    """

    def __init__(self, inputs, outputs, names, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self._means = {name: keras.metrics.Mean(name) for name in names}
        self._mean_of_losses = _Mean(name="mean_of_losses")

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Takes what `keras.Model.compile` does.

        Args:
            optimizer: as `keras.Model.compile`.
            loss: `keras.losses.Loss` of the targets and scores of each image.
            **kwargs: as `keras.Model.compile`.

        Raises:
            ValueError: If `loss` is not a `keras.losses.Loss`.
        """
        if not isinstance(loss, keras.losses.Loss):
            raise ValueError(
                f"`loss` must be a `keras.losses.Loss`. Received: loss={loss!r}"
            )
        super().compile(optimizer, loss, **kwargs)

    def image_losses(self, y, y_pred):
        """Gives the loss of each image.

        `self.loss.call` compares targets and scores; called as a whole, Keras
        would take its mean, and divide that by the number of replicas.

        Args:
            y: the targets, in float32.
            y_pred: the model's outputs.

        Returns:
            Float32 tensor of shape `(batch,)`.
        """
        raise NotImplementedError

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Gives the mean of the losses of a batch's images."""
        y = keras.tree.map_structure(lambda part: ops.cast(part, "float32"), y)
        losses = self.image_losses(y, y_pred)
        # With what the backbone's layers add, such as weight decay.
        losses += sum(self.losses)
        return self._mean_of_losses(losses, losses, sample_weight)

    def track(self, name, values, weights=None):
        """Adds values, weighed if there are weights, to a mean of the logs."""
        self._means[name].update_state(values, weights)


class _Mean(keras.losses.Loss):
    """Averages losses over images, as a part of the batch of all replicas.

    Under `MirroredStrategy` the replicas' gradients are added up, so Keras
    divides by their number where it averages a `Loss`. Nothing is compared.
    """

    def call(self, y_true, y_pred):
        return y_pred
