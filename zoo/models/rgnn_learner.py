"""What RGNN's training minimises: labels and, at the same time, gates."""

import keras
from keras import ops


class RgnnLearner(keras.Model):
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
            steps, which a checkpoint holds, so a resumed run goes on exactly.
        **kwargs: as `keras.Model`.

    Targets are a dict of

        targets         float32 (batch, num_classes), as the loss takes them
        region_targets  float32 (batch, num_regions), r, or -1 where nothing is
                        known: such a region is left out, and an image with no
                        other contributes 0 to the batch's mean

    or the first alone, where nothing is known of any region.
    """

    def __init__(self, inputs, outputs, gate_weight=1.0, **kwargs):
        super().__init__(inputs, outputs, **kwargs)
        self.gate_weight = gate_weight
        self.mean = _Mean(name="mean")
        self.means = {
            name: keras.metrics.Mean(name)
            for name in (
                *(("classification_loss",) if "logits" in outputs else ()),
                *("gate_loss", "gate_on_objects", "gate_on_background"),
                "gate_weight",
            )
        }

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """Gives the loss of a batch, and adds its parts to the logs."""
        if not isinstance(y, dict):
            nothing_known = ops.full(ops.shape(y_pred["gates"])[:2], -1.0)
            y = {"targets": y, "region_targets": nothing_known}
        losses = self._gate_weight() * self._gate_losses(
            y["region_targets"], ops.cast(y_pred["gates"], "float32")
        )  # (B,)
        if "logits" in y_pred:
            # Of each image: Keras would scale the batch's mean by replicas.
            classification = self.loss.call(y["targets"], y_pred["logits"])
            self.means["classification_loss"].update_state(classification)
            losses += classification
        # What the backbone's layers add, such as weight decay.
        losses += sum(self.losses)
        return self.mean(losses, losses)

    def _gate_weight(self):
        weight = self.gate_weight
        if callable(weight):
            weight = weight(self.optimizer.iterations)
        self.means["gate_weight"].update_state(weight)
        return weight

    def _gate_losses(self, region_targets, gates):
        known = ops.cast(region_targets >= 0, "float32")  # (B, R)
        errors = ops.square(region_targets[..., None] - gates)  # (B, R, D)
        # At least 1: an image with nothing known is 0 / 1, not 0 / 0.
        num_known = ops.maximum(ops.sum(known, axis=1), 1)
        losses = ops.sum(known * ops.mean(errors, axis=-1), axis=1) / num_known
        self.means["gate_loss"].update_state(losses)
        gates = ops.mean(gates, axis=-1)
        for name, value in (("objects", 1), ("background", 0)):
            self.means[f"gate_on_{name}"].update_state(
                gates, ops.cast(region_targets == value, "float32")
            )
        return losses


class _Mean(keras.losses.Loss):
    """Averages losses over images, as a part of the batch of all replicas.

    Under `MirroredStrategy` the replicas' gradients are added up, so Keras
    divides by their number where it averages a `Loss`. Nothing is compared.
    """

    def call(self, y_true, y_pred):
        return y_pred
