"""Commands about routers: train, score, calibrate, explain, import, and the versions that serve.

Read `scoring` first: how a command finds a router and reads prompts.
"""
