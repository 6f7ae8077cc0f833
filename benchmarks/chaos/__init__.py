"""Chaos and stress: what survives kills, faults and a full disk."""
