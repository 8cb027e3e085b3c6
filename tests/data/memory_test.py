import ctypes
import platform
import subprocess
import sys
import textwrap
import unittest
from unittest import mock

import tensorflow as tf

from zoo.data import memory

# Takes and frees as much as a batch again and again, in a thread as tf.data
# does; prints how many pages the system had to clear for it.
TAKES = """
    import resource, runpy, sys, threading

    keep = runpy.run_path(sys.argv[2])["keep"]  # without TensorFlow

    if sys.argv[1] == "keep":
        assert keep() and keep()

    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def take():
        taken = bytearray(38 * 10**6)
        taken[::4096] = b"x" * len(taken[::4096])

    def take_often():
        take()
        before = faults()
        for _ in range(10):
            take()
        print(faults() - before)

    thread = threading.Thread(target=take_often)
    thread.start()
    thread.join()
"""


class MemoryTest(tf.test.TestCase):
    @unittest.skipUnless(platform.libc_ver()[0] == "glibc", "of glibc only")
    def test_what_was_freed_is_used_again(self):
        faults = [
            int(
                subprocess.run(
                    [
                        *(sys.executable, "-c", textwrap.dedent(TAKES)),
                        *(mode, memory.__file__),
                    ],
                    capture_output=True,
                    check=True,
                ).stdout
            )
            for mode in ("leave", "keep")
        ]
        self.assertLess(faults[1], faults[0] / 20, faults)

    def test_other_libraries_have_no_such_switch(self):
        with mock.patch.object(platform, "libc_ver", return_value=("", "")):
            self.assertFalse(memory.keep.__wrapped__())

    def test_does_all_of_it_or_nothing(self):
        library = mock.Mock()
        library.mallopt.return_value = 0
        with (
            mock.patch.object(
                platform, "libc_ver", return_value=("glibc", "2.28")
            ),
            mock.patch.object(ctypes, "CDLL", return_value=library),
        ):
            self.assertFalse(memory.keep.__wrapped__())
        library.mallopt.assert_called_once_with(memory.M_MMAP_MAX, 0)
