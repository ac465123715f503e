"""How this process gives memory back to the system."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h


def keep_freed_memory() -> None:
    """Lets the process keep the memory that it frees; does nothing where the C library is not glibc.

    A training step frees some hundred megabytes that the next one asks for again. Given back in between, every page of
    them is fetched and zeroed by the system anew: 6 to 8 % of the CPU time of a step, measured at `small`.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
