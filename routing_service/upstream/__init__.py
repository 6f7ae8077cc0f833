"""The way to the models: calls to OpenAI-compatible upstreams, and when not to make them.

Read `client` first (one call, always with an Outcome), then `outcome` (what an answer means for the money and for a
retry), `circuit_breaker` (models that are left alone) and `limiter` (how much may be sent now, by all pumps together).
"""
