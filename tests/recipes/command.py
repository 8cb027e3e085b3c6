"""Runs a command of the project inside the test's process."""

import contextlib
import io
from unittest import mock

import keras


def run(main, *arguments):
    """Runs a command and gives what it printed and how it ended."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with mock.patch("sys.stdout", out), mock.patch("sys.stderr", err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            # Python prints a message that it is handed, and ends with 1.
            code = 1 if isinstance(end.code, str) else end.code or 0
            err.write(end.code if isinstance(end.code, str) else "")
    return out.getvalue(), err.getvalue(), code


@contextlib.contextmanager
def stopping_at(*counts):
    """Interrupts trainings at the beginnings of epochs, counted from 1.

    Gives a list that grows by `(model.name, epoch)` of every epoch begun.
    """
    fit, begun = keras.Model.fit, []

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            begun.append((self.model.name, epoch))
            if len(begun) in counts:
                raise KeyboardInterrupt

    def stopping(model, *arguments, callbacks, **options):
        fit(model, *arguments, callbacks=[*callbacks, Stop()], **options)

    with mock.patch.object(keras.Model, "fit", stopping):
        yield begun
