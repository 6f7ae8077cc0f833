"""Creating a batch: what the client asked for is checked, written in one transaction with its budget, then announced.

The same create sent twice gives one batch: by its `Idempotency-Key`, or, as SDKs retry without one, by equality with a
request of the last minutes when the client says that it is a retry.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import orjson
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from routing_service.batches.exploration_budget import set_aside
from routing_service.batches.options import BatchOptions, parse_options
from routing_service.batches.router_choice import asked_router, asked_version
from routing_service.db import Database
from routing_service.errors import ConflictError, InvalidRequestError, NotFoundError
from routing_service.events import IngestDue, Publisher
from routing_service.models import Batch, BatchState, Budget, BudgetKind, File, FilePurpose
from routing_service.money.pricing import PriceBook, to_nano
from routing_service.openai_format import files
from routing_service.openai_format.line import ENDPOINT
from routing_service.settings import Settings

MOST_CANDIDATES = 16
MAX_WINDOW = timedelta(days=7)
MAX_METADATA = (16, 64, 512)  # pairs, characters of a key, of a value
MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True, slots=True)
class CreateBatch:
    """A client's wish. `is_retry`: the client says that it sends this again. `preview`: first show the plan."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Mapping[str, str] | None = None
    routing: Mapping[str, Any] | None = None
    idempotency_key: str | None = None
    is_retry: bool = False
    preview: bool = False

    def fingerprint(self) -> bytes:
        """Equal for equal wishes, however they are sent."""
        asked = [self.input_file_id, self.endpoint, self.completion_window, self.metadata, self.routing]
        asked += ["preview"] if self.preview else []
        return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).digest()


def create(
    database: Database,
    settings: Settings,
    prices: PriceBook,
    publisher: Publisher,
    api_key_id: str,
    wish: CreateBatch,
) -> str:
    """Create a batch in state `validating`, or find the one that this very request made before. Returns its id.

    Raises InvalidRequestError for what cannot be, NotFoundError for a file that is not the key's own, ConflictError
    for an idempotency key that was used for something else.
    """
    if wish.endpoint != ENDPOINT:
        raise InvalidRequestError(f"endpoint must be {ENDPOINT}; it is the only one", param="endpoint")
    window = window_of(wish.completion_window)
    _check_metadata(wish.metadata)
    options = parse_options(wish.routing, wish.metadata, settings, needs_budget=not wish.preview)
    router = asked_router(options, settings)
    candidates = candidates_of(settings)
    with database.transaction() as session:
        one_at_a_time(session, api_key_id, wish)
        earlier = earlier_batch(session, api_key_id, wish)
        if earlier is not None:
            return earlier
        file = _input_file(session, api_key_id, wish.input_file_id)
        batch = batch_row(wish, options, router, candidates, prices)
        batch.api_key_id, batch.input_file_id = api_key_id, file.id
        batch.router_version_id = asked_version(session, router)
        add(session, batch, window, options, settings)
    publisher.publish(IngestDue(batch.id))
    return batch.id


def add(session: Session, batch: Batch, window: timedelta, options: BatchOptions, settings: Settings) -> None:
    """Write a batch whose time runs from now, and its budget, less what is set aside for exploring it."""
    budget_nano = to_nano(options.budget)
    batch.explore_nano = set_aside(budget_nano, batch.options, batch.candidates, settings)
    batch.created_at = batch.announced_at = session.scalars(select(func.now())).one()
    batch.expires_at = batch.created_at + window
    session.add(batch)
    session.flush()
    session.add(Budget(kind=BudgetKind.BATCH, batch_id=batch.id, limit_nano=budget_nano - batch.explore_nano))


def batch_row(
    wish: CreateBatch, options: BatchOptions, router: str, candidates: tuple[str, ...], prices: PriceBook
) -> Batch:
    """A new batch, `validating`: without owner, file, times and router version. Its options keep which router was asked
    for: `auto` becomes another one."""
    strong = prices.price(candidates[-1], 0)
    return Batch(
        id=f"batch_{uuid.uuid4().hex}",
        endpoint=wish.endpoint,
        completion_window=wish.completion_window,
        client_metadata=dict(wish.metadata) if wish.metadata is not None else None,
        options=options.model_dump(mode="json") | {"router": router},
        idempotency_key=wish.idempotency_key,
        fingerprint=wish.fingerprint(),
        router=router,
        candidates=list(candidates),
        strong_input_price=strong.input,
        strong_output_price=strong.output,
        priority=options.priority,
        preview={} if wish.preview else None,
        state=BatchState.VALIDATING,
    )


