"""Fixtures shared by all tests: settings without an environment, a real Postgres, a migrated database for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from sqlalchemy.engine import make_url

from deploy.servers import run_postgres
from migrations.runner import upgrade
from routing_service.db import Database
from routing_service.settings import Settings
from tests.support.factories import make_settings
from tests.support.paths import SUPPORT

_numbers = itertools.count()

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "all", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], max_examples=100
)
hypothesis.settings.register_profile("some", hypothesis.settings.get_profile("all"), max_examples=30)

KEPT = ("ROUTEBATCH_POSTGRES_BIN", "ROUTEBATCH_VALKEY_SERVER")
SHARED_STACK = "tests/e2e/shared_stack/"
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 2 << 30  # a file system in memory, and the space of it that tests may need


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="draw all examples, and let chaos last longer")


def pytest_configure(config: pytest.Config) -> None:
    """Shut out the caller's variables, and the routebatch.toml that README has them write in the checkout.

    Importing the Celery app reads the configuration, so this comes before the tests are collected.
    """
    for name in [name for name in os.environ if name.startswith("ROUTEBATCH_") and name not in KEPT]:
        del os.environ[name]
    os.environ["ROUTEBATCH_CONFIG"] = str(SUPPORT / "no_configuration.toml")
    hypothesis.settings.load_profile("all" if config.getoption("all") else "some")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores, four at most: tests wait, for a lease or for a process to start."""
    return min(4, (3 * len(os.sched_getaffinity(0)) + 1) // 2) if hasattr(os, "sched_getaffinity") else 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file run in one process, for they share what is dear to make; so do those of the shared stack."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return SHARED_STACK if nodeid.startswith(SHARED_STACK) else super()._split_scope(nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def long_form(request: pytest.FixtureRequest) -> bool:
    """Whether all is to be run: `--all`, as `make test-all` has it."""
    return bool(request.config.getoption("all"))


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A test sees no variable of ours, and no file that it has not written."""
    monkeypatch.delenv("ROUTEBATCH_CONFIG")
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


@pytest.fixture
def settings() -> Settings:
    return make_settings()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres of this test run, with a migrated database `template` that tests copy."""
    place = _memory()
    with tempfile.TemporaryDirectory(prefix="rb-test-", dir=place) as directory, run_postgres(Path(directory)) as url:
        _execute(url, "create database template")
        upgrade(make_url(url).set(database="template").render_as_string(hide_password=False))
        yield url


def _memory() -> Path | None:
    """Where the copy of a database takes a tenth of the time that it takes on a disk; None where there is no room."""
    roomy = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    return MEMORY if roomy else None


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """The URL of a fresh, migrated, empty database."""
    name = f"test_{next(_numbers)}"
    _execute(postgres_url, f"create database {name} template template strategy file_copy")
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    _execute(postgres_url, f"drop database {name} with (force)")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.dispose()


def _execute(url: str, statement: str) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(statement)
