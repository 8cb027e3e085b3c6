"""Memory of batches, which would go to the system and back for each of them."""

import ctypes
import functools
import platform

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1  # bytes, the most that an int says


@functools.cache
def keep():
    """Makes glibc keep what was freed, in this process and from now on.

    A batch of 16 images of 448 pixels takes 38 MB. What is above 32 MiB glibc
    gives back when it is freed, and the system clears each of its 9,400 pages
    again for the next batch: a third to a half of the time that a batch takes.
    Above 64 MiB it does so in any case, but in the main thread.

    What a thread has freed it keeps for itself, so a process grows by up to a
    batch for each thread that makes some, and does not get smaller again. That
    is for a program to decide: the recipes do, the library does not.

    Returns:
        bool. Whether it was done: other C libraries have no such switch.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    # A library put before glibc's has a `mallopt` that does nothing, or none.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
    # The second alone would make it worse: glibc then learns no more from what
    # is freed, and gives back already what is above 128 KiB.
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