def window_of(completion_window: str) -> timedelta:
    """How long a batch may take. InvalidRequestError for what is no such time."""
    match = re.fullmatch(r"([1-9][0-9]{0,3})([hd])", completion_window)
    window = timedelta()
    if match:
        window = timedelta(**{"hours" if match[2] == "h" else "days": int(match[1])})
    if not timedelta() < window <= MAX_WINDOW:
        raise InvalidRequestError(
            "completion_window is a number of hours or days from 1h to 7d, such as 24h", param="completion_window"
        )
    return window


def _check_metadata(metadata: Mapping[str, str] | None) -> None:
    pairs, key_length, value_length = MAX_METADATA
    if metadata is None:
        return
    if len(metadata) > pairs:
        raise InvalidRequestError(f"metadata has at most {pairs} pairs", param="metadata")
    for key, value in metadata.items():
        if len(key) > key_length:
            raise InvalidRequestError(f"a key of metadata has at most {key_length} characters", param="metadata")
        if len(value) > value_length:
            raise InvalidRequestError(
                f"a value of metadata has at most {value_length} characters", param=f"metadata.{key}"
            )


def candidates_of(settings: Settings) -> tuple[str, ...]:
    """The models that a batch of now is routed between, cheapest first."""
    candidates = settings.candidates
    if not 1 <= len(candidates) <= MOST_CANDIDATES:
        raise InvalidRequestError(
            f"a batch is routed between 1 and {MOST_CANDIDATES} models; {len(candidates)} are configured as candidates",
            code="candidates_not_supported",
        )
    return candidates


def _input_file(session: Session, api_key_id: str, file_id: str) -> File:
    """The input file, locked against deletion until the batch stands."""
    try:
        file = files.get(session, api_key_id, file_id, lock="share")
    except NotFoundError as error:
        raise NotFoundError(error.message, param="input_file_id") from None
    if file.purpose is not FilePurpose.BATCH:
        raise InvalidRequestError(
            f"file {file_id} has purpose {file.purpose}; a batch reads one of purpose batch", param="input_file_id"
        )
    return file


RETRY_WINDOW = timedelta(minutes=10)


class Wish(Protocol):
    """What a client asks for. `is_retry`: the client says that it sends this again."""

    @property
    def idempotency_key(self) -> str | None: ...

    @property
    def is_retry(self) -> bool: ...

    def fingerprint(self) -> bytes:
        """Equal for equal wishes, however they are sent."""


def one_at_a_time(session: Session, api_key_id: str, wish: Wish) -> None:
    """Equal wishes of a key wait for one another here; so the second one sees what the first one did."""
    same = wish.idempotency_key or wish.fingerprint().hex()
    session.execute(
        text("select pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": f"create:{api_key_id}:{same}"}
    )


def earlier_batch(session: Session, api_key_id: str, wish: Wish) -> str | None:
    """The batch that this wish created before, if it did. ConflictError if its key created another one."""
    query = select(Batch).where(Batch.api_key_id == api_key_id)
    if wish.idempotency_key is not None:
        batch = session.scalar(query.where(Batch.idempotency_key == wish.idempotency_key))
        if batch is not None and batch.fingerprint != wish.fingerprint():
            raise key_was_used(f"which created {batch.id}")
        return batch.id if batch else None
    if not wish.is_retry:
        return None
    recent = query.where(
        Batch.fingerprint == wish.fingerprint(),
        Batch.idempotency_key.is_(None),
        Batch.created_at > func.now() - RETRY_WINDOW,
    )
    batch = session.scalar(recent.order_by(Batch.created_at.desc()).limit(1))
    return batch.id if batch else None


def key_was_used(for_what: str) -> ConflictError:
    return ConflictError(
        f"the idempotency key was used for another request, {for_what}",
        code="idempotency_conflict",
    )
