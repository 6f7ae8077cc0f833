"""/v1/batches: create, retrieve, list, pause, resume, cancel, top up, retry; and plans: look at one, have it run."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from routing_service.api.context import After, KeyId, ObjectId, Use, read_json
from routing_service.api.replies import list_reply, reply
from routing_service.batches.create import MAX_IDEMPOTENCY_KEY, CreateBatch, create
from routing_service.batches.extend import MoreMoney, retry, top_up
from routing_service.batches.lifecycle import cancel, pause, resume
from routing_service.batches.options import parse_budget
from routing_service.batches.view import batch_object, list_batches
from routing_service.errors import InvalidRequestError
from routing_service.plans.approve import approve
from routing_service.plans.preview import plan_object
from routing_service.service import Service

router = APIRouter(prefix="/v1/batches")

POLL_SECONDS = "1"


class CreateBody(BaseModel):
    """What a client sends to create a batch."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    routing: dict[str, Any] | None = None
    output_expires_after: dict[str, Any] | None = None


class MoneyBody(BaseModel):
    """What a client sends to top up, retry or approve a batch."""

    model_config = ConfigDict(extra="forbid")

    budget_usd: Any = None


@router.post("")
async def create_batch(request: Request, key_id: KeyId, service: Use) -> Response:
    wish = await _wish(request, preview=False)
    return await run_in_threadpool(_create, service, key_id, wish)


@router.post("/plan")
async def plan_batch(request: Request, key_id: KeyId, service: Use) -> Response:
    wish = await _wish(request, preview=True)
    return await run_in_threadpool(_create, service, key_id, wish)


async def _wish(request: Request, *, preview: bool) -> CreateBatch:
    body = await read_json(request, CreateBody)
    if body.output_expires_after is not None:
        raise InvalidRequestError(
            "output_expires_after is not supported by this version; output files do not expire",
            code="unsupported_parameter",
            param="output_expires_after",
        )
    return CreateBatch(
        input_file_id=body.input_file_id,
        endpoint=body.endpoint,
        completion_window=body.completion_window,
        metadata=body.metadata,
        routing=body.routing,
        idempotency_key=_idempotency_key(request),
        is_retry=_is_retry(request),
        preview=preview,
    )


@router.get("")
def list_of_batches(
    key_id: KeyId, service: Use, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: After = None
) -> Response:
    with service.database.transaction() as session:
        return list_reply(*list_batches(session, service.totals, key_id, limit=limit, after=after))


@router.get("/{batch_id}")
def retrieve_batch(batch_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    return _show(service, key_id, batch_id)


@router.get("/{batch_id}/plan")
def retrieve_plan(batch_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    """200 with the plan; 202 with what is known so far while lines are still read and scored."""
    with service.database.transaction() as session:
        plan, is_there = plan_object(session, key_id, batch_id)
    return reply(plan) if is_there else reply(plan, 202, {"retry-after": POLL_SECONDS})


@router.post("/{batch_id}/approve")
async def approve_plan(batch_id: ObjectId, request: Request, key_id: KeyId, service: Use) -> Response:
    asked = (await read_json(request, MoneyBody, optional=True)).budget_usd
    budget = None if asked is None else parse_budget(asked)
    return await run_in_threadpool(_approve, service, key_id, batch_id, budget)


@router.post("/{batch_id}/cancel")
def cancel_batch(batch_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    cancel(service.database, service.publisher, key_id, batch_id)
    return _show(service, key_id, batch_id)


@router.post("/{batch_id}/pause")
def pause_batch(batch_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    pause(service.database, key_id, batch_id)
    return _show(service, key_id, batch_id)


@router.post("/{batch_id}/resume")
def resume_batch(batch_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    resume(service.database, service.publisher, key_id, batch_id)
    return _show(service, key_id, batch_id)


@router.post("/{batch_id}/top_up")
async def top_up_batch(request: Request, batch_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    wish = await _more_money(request, batch_id, "top_up")
    return await run_in_threadpool(_go_on, service, key_id, wish)


@router.post("/{batch_id}/retry")
async def retry_batch(request: Request, batch_id: ObjectId, key_id: KeyId, service: Use) -> Response:
    wish = await _more_money(request, batch_id, "retry")
    return await run_in_threadpool(_go_on, service, key_id, wish)


async def _more_money(request: Request, batch_id: str, action: Literal["top_up", "retry"]) -> MoreMoney:
    asked = (await read_json(request, MoneyBody, optional=True)).budget_usd
    budget = None if asked is None else parse_budget(asked)
    return MoreMoney(action, batch_id, budget, _idempotency_key(request), _is_retry(request))


def _go_on(service: Service, key_id: str, wish: MoreMoney) -> Response:
    use_case = top_up if wish.action == "top_up" else retry
    batch_id = use_case(service.database, service.settings, service.prices, service.publisher, key_id, wish)
    return _show(service, key_id, batch_id)


def _create(service: Service, key_id: str, wish: CreateBatch) -> Response:
    batch_id = create(service.database, service.settings, service.prices, service.publisher, key_id, wish)
    return _show(service, key_id, batch_id)


def _approve(service: Service, key_id: str, batch_id: str, budget: Decimal | None) -> Response:
    approve(service.database, service.settings, service.prices, service.publisher, key_id, batch_id, budget)
    return _show(service, key_id, batch_id)


def _show(service: Service, key_id: str, batch_id: str) -> Response:
    with service.database.transaction() as session:
        return reply(batch_object(session, service.totals, key_id, batch_id))


def _is_retry(request: Request) -> bool:
    """Whether the SDK says that it sends this again."""
    return request.headers.get("x-stainless-retry-count", "0") not in ("", "0")


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY or not key.isprintable():
        raise InvalidRequestError(
            f"an Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY} printable characters", param="Idempotency-Key"
        )
    return key
