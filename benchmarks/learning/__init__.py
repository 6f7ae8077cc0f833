"""Learning: quality by method and by data, what fitting costs."""
