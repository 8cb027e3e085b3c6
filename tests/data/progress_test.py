import contextlib
import io
from concurrent import futures
from unittest import mock

import tensorflow as tf

from zoo.data import progress


class ProgressTest(tf.test.TestCase):
    def printed(self, seconds, is_terminal=False, total=300):
        out = io.StringIO()
        out.isatty = lambda: is_terminal
        with (
            contextlib.redirect_stdout(out),
            mock.patch.object(progress, "SECONDS", seconds),
        ):
            shown = progress.Progress("Copied", total, "files")
            with futures.ThreadPoolExecutor(3) as pool:
                list(pool.map(shown.add, [1] * 300))
        self.assertEqual(shown.done, 300)
        return out.getvalue()

    def test_lines(self):
        lines = self.printed(seconds=-1).splitlines()
        self.assertLen(lines, 300)
        self.assertEqual(lines[-1], "Copied: 300 of 300 files")
        self.assertEqual(self.printed(seconds=60), "")

    def test_bar(self):
        self.assertIn("300/300", self.printed(60, is_terminal=True))
        self.printed(60, is_terminal=True, total=0)
