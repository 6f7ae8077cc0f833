"""A flag that a worker's parent process sets and its pool's children see: the worker is shutting down.

It is made before the pool forks, so that parent and children share it. It is a byte of shared memory and no Event: that
has a lock, and a child killed while it looks would keep it for ever, from its parent and from whoever replaces it.
"""

from __future__ import annotations

from mmap import mmap


class SharedFlag:
    """Set once, seen by every process forked after it was made."""

    def __init__(self) -> None:
        self._byte = mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1


stopping = SharedFlag()
