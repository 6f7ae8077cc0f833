"""/v1/feedback: what a client says of an answer."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from routing_service.api.context import KeyId, Use, read_json
from routing_service.api.replies import reply
from routing_service.batches.feedback import RequestName, Vote, give_feedback
from routing_service.errors import InvalidRequestError, NotFoundError

router = APIRouter(prefix="/v1/feedback")

_REQUEST_ID = re.compile(r"batch_req_([A-Za-z0-9_-]{1,100})_([0-9]{1,9})")  # what output lines have as their id


class FeedbackBody(BaseModel):
    """A request, named in one of two ways, and one vote on its answer."""

    model_config = ConfigDict(extra="forbid")

    request_id: str | None = None
    batch_id: str | None = None
    custom_id: str | None = None
    rating: Annotated[int, Field(ge=-1, le=1)] | None = None
    score: Annotated[int, Field(ge=1, le=5)] | None = None
    preferred: Annotated[str, Field(min_length=1)] | None = None


@router.post("")
async def post_feedback(request: Request, key_id: KeyId, service: Use) -> Response:
    body = await read_json(request, FeedbackBody)
    name, vote = _name(body), _vote(body)
    kept = await run_in_threadpool(give_feedback, service.database, service.settings, key_id, name, vote)
    return reply(kept)


def _vote(body: FeedbackBody) -> Vote:
    if body.rating == 0 or sum(said is not None for said in (body.rating, body.score, body.preferred)) != 1:
        raise InvalidRequestError("give one of rating (1 or -1), score (1 to 5) and preferred (a model or a text)")
    return Vote(body.rating, body.score, body.preferred)


def _name(body: FeedbackBody) -> RequestName:
    if body.request_id is not None and body.batch_id is None and body.custom_id is None:
        match = _REQUEST_ID.fullmatch(body.request_id)
        if match is None:
            message = "No such request is known. A request_id is the `id` of a line of an output file: batch_req_..."
            raise NotFoundError(message, param="request_id")
        return RequestName(f"batch_{match[1]}", line=int(match[2]))
    if body.request_id is None and body.batch_id is not None and body.custom_id is not None:
        return RequestName(body.batch_id, custom_id=body.custom_id)
    raise InvalidRequestError("name the request by request_id, or by batch_id and custom_id")
