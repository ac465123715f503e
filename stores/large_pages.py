"""Memory on large pages, for what is read in thousands of places far apart, as a graph is while it is searched.

With pages of 4 KB nearly each of those places costs a walk through the tables of pages as well, and through two of them
on a virtual machine. The system gives pages of 2 MB to memory for which that is asked, whichever library took it.

Linux alone. Elsewhere, and where the system has none to give, memory stays as it is.
"""

import contextlib
import ctypes
from collections.abc import Iterator

LEAST_BYTES = 4 << 20  # of a piece of memory; smaller ones are left alone
_HUGEPAGE, _COLLAPSE = 14, 25  # madvise(2): for what is touched from now on; for what is there already, at once
Span = tuple[int, int]  # first byte, and the byte behind the last


@contextlib.contextmanager
def on_large_pages() -> Iterator[None]:
    """Memory that the system gives this process meanwhile, in pieces of 4 MiB or more, is moved to large pages.

    What `malloc` takes of memory that it has already stays as it is: any piece that a process has let go of and that is
    large enough, and of less than 32 MiB nearly always.
    """
    before = _anonymous()
    yield
    for span in set(_anonymous()) - set(before):
        for start, end in _left(span, before):
            if end - start >= LEAST_BYTES:
                _advise(start, end)


def _anonymous() -> list[Span]:
    """The process's own memory that is no file's, ascending; nothing where the system does not tell."""
    try:
        with open("/proc/self/maps") as file:
            rows = [line.split() for line in file]
    except OSError:
        return []
    # Start and end, permissions, offset, device, inode, and, of files, stacks and the like, a name.
    own = (row for row in rows if row[1] == "rw-p" and row[5:] in ([], ["[heap]"]))
    spans = [row[0].split("-") for row in own]
    return [(int(start, 16), int(end, 16)) for start, end in spans]


def _left(span: Span, taken: list[Span]) -> Iterator[Span]:
    """What of a span no other covers: neighbouring memory is told as one piece, old and new."""
    start, end = span
    for first, behind in taken:
        if behind <= start or first >= end:
            continue
        if first > start:
            yield start, first
        start = max(start, behind)
    if start < end:
        yield start, end


def _advise(start: int, end: int) -> None:
    """Asks; an answer of "no" costs time alone, and is no error."""
    with contextlib.suppress(OSError, AttributeError):  # no libc of this kind
        libc = ctypes.CDLL(None)
        for advice in (_HUGEPAGE, _COLLAPSE):
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(advice))
