"""Private random generators, one per purpose: methods compared at one seed see identical batches and crops."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed from the run's seed and what it is for; the same on every machine."""
    digest = hashlib.sha256("/".join(str(part) for part in (seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def private_random(seed: int, *purpose: str | int) -> random.Random:
    """A `random.Random` of its own for one purpose."""
    return random.Random(derive_seed(seed, *purpose))


@contextmanager
def seeded_torch(seed: int, *purpose: str | int) -> Iterator[None]:
    """Torch's global generators seeded for one purpose inside the block, and as they were after it.

    For what can draw from nothing else: peft's initialisation of adapters, dropout.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive_seed(seed, *purpose))
        yield
