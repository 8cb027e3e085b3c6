"""The pool of labels that a sequence may still take."""

import keras
from keras import ops

# Logits are cut here: TensorFlow's argmax gives 0 where none is above float32's
# lowest number, whether or not label 0 is taken.
_LOWEST = -3e38


@keras.saving.register_keras_serializable(package="zoo")
class CandidatePool(keras.layers.Layer):
    """Takes the most confident label of those that are not taken yet.

    No label is taken twice, whatever the logits are. The choice has no
    gradient.

    Formula, from Chen et al. (2018), https://arxiv.org/abs/1707.05495, eqs.
    (9) and (10), where `C[t]` holds the labels that `y[t-1]` does not:

        l[t] = argmax_{C[t]} p[t]
        y[t] = y[t-1] + l[t]

    Call arguments:
        logits: Float tensor of shape `(rows, num_classes)`. Of equal ones the
            first is the most confident; what is not a number is minus infinity.
        taken: Float tensor of shape `(rows, num_classes)`: 1 for the labels
            that are taken, 0 for the others.

    Returns:
        A pair: the label, int32 of shape `(rows,)`, -1 where all are taken;
        and `taken` with that label, of the shape and type that it came in.

    Example:

    >>> pool = CandidatePool()
    >>> label, taken = pool(ops.array([[0.1, 3.0, 2.0]]), ops.zeros((1, 3)))
    >>> label, taken = pool(ops.array([[0.1, 3.0, 2.0]]), taken)
    >>> label.numpy().tolist(), taken.numpy().tolist()
    ([2], [[0.0, 1.0, 1.0]])
    """

    def __init__(self, **kwargs):
        # Logits come in float32 also under mixed precision, and rounding them
        # would make equal ones of near ones.
        super().__init__(autocast=False, **kwargs)

    def call(self, logits, taken):
        logits = ops.nan_to_num(ops.cast(logits, "float32"), nan=_LOWEST)
        logits = ops.maximum(logits, _LOWEST)
        candidates = ops.where(taken > 0, -float("inf"), logits)
        label = ops.argmax(candidates, axis=-1)
        label = ops.where(ops.all(taken > 0, axis=-1), -1, label)
        new = ops.one_hot(label, taken.shape[-1], dtype=taken.dtype)
        return label, taken + new
