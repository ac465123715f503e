"""What a worker process does before it imports anything else of ours."""

import logging

import torch


def start_worker() -> None:
    """One thread a process, since two of one thread get more done than one of two; and no chatter of the libraries."""
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)
