"""What is not about a client's own objects: the models that can be asked for, and whether this process can serve."""

from __future__ import annotations

import redis
from fastapi import APIRouter
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from routing_service.api.context import KeyId, Use
from routing_service.api.replies import reply
from routing_service.db import Database
from routing_service.errors import NotFoundError
from routing_service.openai_format.line import AUTO
from routing_service.settings import Settings
from routing_service.upstream.limiter import redis_url

router = APIRouter()
BROKER_TIMEOUT_S = 1.0


@router.get("/v1/models")
def list_models(key_id: KeyId, service: Use) -> Response:
    return reply({"object": "list", "data": [_model(name) for name in _names(service.settings)]})


@router.get("/v1/models/{name:path}")
def retrieve_model(name: str, key_id: KeyId, service: Use) -> Response:
    if name not in _names(service.settings):
        raise NotFoundError(f"The model '{name}' does not exist", code="model_not_found", param="model")
    return reply(_model(name))


@router.get("/healthz")
def healthz() -> Response:
    """The process is up."""
    return reply({"status": "ok"})


@router.get("/readyz")
def readyz(service: Use) -> Response:
    """Requests can be served: the database is there with its schema. Without the broker work waits for the sweep."""
    schema = schema_revision(service.database)
    state = {
        "status": "ready" if schema else "unavailable",
        "database": "up" if schema else "down or without its schema: run `routebatch migrate`",
        "schema": schema,
        "broker": broker_state(service.settings.broker_url),
    }
    return reply(state, 200 if schema else 503)


def schema_revision(database: Database) -> str | None:
    """The revision the schema is at; None without a database or without our tables in it."""
    query = text("select version_num from alembic_version where to_regclass('requests') is not null")
    try:
        with database.transaction() as session:
            revision = session.scalar(query)
    except SQLAlchemyError:
        return None
    return None if revision is None else str(revision)


def broker_state(broker_url: SecretStr) -> str:
    """`up` or `down`; `unknown` for a broker that is no Redis."""
    url = redis_url(broker_url.get_secret_value())
    if url is None:
        return "unknown"
    try:
        with redis.Redis.from_url(url, socket_timeout=BROKER_TIMEOUT_S, socket_connect_timeout=BROKER_TIMEOUT_S) as r:
            r.ping()
    except (redis.RedisError, OSError, ValueError):
        return "down"
    return "up"


def _names(settings: Settings) -> list[str]:
    return [AUTO, *settings.models]


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "routebatch"}
