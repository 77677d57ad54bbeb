"""Groups of experts on threads of their own.

Work on a few images gains little when two threads share each operation, and much when each has experts of its own:
the winners' update by a quarter, scoring by a tenth (docs/performance.md). On other devices there is one group.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "licm-experts", initializer=torch.set_num_threads, initargs=(1,))


def in_groups(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item], device: torch.device
) -> list[Result]:
    """Calls a function on groups of items: as many as torch has threads here, each on a thread with one of its own.

    Args:
        function: Must not touch what another group's call does. Whether it records gradients is as it is here.
        items: What is dealt out; their order within a group is kept.
        device: Where the function computes; on other than a CPU there is one group.

    Returns:
        The results, group by group; none without items.
    """
    threads = min(torch.get_num_threads() if device.type == "cpu" else 1, len(items))
    if threads <= 1:
        return [function(items)] if len(items) else []
    with_gradient = torch.is_grad_enabled()

    def call(group: Sequence[Item]) -> Result:
        with torch.set_grad_enabled(with_gradient):
            return function(group)

    return list(_pool(threads).map(call, [items[first::threads] for first in range(threads)]))
