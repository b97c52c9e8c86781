"""A thread for work beside the network."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch


def side_thread(name: str) -> ThreadPoolExecutor:
    """A thread for work beside the network, whose PyTorch operations take one core each.

    Every Python thread has an OpenMP team of its own, by default as large as the machine. Two such teams on the same
    cores wait for each other at every operation.
    """
    thread, cores = ThreadPoolExecutor(1, name), torch.get_num_threads()
    # PyTorch's setting is of the thread that calls it, and the default that a thread begins with when it first asks.
    # So the new thread asks before it sets its own, and the old default is put back afterwards.
    for step in (torch.get_num_threads, lambda: torch.set_num_threads(1)):
        thread.submit(step).result()
    torch.set_num_threads(cores)
    return thread
