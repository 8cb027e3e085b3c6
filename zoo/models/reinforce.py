"""Learns a policy from the reward of where it led: REINFORCE."""

from keras import ops

from zoo.models.learner import Learner


class Reinforce(Learner):
    """Trains a `RecurrentAttention`: its classes and its places together.

    Functional: built from inputs and outputs as `keras.Model` is, by
    `zoo.models.rarl.learner`. `compile` takes the loss of targets and scores,
    in the paper `zoo.losses.SoftmaxSquaredError`.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1712.07465, eqs.
    (5) to (8), with the baseline of Mnih et al. (2014),
    https://arxiv.org/abs/1406.6247; for an image with labels `g`, `n` of them,
    and the `n` classes of the highest scores, `p`:

        R          = |g and p| / n, see `hit_rate`
        L_policy   = -sum_t (R - b[t]) log Normal(l[t]; m[t], deviation)
        L_baseline = mean_t (R - b[t])^2
        loss       = L_classes + policy_weight * L_policy + L_baseline

    `R` and `R - b` are constants to the gradient of `L_policy`, so it reaches
    no classifier. An image without labels has neither of the latter losses.

    Args:
        inputs: as `keras.Model`.
        outputs: dict, what `RecurrentAttention` gives. Where its places are
            not learnt, the loss is that of the classes alone.
        deviation: float. That of the layer.
        policy_weight: float. Weight of the policy's loss; 1 in the paper.
        **kwargs: as `keras.Model`.

    Beside `loss`, the logs have `classification_loss`, `reward`, and of a
    policy `policy_loss`, `baseline_loss` and `location_spread`: the deviation
    of the chosen places among images, where the image reaches from -1 to 1; a
    policy that sends all images to the same places has 0.
    """

    def __init__(self, inputs, outputs, deviation, policy_weight=1.0, **kwargs):
        names = ["classification_loss", "reward"]
        if "means" in outputs:
            names += ["policy_loss", "baseline_loss", "location_spread"]
        super().__init__(inputs, outputs, names, **kwargs)
        self.deviation = deviation
        self.policy_weight = policy_weight

    def image_losses(self, y, y_pred):
        """Gives the sum of an image's losses, the mean over its episodes."""
        scores = y_pred["scores"]  # (B, E, K)
        episodes, num_classes = scores.shape[1:]
        losses = self.loss.call(
            ops.repeat(y, episodes, axis=0),
            ops.reshape(scores, (-1, num_classes)),
        )
        losses = ops.reshape(losses, (-1, episodes))
        reward = ops.stop_gradient(hit_rate(y[:, None], scores))  # (B, E)
        self.track("classification_loss", losses)
        self.track("reward", reward)
        if "means" in y_pred:
            policy, baseline = self._policy_losses(reward, y_pred)
            # Nothing can be found in an image without labels.
            has_labels = ops.any(y > 0, axis=-1, keepdims=True)
            has_labels = ops.cast(has_labels, "float32")
            losses += has_labels * (self.policy_weight * policy + baseline)
            self.track("policy_loss", has_labels * policy)
            self.track("baseline_loss", has_labels * baseline)
            spread = ops.std(y_pred["means"], axis=(0, 1))
            self.track("location_spread", spread)
        return ops.mean(losses, axis=1)

    def _policy_losses(self, reward, y_pred):
        error = reward[..., None] - y_pred["baselines"]  # (B, E, T)
        advantage = ops.stop_gradient(error)
        distance = ops.sum((y_pred["drawn"] - y_pred["means"]) ** 2, axis=-1)
        log_density = -distance / (2 * self.deviation**2)  # and a constant
        policy = -ops.sum(advantage * log_density, axis=-1)
        return policy, ops.mean(error**2, axis=-1)  # (B, E)


def hit_rate(targets, scores):
    """Gives the share of an image's labels that have its highest scores.

    Formula: eq. (5) of the paper, see `Reinforce`. Of equal scores, those of
    the first classes are higher. The labels of mixed images, between 0 and 1,
    count by their targets, in |g and p| and in |g|, which is n otherwise.

    Args:
        targets: tensor of shape `(..., num_classes)`: 1 present, 0 absent,
            between them for mixed images, -1 unknown, which counts as absent.
        scores: float tensor of a shape to which that of `targets` broadcasts.

    Returns:
        Float32 tensor of the shape of `scores` without classes; 0 for an
        image without labels.

    Example:

    >>> targets = ops.array([[1, 0, 1], [0, 0, 0]])
    >>> scores = ops.array([[0.2, 0.5, 0.9], [0.1, 0.2, 0.3]])
    >>> hit_rate(targets, scores).numpy().tolist()
    [0.5, 0.0]
    """
    present = ops.cast(ops.maximum(targets, 0), "float32")
    num_labels = ops.sum(ops.sign(present), axis=-1, keepdims=True)
    ranks = ops.argsort(ops.argsort(-scores, axis=-1), axis=-1)
    chosen = ops.cast(ops.cast(ranks, "float32") < num_labels, "float32")
    hits = ops.sum(chosen * present, axis=-1)
    total = ops.sum(present, axis=-1)
    return hits / ops.where(total > 0, total, 1)
