"""Work on several cores at once, each of which computes alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def cores(count: int) -> Iterator[ThreadPoolExecutor]:
    """So many threads, or as many as torch uses where that is fewer; in each, an operation of torch takes one thread."""
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(min(threads, count), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool
    torch.set_num_threads(threads)  # for the threads to come
