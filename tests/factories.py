"""Makers of the things tests need: settings, keys, batches in a wanted state."""

from __future__ import annotations

from typing import Any

from routing_service.settings import Settings

STRONG = {
    "name": "sandbox-strong",
    "base_url": "http://127.0.0.1:9/v1",
    "input_usd_per_million": "10",
    "output_usd_per_million": "30",
    "max_output_tokens": 512,
}
WEAK = {
    "name": "sandbox-weak",
    "base_url": "http://127.0.0.1:9/v1",
    "input_usd_per_million": "0.15",
    "output_usd_per_million": "0.6",
    "max_output_tokens": 512,
}


def make_settings(**sections: Any) -> Settings:
    """Settings with a strong and a weak sandbox model; `sections` replace or add top-level keys."""
    values: dict[str, Any] = {
        "models": {"strong": STRONG, "weak": WEAK},
        "routing": {"candidates": ["weak", "strong"]},
        "budget": {"default_usd": "1"},
    }
    return Settings(**(values | sections))
