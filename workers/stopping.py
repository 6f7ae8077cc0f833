"""A flag that a worker's parent process sets and its pool's children see: the worker is shutting down.

It is made before the pool forks, so that parent and children share it.
"""

from __future__ import annotations

from multiprocessing import get_context

stopping = get_context("fork").Event()
