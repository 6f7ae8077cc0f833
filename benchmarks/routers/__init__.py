"""Routers: speed against peers, growth with data."""
