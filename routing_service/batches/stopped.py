"""Stopped models: one that was billed above its bounds gets nothing more until they are corrected."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.settings import Settings


def stopped_models(session: Session, settings: Settings) -> set[str]:
    """Models that were billed above the bounds they still have: nothing they do is bounded, so nothing is sent."""
    found = session.execute(text("select distinct model, bounds from attempts where cost_nano > reserved_nano"))
    return {model for model, bounds in found if model in settings.models and settings.models[model].bounds == bounds}
