"""API keys: made, recognised, listed, revoked. The secret is shown once; only its SHA-256 is kept."""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from routing_service.errors import AuthenticationError, InvalidRequestError, NotFoundError
from routing_service.models import ApiKey

PREFIX = "rb-"
SECRET_BYTES = 32  # 256 bits: guessing is hopeless, so a plain hash of it may be stored
MAX_NAME = 200


def create_key(session: Session, name: str) -> tuple[ApiKey, str]:
    """Make a key; returns it with its secret, which cannot be had again."""
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidRequestError(f"a key's name has 1 to {MAX_NAME} printable characters", param="name")
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    key = ApiKey(id=f"key_{uuid.uuid4().hex}", name=name, digest=_digest(secret), hint=secret[-4:])
    session.add(key)
    session.flush()
    session.refresh(key)
    return key, secret


def internal_key(session: Session, name: str) -> str:
    """The id of the key under which calls of our own are made: made on first use, with a secret that nobody has.

    Limits of its budgets can be set as any key's.
    """
    key_id = f"key_{name}"
    row = {"id": key_id, "name": name, "digest": secrets.token_bytes(32), "hint": "none"}
    session.execute(insert(ApiKey).values(row).on_conflict_do_nothing(index_elements=[ApiKey.id]))
    return key_id


def authenticate(session: Session, secret: str) -> ApiKey:
    """The key that this secret belongs to; AuthenticationError if there is none or it was revoked."""
    query = select(ApiKey).where(ApiKey.digest == _digest(secret), ApiKey.revoked_at.is_(None))
    key = session.scalar(query)
    if key is None:
        raise AuthenticationError("Incorrect API key provided: it is unknown or revoked.", code="invalid_api_key")
    return key


def list_keys(session: Session) -> Sequence[ApiKey]:
    return session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)).all()


def find_key(session: Session, given: str) -> ApiKey:
    """The key of this id, else the only one of this name that is not revoked. NotFoundError, InvalidRequestError."""
    if (key := session.get(ApiKey, given)) is not None:
        return key
    query = select(ApiKey).where(ApiKey.name == given, ApiKey.revoked_at.is_(None))
    named = session.scalars(query).all()
    if not named:
        raise NotFoundError(f"there is no key {given!r}", param="id")
    if len(named) > 1:
        raise InvalidRequestError(f"{len(named)} keys are called {given!r}: name one by its id", param="id")
    return named[0]


def revoke_key(session: Session, key_id: str) -> ApiKey:
    """Revoke a key, from the next request on. Its batches go on. Revoking twice changes nothing."""
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFoundError(f"there is no key {key_id!r}", param="id")
    if key.revoked_at is None:
        key.revoked_at = session.scalar(select(func.now()))
    return key


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()
