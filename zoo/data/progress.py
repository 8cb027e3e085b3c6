"""How far a long job is: a bar on a terminal, now and then a line elsewhere."""

import sys
import threading
import time

import keras

SECONDS = 30  # between two lines


class Progress:
    """Shows how much of something is done; threads may share it.

    Args:
        title: str. What is done, for the lines.
        total: int. How much there is.
        unit: str. Of what.
        least: int. A job of fewer shows nothing.

    Example:

    >>> progress = Progress("copied", total=3, unit="files")
    >>> progress.add(3)
    >>> progress.done
    3
    """

    def __init__(self, title, total, unit, least=0):
        self.title, self.total, self.unit = title, total, unit
        self.done = 0
        self._lock = threading.Lock()
        self._printed = time.monotonic()
        self._bar = None
        self._is_shown = total >= least
        if self._is_shown and sys.stdout.isatty():
            # Keras' bar cannot be of nothing.
            self._bar = keras.utils.Progbar(max(total, 1), unit_name=unit)

    def add(self, amount=1):
        """Counts what is done, and shows it.

        Args:
            amount: int. How much more than before.
        """
        with self._lock:
            self.done += amount
            if self._bar:
                self._bar.update(self.done)
            elif self._is_shown and time.monotonic() - self._printed > SECONDS:
                self._printed = time.monotonic()
                print(
                    f"{self.title}: {self.done} of {self.total} {self.unit}",
                    flush=True,
                )
