"""The champion of a re-fit: the router that serves now, which a challenger has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from routing_service.db import Database
from routing_service.router_versions.versions import active, version_number
from routing_service.routers.registry import AUTO, Router, Routers
from routing_service.settings import Settings

__all__ = ["Champion", "champion"]


@dataclass(frozen=True, slots=True)
class Champion:
    """`active_id`: of the active version, which serves unless it cannot be loaded; None without one. `name`: as batches
    name the router."""

    active_id: int | None
    name: str
    router: Router

    def shown_elsewhere(self) -> dict[str, float]:
        """APGR by benchmark, where it was measured on a part that a router of the same kind had not seen.

        The built-in router was fitted on MMLU and GSM8K: its figures on these very tables would be those of memory.
        """
        metadata: dict[str, Any] = getattr(self.router, "metadata", {})
        held_out = metadata.get("metrics", {}).get("held_out", {}) if version_number(self.name) is None else {}
        return {name: figures["apgr"] for name, figures in held_out.items() if figures.get("apgr") is not None}


def champion(database: Database, settings: Settings) -> Champion:
    """What batches that name no router get; of a configured router the active version takes the place, if there is one:
    candidates are to beat the best that there was."""
    with database.transaction() as session:
        version = active(session)
    routers = Routers(settings, database)
    configured = settings.routing.router
    name = configured if version is None and configured != AUTO else routers.serving()
    return Champion(None if version is None else version.id, name, routers.get(name))
