"""RouteLLM 0.2.0 from PyPI in an environment of its own, and a process in it that answers for its routers.

`python -m benchmarks.peers.environment DIRECTORY` makes the environment (about 1.3 GB). It has the versions of torch,
transformers and numpy that run here, so that the two sides differ in their own code alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROUTELLM = "routellm==0.2.0"
SAME = ("numpy", "openai", "pydantic", "torch", "transformers")  # as here
OTHERS = ("datasets", "pandas", "pyyaml", "scikit-learn")
SERVER = Path(__file__).with_name("routellm.py")
PIP_OPTIONS = {"find-links": "UV_FIND_LINKS", "index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}


@dataclass(frozen=True, slots=True)
class Answer:
    seconds: float
    win_rates: list[float]


class Peer:
    """A running process of RouteLLM's. What it prints goes to `log`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def load(self, router: str) -> dict[str, str]:
        """Build one of its routers (sw_ranking, mf, bert); the versions of what it runs on."""
        versions: dict[str, str] = self._exchange({"load": router})["versions"]
        return versions

    def ask(self, router: str, prompts: Sequence[str]) -> Answer:
        """Its win rates of the prompts, one call after the other, and the seconds that these took."""
        answer = self._exchange({"ask": router, "prompts": list(prompts)})
        return Answer(answer["seconds"], answer["win_rates"])

    def _exchange(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"RouteLLM's process ended: {self._log.read_text()[-3000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def make_environment(environment: Path) -> Path:
    """Its Python; installed unless it is there already."""
    python = python_of(environment)
    if python.is_file() and _has_routellm(python):
        return python
    uv, settings = find_uv(), os.environ | pip_settings()
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in SAME]
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    local = any(Path(settings.get("UV_FIND_LINKS", "")).glob("torch-*cpu*")) if "UV_FIND_LINKS" in settings else False
    backend = [] if local else ["--torch-backend=cpu"]
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(environment)], check=True, env=settings)
    subprocess.run([*install, *backend, *pinned, *OTHERS], check=True, env=settings)
    subprocess.run([*install, "--no-deps", ROUTELLM], check=True, env=settings)
    return python


def _has_routellm(python: Path) -> bool:
    code = "import importlib.metadata as m; assert m.version('routellm') == '0.2.0'"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def find_uv() -> str:
    """RuntimeError where it is not installed."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        raise RuntimeError("uv is not installed: `make setup` brings it")
    return uv


def pip_settings() -> dict[str, str]:
    """pip's own configuration for uv, which does not read it; variables that are set win."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    variables = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition("=")
        variable = PIP_OPTIONS.get(name.rpartition(".")[2])
        if variable is not None and variable not in os.environ:
            variables[variable] = value.strip("'")
    return variables


@contextmanager
def running_peer(environment: Path, data: Path) -> Iterator[Peer]:
    """RouteLLM's process on the data that `benchmarks.peers.data` wrote."""
    log = data / "peer.log"
    command = [str(python_of(environment)), str(SERVER), str(data)]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=data
        ) as process,
    ):
        try:
            yield Peer(process, log)
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    environment = parser.parse_args().directory.resolve()
    sys.stdout.write(f"{ROUTELLM} runs by {make_environment(environment)}\n")


if __name__ == "__main__":
    main()
