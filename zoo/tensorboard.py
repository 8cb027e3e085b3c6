"""What TensorBoard shows of a training: its course, and a trace of steps."""

import contextlib

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.histogram import metadata as histogram
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.pr_curve import summary as pr_curve

PICTURES = 10  # times in a run that TensorBoard gets new ones
BUCKETS = 50  # of the histograms of scores, from 0 to 1
WARM_UP = 5  # steps that compile, and fill queues and caches


class TensorBoard(keras.callbacks.Callback):
    """Writes scalars, scores, curves of precision over recall, and pictures.

    `keras.callbacks.TensorBoard` cannot read a `MultiOptimizer`.

    Args:
        directory: str or path of the event files.
        classes: tuple of str.
        validation: the run's `zoo.training.Validation`.
        pictures: callable that takes the model and the probabilities of the
            validation images, and gives a dict from title to an RGB uint8
            array `(num_pictures, height, width, 3)`. It takes seconds, so it
            is called about `PICTURES` times in a run.
        hyperparameters: dict of numbers, strings and booleans, by which
            TensorBoard compares runs.
        every_steps: int. Distance between two values of the training loss.
    """

    def __init__(
        self,
        directory,
        classes,
        validation,
        pictures,
        hyperparameters,
        every_steps=20,
    ):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(directory))
        self.classes = classes
        self.validation = validation
        self.pictures = pictures
        self.hyperparameters = hyperparameters
        self.every_steps = every_steps
        self.step = 0

    def on_train_begin(self, logs=None):
        """Goes on where a resumed run was stopped."""
        iterations = self.model.optimizer.iterations
        self.step = int(keras.ops.convert_to_numpy(iterations))
        with self.writer.as_default():
            hparams.hparams(self.hyperparameters)

    def on_train_batch_end(self, batch, logs=None):
        """Writes the training loss, a mean since the epoch began."""
        self.step += 1
        if self.step % self.every_steps == 0:
            with self.writer.as_default(self.step):
                tf.summary.scalar("steps/loss", logs["loss"])

    def on_epoch_end(self, epoch, logs=None):
        """Writes the logs, the AP of each class, scores and pictures."""
        targets = self.validation.targets
        probabilities = self.validation.probabilities
        ap = self.validation.average_precision
        # Without an example of a class it has no AP, and no curve.
        known = [
            (k, self.classes[k]) for k in np.flatnonzero(~np.isnan(ap)).tolist()
        ]
        with self.writer.as_default(epoch + 1):
            for name, value in logs.items():
                tf.summary.scalar(f"epochs/{name}", value)
            for k, name in known:
                tf.summary.scalar(f"AP/{name}", ap[k])
            write_histogram("scores/present", probabilities[targets == 1])
            write_histogram("scores/absent", probabilities[targets == 0])
            epochs = self.params["epochs"]
            if epoch + 1 == epochs or epoch % -(-epochs // PICTURES) == 0:
                for k, name in known:
                    write_curve(name, targets[:, k], probabilities[:, k])
                pictures = self.pictures(self.model, probabilities)
                for title, images in pictures.items():
                    tf.summary.image(title, images, max_outputs=len(images))
        self.writer.flush()

    def on_train_end(self, logs=None):
        """Closes the event file."""
        self.writer.close()


def write_histogram(name, probabilities):
    """Writes how often each probability is given, for the current step.

    `tf.summary.histogram` takes 240 bytes of memory for each of them, often a
    GPU's, and buckets whose edges move from one epoch to the next.

    Args:
        name: str.
        probabilities: array of any shape.
    """
    counts, edges = np.histogram(probabilities, BUCKETS, (0, 1))
    tf.summary.write(
        name,
        np.stack([edges[:-1], edges[1:], counts], axis=1),
        metadata=histogram.create_summary_metadata(None, None),
    )


def write_curve(name, targets, probabilities):
    """Writes a class' precision over recall, for the current step.

    At the 201 thresholds of TensorBoard's plugin for such curves.

    Args:
        name: str, the class.
        targets: array of shape `(num_examples,)`: 1, 0, or -1 for unknown,
            which is left out.
        probabilities: array of the same shape, 0 to 1.
    """
    curve = pr_curve.pb(
        f"precision_recall/{name}",
        targets == 1,
        probabilities,
        weights=targets != -1,
        display_name=name,
    )
    tf.summary.experimental.write_raw_pb(curve.SerializeToString())


class Profile(keras.callbacks.Callback):
    """Traces a few steps of a training, for TensorBoard's profiler.

    The first step, which compiles, is never among them, nor are those up to
    `WARM_UP` where enough others follow. All are of one epoch, so that no
    validation is in between: the first epoch that has such steps. To be used
    within `no_trace_left`, before the callbacks that predict.

    Args:
        directory: str or path. Of the event files; the trace is written to a
            folder in it, `plugins/profile`.
        num_steps: int, at least 1. Steps to trace, if the epoch has as many.
    """

    def __init__(self, directory, num_steps):
        super().__init__()
        self.directory = directory
        self.num_steps = num_steps
        self.seen = 0  # steps of this training, from where it was resumed
        self.traced = 0
        self.tracing = False
        self.message = (
            "No step was traced: the first one, which compiles, is left out."
        )

    def on_epoch_begin(self, epoch, logs=None):
        """Says where the trace is; within an epoch Keras' bar would be torn."""
        self.epoch = epoch
        if self.traced:
            self._say()

    def on_train_batch_begin(self, batch, logs=None):
        """Begins the trace, or a step of it."""
        if not self.tracing:
            others = (self.params["steps"] or np.inf) - self.num_steps
            if self.traced or self.seen < np.clip(others, 1, WARM_UP):
                return
            tf.profiler.experimental.start(str(self.directory))
            self.tracing = True
        # By this name the profiler tells steps from one another.
        self.mark = tf.profiler.experimental.Trace(
            "train", step_num=batch + 1, _r=1
        )
        self.mark.__enter__()

    def on_train_batch_end(self, batch, logs=None):
        """Ends a step of the trace, or all of it."""
        self.seen += 1
        if not self.tracing:
            return
        self.mark.__exit__(None, None, None)
        self.traced += 1
        first = batch + 2 - self.traced
        self.message = (
            f"Steps {first} to {batch + 1} of epoch {self.epoch + 1} are "
            f"traced in {self.directory}: TensorBoard shows them under "
            "Profile, with its plugin (pip install xprof)."
        )
        if self.traced == self.num_steps:
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        """Ends a trace that asked for more steps than the epoch has."""
        if self.tracing:
            self._stop()

    def on_train_end(self, logs=None):
        """Says where the trace is, after a training of one epoch."""
        self._say()

    def _stop(self):
        tf.profiler.experimental.stop()
        self.tracing = False

    def _say(self):
        if self.message:
            print(self.message, flush=True)
        self.message = None


@contextlib.contextmanager
def no_trace_left():
    """Ends, and keeps, the trace of a training that is interrupted within.

    Keras calls no callback where `fit` raises, and there is but one profiler.
    """
    try:
        yield
    finally:
        with contextlib.suppress(tf.errors.UnavailableError):  # none is left
            tf.profiler.experimental.stop()
