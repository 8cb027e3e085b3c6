"""Beam search over sequences of labels, none of them taken twice."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops, tree

DEAD = float("-inf")  # log-probability of a beam that holds no path


class Paths(NamedTuple):
    """What `beam_search` found; padding is -1 for a label, 0 for a probability.

    Attributes:
        labels: int32 tensor `(batch, max_length)`, the best path's labels in
            the order they were taken.
        probabilities: float32 tensor `(batch, max_length)`, of each of these
            labels at its own step; their product is the path's.
        lengths: int32 tensor `(batch,)`, number of labels, 0 to `max_length`.
        state: structure of tensors `(batch, ...)`, the state that the last
            step made for the best path: the step that ended it, or step
            `max_length`.
        paths: int32 tensor `(batch, max_length, max_length)`; row `t - 1` is
            the most probable path of `t` labels, all padding if none lived.
        path_probabilities: float32 tensor `(batch, max_length)`, of `paths`.
    """

    labels: Any
    probabilities: Any
    lengths: Any
    state: Any
    paths: Any
    path_probabilities: Any


def beam_search(step, state, num_labels, max_length, beam_width, threshold):
    """Searches the longest sequence of labels that is probable enough.

    Testing in Chen et al. (2018), https://arxiv.org/abs/1707.05495, eq. (11):
    a path's probability is the product of its labels' probabilities. Each
    step lengthens all paths and keeps the `beam_width` most probable, none of
    them below `threshold`. Where no path can be lengthened, the best one ends
    as it is. Width 1 is greedy. Of equally probable paths the one that came
    from the better path, then the one with the lower label, is the better. A
    label of probability 0 is never taken.

    With threshold 0, `paths` and `path_probabilities` tell the answer for
    every threshold: the longest of these paths that is not below it. So one
    search is enough to choose a threshold on validation data.

    Args:
        step: callable `(taken, state) -> (log_probabilities, state)`, where
            `taken` is a float32 tensor `(batch, beam_width, num_labels)`, 1
            for the labels on the path, else 0; `log_probabilities` has the
            same shape, and is ignored for taken labels; `state` is as below,
            with tensors `(batch, beam_width, ...)`. Rows without a living
            path are computed too and ignored.
        state: structure of tensors `(batch, ...)`, at least one: what the
            first step starts from. Shapes and types stay as they are.
        num_labels: int. Number of labels to choose from.
        max_length: int. Most labels on a path, 1 to `num_labels`.
        beam_width: int. Paths kept for an image, at least 1.
        threshold: float or scalar tensor, 0 to 1. Least probability of a
            path.

    Returns:
        `Paths`.

    Raises:
        ValueError: If a number is out of its range. Tensors are not checked.

    Example:

    >>> log_probabilities = ops.log([[0.9, 0.4, 0.8]])  # of one image
    >>> def step(taken, state):
    ...     return ops.repeat(log_probabilities[:, None], 2, axis=1), state
    >>> found = beam_search(step, ops.zeros(1), 3, 3, 2, threshold=0.5)
    >>> found.labels.numpy()  # a third one would make 0.9 * 0.8 * 0.4
    array([[ 0,  2, -1]], dtype=int32)
    """
    if not 1 <= max_length <= num_labels:
        raise ValueError(
            "`max_length` must be at least 1 and at most `num_labels`, since "
            "a path takes no label twice. "
            f"Received: max_length={max_length}, num_labels={num_labels}"
        )
    if beam_width < 1:
        raise ValueError(
            "`beam_width` must be at least 1. "
            f"Received: beam_width={beam_width}"
        )
    if np.isscalar(threshold) and not 0 <= threshold <= 1:
        raise ValueError(
            "`threshold` must be a probability, 0 to 1. "
            f"Received: threshold={threshold}"
        )
    threshold = ops.cast(threshold, "float32")

    def lengthen(t, scores, beams, best):
        labels, probabilities, state = beams
        paths, path_probabilities = best
        # The padding of `labels` is no class, so a row of zeros.
        taken = ops.max(ops.one_hot(labels, num_labels), axis=2)  # (B, W, K)
        log_probabilities, new_state = step(taken, state)
        log_probabilities = ops.where(
            taken > 0, DEAD, ops.cast(log_probabilities, "float32")
        )

        totals = scores[..., None] + log_probabilities
        # What lives at a threshold also lives, in the same order, at a lower
        # one: no path is more probable than the one that it came from.
        totals = ops.where(ops.exp(totals) >= threshold, totals, DEAD)
        flat = (-1, beam_width * num_labels)
        searched = scores[:, 0] > DEAD  # (B,)
        scores, choices = ops.top_k(ops.reshape(totals, flat), beam_width)
        lives = scores[:, 0] > DEAD
        # All paths that live have `t` labels: if none lives on, these were
        # the longest, and beam 0 is the best of them. It stays where it is,
        # since of equals, here -inf, `top_k` takes the first.
        parents = choices // num_labels
        labels, probabilities, new_state = tree.map_structure(
            lambda x: _gather(x, parents), (labels, probabilities, new_state)
        )

        label = ops.cast(choices % num_labels, "int32")
        probability = ops.exp(
            ops.take_along_axis(
                ops.reshape(log_probabilities, flat), choices, axis=1
            )
        )
        now = lives[:, None] & (ops.arange(max_length) == t)  # (B, T)
        labels = ops.where(now[:, None], label[..., None], labels)
        probabilities = ops.where(
            now[:, None], probability[..., None], probabilities
        )
        state = tree.map_structure(
            lambda new, old: _where(searched, new, old), new_state, state
        )
        paths = ops.where(now[..., None], labels[:, :1], paths)
        path_probabilities = ops.where(
            now, ops.exp(scores[:, :1]), path_probabilities
        )
        beams = labels, probabilities, state
        return t + 1, scores, beams, (paths, path_probabilities)

    def goes_on(t, scores, beams, best):
        return (t < max_length) & ops.any(scores[:, 0] > DEAD)

    batch = ops.shape(tree.flatten(state)[0])[0]
    # One empty path an image, or all beams would find the same.
    scores = ops.where(ops.arange(beam_width) == 0, 0.0, DEAD)
    beams = (
        ops.full((batch, beam_width, max_length), -1, "int32"),
        ops.zeros((batch, beam_width, max_length), "float32"),
        tree.map_structure(
            lambda x: ops.repeat(x[:, None], beam_width, axis=1), state
        ),
    )
    best = (
        ops.full((batch, max_length, max_length), -1, "int32"),
        ops.zeros((batch, max_length), "float32"),
    )
    _, _, beams, best = ops.while_loop(
        goes_on,
        lengthen,
        (0, scores + ops.zeros((batch, 1)), beams, best),
    )
    labels, probabilities, state = tree.map_structure(lambda x: x[:, 0], beams)
    lengths = ops.sum(ops.cast(labels >= 0, "int32"), axis=1)
    return Paths(labels, probabilities, lengths, state, *best)


def _gather(x, parents):
    """Takes beam `parents[b, w]` of image `b`, for all `b` and `w`."""
    batch, beam_width, *shape = ops.shape(x)
    rows = ops.arange(batch)[:, None] * beam_width + parents
    return ops.take(ops.reshape(x, (-1, *shape)), rows, axis=0)


def _where(images, x, y):
    images = ops.reshape(images, (-1, *(1 for _ in x.shape[1:])))
    return ops.where(images, x, y)
