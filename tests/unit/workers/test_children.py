"""What a worker's parent process leaves to its children: heavy libraries, routers, and their part of the cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from workers.app import _share_the_cores

HEAVY = ("torch", "transformers", "onnxruntime", "peft", "accelerate")
PARENT = f"""
import sys
from workers.app import app
from workers.tasks import service

app.loader.import_default_modules()
assert "routebatch.score" in app.tasks
print([name for name in {HEAVY} if name in sys.modules], service.cache_info().currsize)
"""
CONFIGURATION = """
[models.only]
name = "m"
base_url = "http://127.0.0.1:9/v1"
input_usd_per_million = 1
output_usd_per_million = 1
"""


def test_nothing_heavy_is_loaded_and_nothing_is_made_before_the_fork(tmp_path: Path) -> None:
    (tmp_path / "routebatch.toml").write_text(CONFIGURATION)
    environment = os.environ | {"ROUTEBATCH_CONFIG": str(tmp_path / "routebatch.toml")}
    done = subprocess.run([sys.executable, "-c", PARENT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 0"


@pytest.mark.parametrize(("cores", "concurrency", "threads"), [(8, 2, "4"), (8, 3, "2"), (2, 2, "1"), (1, 4, "1")])
def test_children_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, concurrency: int, threads: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "none yet")  # so that it is put back
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    _share_the_cores(SimpleNamespace(concurrency=concurrency))
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_threads_that_the_operator_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    _share_the_cores(SimpleNamespace(concurrency=1))
    assert os.environ["OMP_NUM_THREADS"] == "3"
