"""How many cores this process may use."""

import math
import os
import pathlib

CPU_MAX = pathlib.Path("/sys/fs/cgroup/cpu.max")


def count():
    """Counts the cores that this process may use, at least one.

    A scheduler may have bound it to some cores of the machine, and a container
    may have a limit, such as `resources.limits.cpu` of Kubernetes, which is
    known where Linux has version 2 of its control groups.

    Returns:
        int.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not known outside of Linux
        cores = os.cpu_count() or 1
    try:
        quota, period = CPU_MAX.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # not in a container, or "max": no limit
        return cores
