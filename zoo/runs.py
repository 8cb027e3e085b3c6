"""The folder of a run: what is in it, and that nothing in it is lost.

A file is written beside its name and renamed, so what is there is whole:

recipe.json       every number that changes the result, from the start
starts.json       commit, versions, devices and command of each start; one that
                  resumes is another
.lock             held by the process that writes here
history.csv       one row an epoch
checkpoints/      the last and the best epoch, for `--resume`
preliminary/      history, checkpoints, tensorboard of an earlier phase
global/, open/, gates/    history, tensorboard of RGNN's first three stages
tensorboard/      event files, the trace of `--profile`
model.keras       the best epoch's model
predictions.npz   image_ids, targets, probabilities of the test split, and what
                  else a method gives: predicted labels, their sequence
metrics.json      what was measured on them
pictures/         where the model looked, as PNG
export/           SavedModel versions, ready to serve
card.json         what the model is; written last: the run has ended
"""

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

import keras
import numpy as np

CARD = "card.json"
LOCK = ".lock"
METRICS = "metrics.json"
MODEL = "model.keras"
PREDICTIONS = "predictions.npz"
RECIPE = "recipe.json"
STARTS = "starts.json"


def check(directory, recipe, resume):
    """Makes sure that a run may write into a folder; writes nothing.

    Args:
        directory: `pathlib.Path` of the run.
        recipe: dict of what the run depends on, ready for JSON; some of it
            may not be known yet.
        resume: bool. Whether to go on with what is there, if anything is.

    Returns:
        bool. Whether the very run is there and has ended, so that nothing is
        left to do; only with `resume`.

    Raises:
        FileExistsError: If a finished run is there, or a stopped one, and
            `resume` is false.
        ValueError: If the run that is there had another recipe; names the
            fields.
    """
    path = directory / RECIPE
    ended = (directory / CARD).exists()
    if ended and not (resume and path.exists()):
        raise FileExistsError(
            f"{directory} holds a finished run, which is never overwritten. "
            "Choose another --output_dir, or delete the folder."
        )
    if not path.exists():
        return False
    if not resume:
        raise FileExistsError(
            f"{directory} holds a run that did not end. Go on with it by "
            "--resume, choose another --output_dir, or delete the folder."
        )
    if changed := differences(json.loads(path.read_text()), recipe):
        raise ValueError(
            f"The run in {directory} has another recipe, so it cannot be "
            f"resumed with this one: {changed}"
        )
    return ended


