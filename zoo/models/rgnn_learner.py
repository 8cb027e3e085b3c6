"""What RGNN's training minimises: labels and, at the same time, gates."""

import keras
from keras import ops

from zoo.models.learner import Learner


class RgnnLearner(Learner):
    """Trains the logits on labels and the gates on regions that hold objects.

    Formula, from Zhao et al. (2016), https://doi.org/10.5244/C.30.72, eqs.
    (7) to (9), with r = 1 for a region on an object and 0 for one that is not:

        L_loc = mean over images, mean over regions j, of (r[j] - gate[j])**2
        L     = L_cls + lambda * L_loc

    A feature gate has a value for each class; the mean is over these too,
    where eq. (7) has their sum, so that lambda weighs both gates alike.

    `L_cls` is the loss that `compile` is given, a `keras.losses.Loss`, which
    compares the labels with the logits of each image. The logs of `fit` have,
    as means over the epoch, `classification_loss`, `gate_loss`,
    `gate_on_objects` and `gate_on_background`, the gates where r = 1 and where
    r = 0, and `gate_weight`, lambda; 0 for what never came up.

    Args:
        inputs: as `keras.Model`.
        outputs: dict of `gates`, `(batch, num_regions, depth)`, and `logits`,
            `(batch, num_classes)`; without logits the gates are all that is
            trained.
        gate_weight: float or `keras.optimizers.schedules.LearningRateSchedule`.
            Lambda, at least 0, or a schedule of it over the optimizer's
            steps, which a checkpoint holds, so a resumed run goes on exactly;
            on JAX over the learner's own count of them, one of its weights.
        **kwargs: as `keras.Model`.

    Targets are a dict of

        targets         float32 (batch, num_classes), as the loss takes them
        region_targets  float32 (batch, num_regions), r, or -1 where nothing is
                        known: such a region is left out, and an image with no
                        other contributes 0 to the batch's mean

    or the first alone, where nothing is known of any region.
    """

    def __init__(self, inputs, outputs, gate_weight=1.0, **kwargs):
        if not callable(gate_weight) and gate_weight < 0:
            raise ValueError(
                "`gate_weight` must be at least 0, or a schedule. "
                f"Received: gate_weight={gate_weight}"
            )
        names = ["gate_loss", "gate_on_objects", "gate_on_background"]
        names += ["gate_weight"]
        if "logits" in outputs:
            names += ["classification_loss"]
        super().__init__(inputs, outputs, names, **kwargs)
        self.gate_weight = gate_weight
        # On JAX a loss cannot read the optimizer's variables.
        self._steps = None
        if callable(gate_weight) and keras.backend.backend() == "jax":
            self._steps = self.add_weight(
                name="steps", dtype="int32", trainable=False
            )

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Gives the mean of the losses of a batch's images."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if training and self._steps is not None:
            self._steps.assign_add(1)
        return loss

    def image_losses(self, y, y_pred):
        """Gives the loss of an image's labels, if any, and of its gates."""
        gates = ops.cast(y_pred["gates"], "float32")
        if not isinstance(y, dict):
            nothing_known = ops.full(ops.shape(gates)[:2], -1.0)
            y = {"targets": y, "region_targets": nothing_known}
        weight = self.gate_weight
        if callable(weight):
            own = self._steps is not None
            weight = weight(self._steps if own else self.optimizer.iterations)
        self.track("gate_weight", weight)
        losses = weight * self._gate_losses(y["region_targets"], gates)  # (B,)
        if "logits" in y_pred:
            classification = self.loss.call(y["targets"], y_pred["logits"])
            self.track("classification_loss", classification)
            losses += classification
        return losses

    def _gate_losses(self, region_targets, gates):
        known = ops.cast(region_targets >= 0, "float32")  # (B, R)
        errors = ops.square(region_targets[..., None] - gates)  # (B, R, D)
        # At least 1: an image with nothing known is 0 / 1, not 0 / 0.
        num_known = ops.maximum(ops.sum(known, axis=1), 1)
        losses = ops.sum(known * ops.mean(errors, axis=-1), axis=1) / num_known
        self.track("gate_loss", losses)
        gates = ops.mean(gates, axis=-1)
        for name, value in (("objects", 1), ("background", 0)):
            are_such = ops.cast(region_targets == value, "float32")
            self.track(f"gate_on_{name}", gates, are_such)
        return losses
