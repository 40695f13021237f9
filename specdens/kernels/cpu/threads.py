"""How many threads take part in a piece of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from numba import get_num_threads, set_num_threads

__all__ = ["one_thread_if"]


@contextmanager
def one_thread_if(small: bool) -> Iterator[None]:
    """Keep to one thread within: others may be busy elsewhere, and go on waiting for work later."""
    threads = get_num_threads()
    set_num_threads(1 if small else threads)
    try:
        yield
    finally:
        set_num_threads(threads)
