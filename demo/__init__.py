"""Demonstrations on this machine, without a key: `python -m demo.batch` and `python -m demo.learning`."""
