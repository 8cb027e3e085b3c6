"""The states of a training on disk: written whole, found again, restored.

A folder `epoch_0007` holds `state.weights.h5` (weights and optimizer) and
`state.json` (random states, and the logs of all epochs so far). It is written
under another name and renamed when it is whole and on the disk, so a run that
is killed at any moment leaves whole checkpoints only.

With several workers (see `zoo.workers`) the chief alone reads and writes them.
"""

import csv
import json
import math
import os
import pathlib
import shutil

import keras
import numpy as np

from zoo import runs, workers

WEIGHTS, STATE = "state.weights.h5", "state.json"
LEAST_ROOM = 2**20  # bytes, beside the weights


class Checkpoint(keras.callbacks.Callback):
    """Keeps the last and the best state of a run, each in its own folder.

    Args:
        directory: str or path.
        monitor: str. The entry of the logs whose highest value is the best.
        history: list of dict, what `resume` gave: the logs of the epochs so
            far. It grows by each epoch.

    Raises:
        OSError: If a checkpoint cannot be written, as on a full disk; names
            the last good one.
    """

    def __init__(self, directory, monitor, history):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.monitor = monitor
        self.history = history

    def on_epoch_end(self, epoch, logs=None):
        """Writes this epoch's folder, then removes those no longer needed."""
        self.history.append({name: float(logs[name]) for name in logs})
        if not workers.is_chief():
            return
        target = self.directory / f"epoch_{epoch + 1:04d}"
        temporary = target.with_suffix(".tmp")
        try:
            self._write(temporary)
            os.replace(temporary, target)
            runs.to_disk(self.directory)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise OSError(
                f"The checkpoint of epoch {epoch + 1} could not be written to "
                f"{target}: {error}. The last good checkpoint is "
                f"{last(self.directory) or 'none'}; --resume goes on from it."
            ) from error
        for folder in set(_folders(self.directory)) - {
            target,
            best(self.directory, self.monitor),
        }:
            # Killed while it removes, it must not leave half a checkpoint.
            removed = folder.rename(folder.with_suffix(".tmp"))
            shutil.rmtree(removed)

    def _write(self, folder):
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(parents=True)
        self._make_sure_of_room(folder / "room")
        self.model.save_weights(folder / WEIGHTS)
        state = {
            "history": self.history,
            # Random states are variables, but not weights.
            "random_states": [
                np.asarray(keras.ops.convert_to_numpy(variable)).tolist()
                for variable in _random_states(self.model)
            ],
        }
        (folder / STATE).write_text(json.dumps(state, indent=2))
        for path in (folder / WEIGHTS, folder / STATE, folder):
            runs.to_disk(path)

    def _make_sure_of_room(self, path):
        """Takes as much of the disk as the weights need, and gives it back.

        The library that writes them ends the process where a disk is full.
        """
        variables = [*self.model.weights, *self.model.optimizer.variables]
        num_bytes = sum(
            math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables
        )
        num_bytes += LEAST_ROOM + 4096 * len(variables)  # headers
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        path.unlink()


class HistoryFile(keras.callbacks.Callback):
    """Writes the logs of all epochs as a CSV file, one row an epoch.

    `keras.callbacks.CSVLogger` appends, so a run that is killed beside it has a
    row twice, or not at all. This one writes what the checkpoint knows.

    Args:
        path: as `write_history`.
        history: list of dict, as given to `Checkpoint`, which goes before.
    """

    def __init__(self, path, history):
        super().__init__()
        self.path = pathlib.Path(path)
        self.history = history

    def on_epoch_end(self, epoch, logs=None):
        """Writes the file beside its name and renames it."""
        write_history(self.path, self.history)


def write_history(path, history):
    """Writes the logs of all epochs so far; nothing before the first has ended.

    Args:
        path: `pathlib.Path` of the CSV file.
        history: list of dict, one an epoch, all with the same names.
    """
    if not history:
        return

    def write(temporary):
        with open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, ["epoch", *sorted(history[0])])
            writer.writeheader()
            for epoch, row in enumerate(history):
                writer.writerow({"epoch": epoch, **row})

    runs.write_beside(path, write)


def best(directory, monitor):
    """Gives the folder with the highest `monitor`, the later one of equals.

    Args:
        directory: str or path, as given to `Checkpoint`.
        monitor: str, likewise.

    Returns:
        `pathlib.Path`, or `None` before the first epoch has ended.
    """

    def rank(folder):
        value = _state(folder)["history"][-1][monitor]
        # Without a positive example there is no mAP: anything is better.
        return -math.inf if math.isnan(value) else value, folder.name

    return max(_folders(directory), key=rank, default=None)


def last(directory):
    """Gives the folder of the last epoch, `None` before the first one."""
    folders = _folders(directory)
    return folders[-1] if folders else None


def resume(model, directory):
    """Restores the last whole checkpoint, and removes what is left of others.

    Args:
        model: compiled `keras.Model`, the same as in the run that was stopped.
        directory: str or path, as given to `Checkpoint`.

    Returns:
        list of dict, the logs of the epochs that the checkpoint has seen;
        empty if there is none.
    """
    strategy = model.distribute_strategy
    if workers.is_chief():
        for half in pathlib.Path(directory).glob("*.tmp"):
            shutil.rmtree(half)
    folder = last(directory)
    history = workers.from_chief(
        strategy, lambda: _state(folder)["history"] if folder else []
    )
    if not history:
        return history
    load(model, folder)
    if any(group.use_ema for group in groups(model)):
        # An epoch ends with the averages in the model and its weights in
        # their place; training goes on from the weights.
        swap = keras.callbacks.SwapEMAWeights()
        swap.set_model(model)
        swap.on_test_begin()
    return history


def load(model, folder):
    """Loads weights, optimizer and random states of one checkpoint folder.

    Args:
        model: as `resume`.
        folder: `pathlib.Path`, which is that of the chief in every worker.
    """
    strategy = model.distribute_strategy
    # Keras' LossScaleOptimizer would make its variables a second time.
    if not model.optimizer.built:
        with strategy.scope():
            model.optimizer.build(model.trainable_variables)
    random_states = _random_states(model)
    if workers.is_chief():
        model.load_weights(folder / WEIGHTS)
        values = _state(folder)["random_states"]
        for variable, value in zip(random_states, values, strict=True):
            variable.assign(value)
    workers.spread(
        strategy, [*model.weights, *random_states, *model.optimizer.variables]
    )


def groups(model):
    """Lists the optimizers that change weights, not those around them.

    Args:
        model: compiled `keras.Model`.

    Returns:
        list of `keras.optimizers.Optimizer`.
    """
    # Under mixed_float16 Keras wraps the optimizer to scale the loss.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    return getattr(optimizer, "optimizers", [optimizer])


def _folders(directory):
    """Gives the whole checkpoint folders, in the order of their epochs."""
    folders = pathlib.Path(directory).glob("epoch_*")
    return sorted(folder for folder in folders if folder.suffix != ".tmp")


def _state(folder):
    return json.loads((folder / STATE).read_text())


def _random_states(model):
    weights = {id(weight) for weight in model.weights}
    return [v for v in model.variables if id(v) not in weights]
