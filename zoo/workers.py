"""Several processes, the workers, that train one model together.

Each has its own devices, perhaps on a machine of its own, and finds the others
by the environment variable `TF_CONFIG`, see `cluster`. All run the same
program on the same data. In every step each learns from its share of the
batch, and their gradients are summed, so all keep the same weights. Worker 0,
the chief, alone writes files and reads checkpoints; what it reads it sends.

Whatever is exchanged here is a call that all workers make, in the same order:
one that leaves out a call leaves the others waiting.
"""

import contextlib
import json
import os
import re

import keras
import numpy as np
import tensorflow as tf

LOST = (  # what the collective operations of the others then end with
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
)
# In their text, which begins with where in the graph it was.
_CAUSE = re.compile(
    r"aborted by: (.+?)\s*(?:Additional GRPC|The error could be|\Z)", re.DOTALL
)


def cluster():
    """Reads from `TF_CONFIG` which of how many workers this process is.

    The variable is JSON, with the same addresses in every worker:

        {"cluster": {"worker": ["host-0:2222", "host-1:2222"]},
         "task": {"type": "worker", "index": 0}}

    The first worker is the chief, or the one of the kind `"chief"`, which some
    platforms name apart.

    Returns:
        `(index, count)`; `(0, 1)` where there is no such variable.

    Raises:
        ValueError: If it is something else; names the field.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return 0, 1
    expected = (
        "`TF_CONFIG` must be JSON like "
        '{"cluster": {"worker": ["host-0:2222", "host-1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}. Received: '
    )
    try:
        config = json.loads(text)
        addresses, task = dict(config["cluster"]), config["task"]
        kind, number = task["type"], int(task["index"])
        chiefs = len(addresses.pop("chief", ()))
        num_workers = len(addresses.pop("worker", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{expected}{text} ({error!r})") from error
    if addresses or kind not in ("chief", "worker"):
        raise ValueError(
            f"{expected}tasks of other kinds than worker and chief: "
            f"cluster has {sorted(addresses)}, task.type={kind!r}"
        )
    if not 0 <= number < {"chief": chiefs, "worker": num_workers}[kind]:
        raise ValueError(
            f"{expected}task.index={number}, task.type={kind!r} of {chiefs} "
            f"chiefs and {num_workers} workers"
        )
    return number + chiefs * (kind == "worker"), chiefs + num_workers


def is_chief():
    """Tells whether this process is the one that writes files."""
    return cluster()[0] == 0


def count(strategy):
    """Gives the number of workers of a strategy, 1 where it knows no others."""
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return cluster()[1] if several else 1


def index(strategy):
    """Tells which of the strategy's workers this process is."""
    return cluster()[0] if count(strategy) > 1 else 0


