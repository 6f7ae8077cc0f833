"""`make bench`: every benchmark that needs no data of its own."""

from __future__ import annotations

from benchmarks import scale

scale.main()
