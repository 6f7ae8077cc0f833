"""`routebatch keys`, `migrate` and `api`, as an operator runs them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from cli.operate.api import MaskingFormatter
from migrations.runner import downgrade
from routing_service.db import Database
from routing_service.errors import AuthenticationError
from routing_service.openai_format.keys import authenticate

ROUTEBATCH = str(Path(sys.executable).with_name("routebatch"))
CONFIG = """
[models.strong]
name = "s"
base_url = "http://127.0.0.1:9/v1"
input_usd_per_million = 10
output_usd_per_million = 30
[models.weak]
name = "w"
base_url = "http://127.0.0.1:9/v1"
input_usd_per_million = 1
output_usd_per_million = 3
[routing]
candidates = ["weak", "strong"]
"""


@pytest.fixture
def routebatch(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments)

    return run


def test_a_created_key_works_until_it_is_revoked(routebatch: Any, database: Database) -> None:
    made = json.loads(routebatch("keys", "create", "--name", "team a", "--json").stdout)
    assert set(made) == {"id", "name", "key"}
    with database.transaction() as session:
        assert authenticate(session, made["key"]).id == made["id"]
    assert routebatch("keys", "revoke", made["id"]).exit_code == 0
    with database.transaction() as session, pytest.raises(AuthenticationError):
        authenticate(session, made["key"])
    (listed,) = json.loads(routebatch("keys", "list", "--json").stdout)
    assert listed["id"] == made["id"]
    assert listed["revoked"]
    assert made["key"] not in routebatch("keys", "list").output


def test_without_json_the_key_stands_alone_on_stdout(routebatch: Any) -> None:
    made = routebatch("keys", "create", "--name", "a")
    assert re.fullmatch(r"rb-[\w-]{43}\n", made.stdout)
    assert made.stdout.strip() not in made.stderr


def test_a_wrong_name_or_id_is_one_line(routebatch: Any) -> None:
    for arguments in (("create", "--name", " "), ("create", "--name", "a\nb"), ("revoke", "key_unknown")):
        result = routebatch("keys", *arguments)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1


def test_migrate_builds_the_schema_and_says_its_revision(routebatch: Any, database_url: str) -> None:
    downgrade(database_url)
    first, second = routebatch("migrate"), routebatch("migrate")
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert re.fullmatch(r"schema at revision \w+ \(was: none\)\n", first.stdout)
    assert re.fullmatch(r"schema at revision \w+ already\n", second.stdout)


def test_migrate_says_as_json_what_it_did(routebatch: Any, database_url: str) -> None:
    downgrade(database_url)
    first, second = (json.loads(routebatch("migrate", "--json").stdout) for _ in range(2))
    assert first == {"revision": first["revision"], "before": None, "changed": True}
    assert second == {"revision": first["revision"], "before": first["revision"], "changed": False}
    assert first["revision"]


def test_migrate_without_a_database_is_one_line(routebatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTEBATCH_DATABASE_URL", "postgresql+psycopg://me:hunter2@127.0.0.1:9/none")
    result = routebatch("migrate")
    assert result.exit_code == 1
    assert "cannot reach the database" in result.stderr
    assert "hunter2" not in result.output


def test_a_wrong_configuration_stops_the_api_with_one_line(routebatch: Any, tmp_path: Path) -> None:
    (tmp_path / "routebatch.toml").write_text(CONFIG.replace("output_usd_per_million = 30", "ouput = 3"))
    env = os.environ | {"ROUTEBATCH_CONFIG": str(tmp_path / "routebatch.toml")}
    ended = subprocess.run([ROUTEBATCH, "api"], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "models.strong.ouput" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_api_serves_and_stops_when_told(routebatch: Any, tmp_path: Path) -> None:
    (tmp_path / "routebatch.toml").write_text(CONFIG)
    env = os.environ | {"ROUTEBATCH_CONFIG": str(tmp_path / "routebatch.toml")}
    env["ROUTEBATCH_BROKER_URL"] = f"redis+socket://{tmp_path}/none.sock"
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([ROUTEBATCH, "api", "--port", "0"], env=env, stderr=output, stdout=output)
    try:
        with urllib.request.urlopen(f"{address(process, log)}/readyz", timeout=30) as answer:
            assert json.load(answer)["status"] == "ready"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    assert "Traceback" not in log.read_text()


def address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where the server says that it listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if actual := re.search(r"running on (http://[\d.:]+)", log.read_text()):
            return actual[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise TimeoutError(log.read_text())


def test_keys_and_credentials_are_masked_in_logs() -> None:
    message = "got rb-AbCdEfGhIjKlMnOpQrStUv and postgresql://me:hunter2@host/db"
    record = logging.LogRecord("x", logging.INFO, "f", 1, message, None, None)
    assert MaskingFormatter().format(record) == "got *** and postgresql://***host/db"
