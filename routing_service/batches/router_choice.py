"""Which router a batch gets: one that it names, or `auto`, which is decided once, when its first range is scored.

From then on the batch names that router: every range, decision and new cut is of one version, whatever is promoted.
"""

from __future__ import annotations

from typing import Protocol

from sqlalchemy.orm import Session

from routing_service.batches.options import BatchOptions
from routing_service.db import Database
from routing_service.errors import InvalidRequestError, NotFoundError
from routing_service.models import Batch
from routing_service.router_versions.versions import find, note_failure, to_serve, version_number
from routing_service.routers.registry import AUTO, BUILT_IN, Router, canonical, check_name
from routing_service.settings import Settings


class RouterSource(Protocol):
    def get(self, name: str) -> Router:
        """The router of that name, loaded."""

    def serving(self) -> str:
        """The name of the router that `auto` means now, which can be loaded."""


def asked_router(options: BatchOptions, settings: Settings) -> str:
    """The router that a new batch names, or the configured one. InvalidRequestError unless there can be one."""
    router = options.router or settings.routing.router
    check_name(router, settings, "routing.router")
    return canonical(router)


def asked_version(session: Session, router: str) -> int | None:
    """The router version of that name; None for any other name. InvalidRequestError where there is none."""
    number = version_number(router)
    try:
        return None if number is None else find(session, number).id
    except NotFoundError as error:
        raise InvalidRequestError(error.message, code=error.code, param="routing.router") from None


def decide_router(database: Database, routers: RouterSource, batch_id: str, *, may_load: bool) -> str:
    """Give a batch of `auto` the router that serves now, unless it has got one meanwhile; its name.

    `may_load`: false where the process did not survive that so often that the built-in router is taken instead.
    """
    name = routers.serving() if may_load else BUILT_IN
    with database.transaction() as session:
        if not may_load:
            for number, rests in to_serve(session)[:1]:
                if not rests:
                    note_failure(session, number, "It ended the process that loaded it.")
        batch = session.get_one(Batch, batch_id, with_for_update={"key_share": True})
        if batch.router == AUTO:
            batch.router, batch.router_version_id = name, version_number(name)
        return batch.router
