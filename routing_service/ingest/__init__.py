"""Ingest: the lines of a batch file are checked and become requests.

Read `ingest` first; `reader` cuts and reads the lines, `tally` sums up what passed and finds duplicates.
"""