def share(strategy, num_examples):
    """Gives the slice of some examples that this worker looks at.

    Args:
        strategy: `tf.distribute.Strategy`.
        num_examples: int, at least the number of workers.

    Returns:
        slice; those of all workers, end to end, are all examples.

    Raises:
        ValueError: If some worker would have none.

    Example:

    >>> share(tf.distribute.get_strategy(), 10)
    slice(0, 10, None)
    """
    workers = count(strategy)
    if num_examples < workers:
        raise ValueError(
            "Every worker must have an image to look at. "
            f"Received: {num_examples} images for {workers} workers"
        )
    ends = [num_examples * i // workers for i in range(workers + 1)]
    i = index(strategy)
    return slice(ends[i], ends[i + 1])


def from_chief(strategy, make):
    """Gives every worker what the chief makes.

    Args:
        strategy: `tf.distribute.Strategy`.
        make: callable without arguments, called by the chief alone; what it
            gives is ready for JSON.

    Returns:
        What `make` gave. With one worker that is all that happens.
    """
    if count(strategy) == 1:
        return make()
    text = json.dumps(make()).encode() if is_chief() else b""
    (length,) = total(strategy, np.array([len(text)], "int32"))
    padded = text.ljust(length, b"\0")
    numbers = np.frombuffer(padded, "uint8").astype("int32")
    return json.loads(total(strategy, numbers).astype("uint8").tobytes())


def spread(strategy, variables):
    """Sets variables to the values that they have in the chief.

    Args:
        strategy: `tf.distribute.Strategy`.
        variables: list of Keras variables, of the same shapes in every worker.
    """
    if count(strategy) == 1:
        return
    floats = [v for v in variables if "float" in v.dtype]
    others = [v for v in variables if "float" not in v.dtype]
    for some, dtype in ((floats, "float32"), (others, "int64")):
        if not some:
            continue
        values = [keras.ops.convert_to_numpy(v).astype(dtype) for v in some]
        if not is_chief():  # what the others have adds nothing
            values = [np.zeros_like(value) for value in values]
        sums = _totals(strategy, values)
        for variable, value in zip(some, sums, strict=True):
            variable.assign(value.astype(variable.dtype))


def gather(strategy, outputs, num_examples):
    """Puts together what the workers have computed, each of its share.

    Args:
        strategy: `tf.distribute.Strategy`.
        outputs: array, or dict of arrays, one row for each example of the
            worker's `share`.
        num_examples: int. Of all workers.

    Returns:
        The same with one row for each of all examples, in their order.
    """

    def gather_one(rows):
        everything = np.zeros((num_examples, *rows.shape[1:]), rows.dtype)
        everything[share(strategy, num_examples)] = rows
        return total(strategy, everything)

    return keras.tree.map_structure(gather_one, outputs)


def total(strategy, array):
    """Sums an array over the workers.

    Args:
        strategy: `tf.distribute.Strategy`.
        array: NumPy array, of the same shape and dtype in every worker.

    Returns:
        NumPy array of that shape and dtype.
    """
    array = np.asarray(array)
    replicas = strategy.num_replicas_in_sync // count(strategy)

    def of_replica(context):
        # The first of a worker's replicas speaks for it.
        first = context.replica_id_in_sync_group % replicas == 0
        return tf.constant(array if first else np.zeros_like(array))

    values = strategy.experimental_distribute_values_from_function(of_replica)
    return strategy.reduce("SUM", values, axis=None).numpy()


def _totals(strategy, arrays):
    """Sums arrays of one dtype over the workers, in one exchange."""
    ends = np.cumsum([array.size for array in arrays])
    flat = np.concatenate([array.ravel() for array in arrays])
    parts = np.split(total(strategy, flat), ends[:-1])
    return [
        part.reshape(array.shape)
        for part, array in zip(parts, arrays, strict=True)
    ]


def average(strategy, variables):
    """Sets variables to their means over all replicas of all workers.

    Args:
        strategy: `tf.distribute.Strategy`, in whose scope they were made.
        variables: list of Keras variables, float.
    """
    if not variables or strategy.num_replicas_in_sync == 1:
        return
    means = [
        np.mean(strategy.experimental_local_results(variable.value), axis=0)
        for variable in variables
    ]
    for variable, mean in zip(variables, _totals(strategy, means), strict=True):
        variable.assign(mean / count(strategy))


@contextlib.contextmanager
def named_if_lost():
    """Says what to do where another worker does not answer any more.

    Raises:
        ConnectionError: In place of TensorFlow's error of an exchange.
    """
    try:
        yield
    except LOST as error:
        if cluster()[1] == 1 or "ollective" not in str(error):
            raise
        found = _CAUSE.search(str(error))
        reason = found[1] if found else str(error).strip().partition("\n")[0]
        raise ConnectionError(
            "Another worker was lost, or has ended with an error of its own. "
            "Start all workers again, by the same commands with --resume. "
            f"Received: {type(error).__name__}: {' '.join(reason.split())}"
        ) from error


def prepare(model):
    """Makes `fit` of a compiled model start sooner, and work in all workers.

    Keras 3.15 does two things that fail in several workers: it takes the mean
    of a batch over all of them for a tensor, to build what is not built yet,
    and it takes means of logs that are scalars over an axis. Our models are
    functional, and one loss has no variables, so that only the optimizer is
    built here: in one worker, too, this saves an iterator, a batch and a trace
    of the model. Logs are averaged over the replicas, as in one worker.

    Args:
        model: `keras.Model`, compiled without metrics, whose variables a step
            would have to make. To be called after each `compile`.
    """
    strategy = model.distribute_strategy
    with strategy.scope():
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    model._maybe_symbolic_build = lambda **_: None
    if count(strategy) == 1:
        return

    names = []

    def step(batch):
        logs = model.train_step(batch)
        names[:] = logs
        return tf.stack([tf.cast(log, "float32") for log in logs.values()])

    @tf.function(reduce_retracing=True)
    def train_function(iterator):
        logs = strategy.run(step, args=(next(iterator),))
        logs = strategy.reduce("MEAN", logs, axis=None)  # one exchange
        return dict(zip(names, tf.unstack(logs), strict=True))

    model.train_function = train_function


def distribute(strategy, batches, batch_size):
    """Gives the batches of a worker as what `fit` takes.

    Args:
        strategy: `tf.distribute.Strategy`.
        batches: `tf.data.Dataset`, of the worker's share of each batch.
        batch_size: int. Examples in a step, over all replicas of all workers.

    Returns:
        With one worker the same dataset, which `fit` shares out itself; with
        several, the `tf.distribute.DistributedDataset`.
    """
    if count(strategy) == 1:
        return batches
    of_replica = batch_size // strategy.num_replicas_in_sync
    return strategy.distribute_datasets_from_function(
        lambda _: batches.rebatch(of_replica)
    )
