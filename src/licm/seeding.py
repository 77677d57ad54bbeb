"""Named random generators: each purpose has its own stream, derived from (seed, purpose).

One more draw in one place therefore changes nothing elsewhere, and a step that derives its generator from
its own number needs no saved random state to be resumed.
"""

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Returns a 63-bit seed that depends on `seed` and on every part of `purpose`.

    Args:
        seed: The run's seed.
        *purpose: What the randomness is for, for example `"batches", epoch`.

    Returns:
        An integer in [0, 2**63).

    >>> derive_seed(0, "batches", 1) == derive_seed(0, "batches", 1)
    True
    >>> derive_seed(0, "batches", 1) == derive_seed(0, "batches", 2)
    False
    """
    text = repr((int(seed), *purpose)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> "torch.Generator":
    """Returns a CPU generator seeded by `derive_seed(seed, *purpose)`.

    Draws are made on the CPU and moved, so that a seed means the same on every device.

    >>> import torch
    >>> a, b = generator(0, "noise"), generator(0, "noise")
    >>> bool(torch.rand(3, generator=a).equal(torch.rand(3, generator=b)))
    True
    """
    import torch  # here, as seeds are derived without it

    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@lru_cache(maxsize=8)
def shuffled(count: int, seed: int, *purpose: str | int) -> "torch.Tensor":
    """Returns the numbers below `count` in an order that depends on seed and purpose, int64; not to be changed.

    >>> shuffled(3, 0, "batches", 1).sort().values.tolist()
    [0, 1, 2]
    """
    import torch

    return torch.randperm(count, generator=generator(seed, *purpose))
