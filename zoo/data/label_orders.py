"""Fixed orders of labels, for models that take them one after the other."""

import numpy as np
import tensorflow as tf

ORDERS = ("frequency", "rare")


def ranks(targets, order):
    """Gives each class its place in a fixed order.

    Args:
        targets: array of shape `(num_examples, num_classes)`, 1 for present.
        order: str. `"frequency"`: the class of most examples first; `"rare"`:
            the reverse.

    Returns:
        int32 array of shape `(num_classes,)`, from 0.

    Raises:
        ValueError: If `order` is neither.

    Example:

    >>> ranks(np.array([[1, 0, 1], [0, 0, 1]]), "frequency").tolist()
    [1, 2, 0]
    """
    if order not in ORDERS:
        raise ValueError(
            f"`order` must be one of {ORDERS}. Received: order={order!r}"
        )
    counts = (np.asarray(targets) == 1).sum(axis=0)
    frequent_first = np.argsort(-counts, kind="stable")
    places = np.empty(len(counts), "int32")
    places[frequent_first] = np.arange(len(counts))
    return places if order == "frequency" else len(counts) - 1 - places


def teach(batches, places, max_labels):
    """Makes batches for teacher forcing: each step learns its own label.

    Args:
        batches: `tf.data.Dataset` of inputs and targets, `(batch,
            num_classes)`: 1 present, 0 absent, -1 unknown.
        places: array, from `ranks`.
        max_labels: int. Steps of the model.

    Returns:
        `tf.data.Dataset` of a tuple, the inputs and int32 labels `(batch,
        max_labels)`, -1 after the last; and targets `(batch, max_labels,
        num_classes)`, in which only the step's label is present.
    """
    num_classes = len(places)

    def add(inputs, targets):
        keys = tf.where(targets == 1, places, num_classes)
        labels = tf.argsort(keys, stable=True)[:, :max_labels]
        present = tf.gather(keys, labels, batch_dims=1) < num_classes
        labels = tf.where(present, labels, -1)
        # A row of zeros for -1: there is nothing left to find.
        steps = tf.one_hot(labels, num_classes)
        steps = tf.where(targets[:, None] < 0, -1.0, steps)
        inputs = inputs if isinstance(inputs, tuple) else (inputs,)
        return (*inputs, labels), steps

    return batches.map(add)
