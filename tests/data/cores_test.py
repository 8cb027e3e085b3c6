import os
import pathlib
from unittest import mock

import tensorflow as tf
from absl.testing import parameterized

from zoo.data import cores


class CoresTest(parameterized.TestCase, tf.test.TestCase):
    @parameterized.parameters(
        (None, 8),  # no container
        ("max 100000", 8),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("1600000 100000", 8),
    )
    def test_limits_count(self, limit, expected):
        path = pathlib.Path(self.get_temp_dir()) / "none"
        if limit:
            path = path.with_name("cpu.max")
            path.write_text(limit + "\n")
        with (
            mock.patch.object(os, "sched_getaffinity", lambda _: set(range(8))),
            mock.patch.object(cores, "CPU_MAX", path),
        ):
            self.assertEqual(cores.count(), expected)
