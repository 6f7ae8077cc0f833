"""The random router: RouteLLM's baseline, seeded, so that a prompt always draws the same number.

The number depends on the seed and the prompt alone: neither the order of the prompts, nor how they are split into
ranges, nor the process that scores them changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Self

import numpy as np

from routing_service.errors import ArtifactError
from routing_service.routers.artifact import Artifact, Tensors
from routing_service.routers.base import Floats, SavedRouter
from routing_service.settings import Settings


class RandomRouter(SavedRouter):
    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.metadata = {"seed": seed}
        self.seed = seed
        self._key = str(seed).encode()[:64]

    def score(self, prompts: Sequence[str], models: Sequence[str]) -> tuple[Floats, Floats]:
        """Every dearer model is taken to be no worse than the cheapest: a budget that does not bind buys it for all."""
        quality = np.full((len(prompts), len(models)), 0.5, dtype=np.float32)
        quality[:, 1:] += self._uniform(prompts)[:, None] / 2
        std = np.zeros_like(quality)
        std[:, 1:] = np.sqrt(1 / 12) / 2  # of a uniform draw on [0.5, 1)
        return quality, std

    def win_rates(self, prompts: Sequence[str], strong: str, weak: str) -> Floats:
        """Uniform on [0, 1), as published."""
        return self._uniform(prompts)

    def explain(self, prompt: str) -> dict[str, Any]:
        """A draw has no reasons."""
        rate = float(self._uniform([prompt])[0])
        return {"router": self.name, "win_rate": rate, "why": "drawn at random from the seed and the prompt"}

    def pack(self) -> tuple[Tensors, dict[str, Any]]:
        return {}, self.metadata

    @classmethod
    def unpack(cls, saved: Artifact, settings: Settings) -> Self:
        seed = saved.metadata.get("seed")
        if not isinstance(seed, int):
            raise ArtifactError("the artifact holds no seed of a random router")
        return cls(seed)

    def _uniform(self, prompts: Sequence[str]) -> Floats:
        # A lone surrogate cannot come out of a validated body, but a router must not fall over a caller's text.
        digests = b"".join(
            blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8, key=self._key).digest()
            for prompt in prompts
        )
        # The top 24 bits fit a float32 exactly, so that nothing rounds up to 1.
        return (np.frombuffer(digests, dtype="<u8") >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
