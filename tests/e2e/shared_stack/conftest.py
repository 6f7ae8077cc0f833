"""One stack for all tests of this folder, for a start takes seconds: they run in one process, one after the other.

It lives in a directory too deep for sockets, with a name that configuration files would stumble over.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from tests.support.stack import RunningStack
from tests.support.upstreams.sandbox_server import Sandbox, run_sandbox

CONFIG = """
[models.strong]
name = "sandbox-strong"
base_url = "{url}"
input_usd_per_million = 10
output_usd_per_million = 30
max_output_tokens = 256
max_concurrency = 8
[models.weak]
name = "sandbox-weak"
base_url = "{url}"
input_usd_per_million = 0.15
output_usd_per_million = 0.6
max_output_tokens = 256
max_concurrency = 8
[routing]
candidates = ["weak", "strong"]
[dispatch]
lease_s = 3
renew_s = 1
[sweep]
interval_s = 1
announce_after_s = 2
"""


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with run_sandbox(latency_ms=60) as running:
        yield running


@pytest.fixture(scope="session")
def shared_stack(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> Iterator[RunningStack]:
    config = tmp_path_factory.mktemp("config") / "routebatch.toml"
    config.write_text(CONFIG.format(url=sandbox.base_url))
    stack = RunningStack(tmp_path_factory.mktemp("stack") / f"a state; 100% #{'deep' * 30}", config)
    yield stack
    if stack.running:
        stack.down()


@pytest.fixture
def stack(shared_stack: RunningStack) -> RunningStack:
    """It is up, whatever the test before has done to it."""
    if not shared_stack.running:
        shared_stack.up()
    return shared_stack


@pytest.fixture
def client(stack: RunningStack) -> Iterator[OpenAI]:
    with OpenAI(base_url=stack.file["api_url"] + "/v1", api_key=stack.file["api_key"]) as client:
        yield client
