"""Stacks under kills and faults, and what is held against them afterwards."""
