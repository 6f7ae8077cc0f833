"""Fitting: one module a method, found by name in `methods`.

Read `methods` first, then `gain`. `rated` and `tiers` serve the methods that rate models, `training_loop` those that
fine-tune a transformer, `calibration` all of them.
"""