@contextlib.contextmanager
def claim(directory):
    """Makes sure that no other process writes into a folder, as of a run.

    The claim ends with the context, or with the process.

    Args:
        directory: `pathlib.Path`, which is there.

    Raises:
        FileExistsError: If another process has a claim.
    """
    path = directory / LOCK
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had a claim may have removed the file that was opened here.
            is_held = os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
        except (BlockingIOError, PermissionError, FileNotFoundError):
            is_held = False
        except OSError:
            is_held = True  # some file systems have no locks
        if not is_held:
            raise FileExistsError(
                f"Another process is writing into {directory}. Wait for its "
                "end, or choose another --output_dir."
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def begin(directory, recipe, start, resume):
    """Takes a folder for a run, until this process ends.

    Args:
        directory: `pathlib.Path` of the run; it is made if it is not there.
        recipe: dict, as `check`, complete.
        start: dict, ready for JSON: what may change the result beside the
            recipe, such as the commit. It is noted behind those of the
            processes that have been here before.
        resume: bool, as `check`.

    Returns:
        list of dict, all starts, this one the last, and a context manager
        that holds the folder.

    Raises:
        FileExistsError: As `claim` and `check`, which are asked once more.
        ValueError: As `check`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        held.enter_context(claim(directory))
        if check(directory, recipe, resume):
            raise FileExistsError(
                f"Another process has ended the run in {directory} just now."
            )
        path = directory / STARTS
        before = json.loads(path.read_text()) if path.exists() else []
        starts = [*before, start]
        write_json(path, starts)
        write_json(directory / RECIPE, recipe)
        return starts, held.pop_all()


def differences(then, now):
    """Says in what two recipes differ.

    Args:
        then: dict, as JSON gives it back.
        now: dict; what it lacks is not compared.

    Returns:
        str, empty if they do not differ.

    Example:

    >>> differences({"seed": 0, "epochs": 3}, {"seed": 1})
    'seed: 0 then, 1 now'
    """
    # JSON has lists for tuples: compare what it would give back.
    now = json.loads(json.dumps(now))
    return "; ".join(
        f"{key}: {then.get(key)!r} then, {now[key]!r} now"
        for key in sorted(now)
        if then.get(key) != now[key]
    )


def finished(directory):
    """Reads the card of a finished run.

    Args:
        directory: str or path of the run.

    Returns:
        dict, the model card.

    Raises:
        FileNotFoundError: If there is no finished run.
    """
    path = pathlib.Path(directory) / CARD
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected the folder of a finished run, with a {CARD} in it. "
            f"Received: {str(directory)!r}"
        )
    return json.loads(path.read_text())


def write_json(path, value):
    """Writes beside the file and renames, so that a file is always whole."""
    write_beside(path, lambda temporary: temporary.write_text(_text(value)))


def save_model(path, model):
    """Saves a functional model alone, without loss and optimizer."""
    bare = keras.Model(model.input, model.output, name=model.name)
    write_beside(path, bare.save)


def save_predictions(
    path,
    examples,
    targets,
    outputs,
    probabilities,
    predicted=None,
    labels=None,
    other_scores=None,
):
    """Saves what was predicted, with the ids of the images, as NumPy arrays.

    Args:
        path: `pathlib.Path` to write.
        examples: list of `zoo.data.example.Example`.
        targets: array of shape `(num_examples, num_classes)`.
        outputs: what `zoo.training.predict` gives: logits, or a dict, whose
            `sequence` and `sequence_probabilities` are saved, too.
        probabilities: as `zoo.reports.measure` takes them.
        predicted: likewise.
        labels: likewise, which is saved, too.
        other_scores: likewise; each is saved by its name.
    """
    arrays = {
        "image_ids": np.array([example.image_id for example in examples]),
        "targets": targets,
        "probabilities": probabilities,
        **(other_scores or {}),
    }
    if predicted is not None:
        arrays["predicted"], arrays["labels"] = predicted, labels
    if isinstance(outputs, dict):
        for name in ("sequence", "sequence_probabilities"):
            arrays[name] = outputs[name]
    write_beside(
        path, lambda temporary: np.savez_compressed(temporary, **arrays)
    )


def versions():
    """Lists what the numbers of a run may depend on beside its recipe."""
    packages = ("multilabel-zoo", "tensorflow", "keras", "keras-hub", "numpy")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        # Whether TensorFlow computes by oneDNN: 1, 0, or as it sees fit.
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "by itself"),
    }


def commit():
    """Gives the commit of the checkout this file is in, `None` outside one."""
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    run = functools.partial(
        subprocess.run, capture_output=True, text=True, check=True
    )
    try:
        # An installed copy may lie in a checkout of something else.
        run([*git, "ls-files", "--error-unmatch", pathlib.Path(__file__).name])
        describe = ["describe", "--always", "--dirty", "--abbrev=40"]
        return run([*git, *describe, "--exclude=*"]).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def write_beside(path, write):
    """Writes a file under another name, then renames it.

    It is on the disk before it has its name, so that a machine which goes down
    leaves the old file or the new one.

    Args:
        path: `pathlib.Path`; its folder is made if it is not there.
        write: callable that takes the temporary path and writes it.

    Raises:
        OSError: If it cannot be written, as on a full disk; names a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: Keras and NumPy choose the format by it.
    temporary = path.with_name(f".writing-{path.name}")
    try:
        write(temporary)
        to_disk(temporary)
        os.replace(temporary, path)
        to_disk(path.parent)
    except OSError as error:
        if error.filename is not None:
            raise
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def to_disk(path):
    """Waits until a file, or the names in a folder, would survive a crash.

    Args:
        path: str or path.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(value):
    # Other programs do not read Python's NaN.
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
