"""RouteLLM's own routers, asked over stdin. Runs in the peer's environment and imports nothing of ours.

Only what would need a network is replaced: the embeddings client looks vectors up in `vectors.npz`, and `load_dataset`
reads `battles.json` and the same vectors. Everything that is timed is RouteLLM's code as it is installed.

A line of JSON in, a line of JSON out: {"ask": ROUTER, "prompts": [...]} gives {"seconds", "win_rates"}, after
{"load": ROUTER}, which gives {"seconds", "versions"}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

PACKAGES = ("routellm", "torch", "transformers", "numpy", "scikit-learn", "pandas")


class Stored:
    """A stand-in for a dataset of the hub."""

    def __init__(self, columns: Any) -> None:
        self._columns = columns

    def to_dict(self) -> Any:
        return self._columns

    def to_pandas(self) -> Any:
        return import_module("pandas").DataFrame(self._columns)


class Embeddings:
    """A stand-in for the client's embeddings: the vector of the prompt of that text, as the API gives it."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = vectors

    def create(self, input: list[str], model: str) -> Any:
        return SimpleNamespace(data=[SimpleNamespace(embedding=self._vectors[text]) for text in input])


class Peer:
    def __init__(self, directory: Path) -> None:
        np = import_module("numpy")
        self._directory = directory
        self._routellm = import_module("routellm.routers.routers")
        self._routers: dict[str, Any] = {}
        self._battles: Any = []
        if (directory / "vectors.npz").is_file():
            stored = np.load(directory / "vectors.npz")
            self._battles = stored["battles"].astype(np.float64)  # what numpy makes of a dataset's lists
            texts = json.loads((directory / "queries.json").read_text(encoding="utf-8"))
            vectors = dict(zip(texts, stored["queries"].tolist(), strict=True))
            self._routellm.OPENAI_CLIENT.__dict__["embeddings"] = Embeddings(vectors)
        vars(self._routellm).update(load_dataset=self._stored, concatenate_datasets=lambda parts: parts[0])

    def _stored(self, name: str, split: str) -> Stored:
        if name == "embeddings":
            return Stored({"embeddings": self._battles})
        return Stored(json.loads((self._directory / "battles.json").read_text(encoding="utf-8")))

    def load(self, name: str) -> None:
        routellm = self._routellm
        if name == "sw_ranking":
            self._routers[name] = routellm.SWRankingRouter(["battles"], ["embeddings"])
        elif name == "mf":
            dimensions = json.loads((self._directory / "mf" / "config.json").read_text())["text_dim"]
            path = str(self._directory / "mf")
            self._routers[name] = routellm.MatrixFactorizationRouter(path, text_dim=dimensions)
        elif name == "bert":
            self._routers[name] = routellm.BERTRouter(str(self._directory / "bert"))
        else:
            raise ValueError(f"no router {name}")

    def ask(self, name: str, prompts: list[str]) -> dict[str, Any]:
        win_rate = self._routers[name].calculate_strong_win_rate
        started = time.perf_counter()
        rates = [float(win_rate(prompt)) for prompt in prompts]
        return {"seconds": time.perf_counter() - started, "win_rates": rates}


def answer(peer: Peer, question: dict[str, Any]) -> dict[str, Any]:
    if "load" in question:
        started = time.perf_counter()
        peer.load(question["load"])
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "versions": {name: version(name) for name in PACKAGES}}
    return peer.ask(question["ask"], cast(list[str], question["prompts"]))


def main() -> None:
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no reply
    os.environ |= {"OPENAI_API_KEY": "unused", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    peer = Peer(Path(sys.argv[1]))
    for line in sys.stdin:
        replies.write(json.dumps(answer(peer, json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
