"""Commands about routers: train, score, calibrate, explain, import, and the versions that batches are routed by.

Read `choice` first, how a command finds a router, and `prompts`, how it reads a file. `train` reads comparisons by
`training_sources`, leaves some out by `decontamination`, and reads `--set` by `method_options`.
"""
