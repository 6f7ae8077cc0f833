"""Dispatching: speed and CPU against peers, scale, limits, waiting."""
