"""What every table shares: the declarative base, the naming of constraints, enums and common column types."""

from __future__ import annotations

import enum
from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import BigInteger, DateTime, Enum, Identity, MetaData, Text, func
from sqlalchemy.orm import DeclarativeBase, mapped_column

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {str: Text, datetime: DateTime(timezone=True)}  # noqa: RUF012


Id = Annotated[int, mapped_column(BigInteger, Identity(), primary_key=True)]
Nano = Annotated[int, mapped_column(BigInteger)]  # nano-dollars: 1e-9 USD
Now = Annotated[datetime, mapped_column(DateTime(timezone=True), server_default=func.now())]


def pg_enum(kind: type[enum.StrEnum], name: str) -> Enum:
    """A native Postgres enum that stores the members' values."""
    return Enum(kind, name=name, values_callable=_values)


def _values(kind: Any) -> list[str]:
    return [member.value for member in kind]


class BatchState(enum.StrEnum):
    """OpenAI's batch states."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


TERMINAL = (BatchState.FAILED, BatchState.COMPLETED, BatchState.EXPIRED, BatchState.CANCELLED)


class BatchPurpose(enum.StrEnum):
    """Whose a batch is. All but a client's own are companions, see exploration.companion."""

    CLIENT = "client"
    EXPLORE = "explore"  # a sample of another batch's lines, for the model that did not answer them
    JUDGE = "judge"  # a judge's calls about answers


class RequestState(enum.StrEnum):
    """queued -> scored -> dispatching -> one of the rest; a retry goes dispatching -> scored."""

    QUEUED = "queued"
    SCORED = "scored"
    DISPATCHING = "dispatching"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    UNAFFORDABLE = "unaffordable"


OPEN = (RequestState.QUEUED, RequestState.SCORED, RequestState.DISPATCHING)


class AttemptState(enum.StrEnum):
    STARTED = "started"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"  # known not billed
    UNKNOWN = "unknown"  # billed or not: settled in full


class EntryKind(enum.StrEnum):
    RESERVE = "reserve"
    SETTLE = "settle"
    RELEASE = "release"


class EntryBasis(enum.StrEnum):
    """How a ledger entry's amount is known."""

    BOUND = "bound"  # a reservation: the worst case
    USAGE = "usage"  # the upstream's own usage
    ESTIMATED = "estimated"  # an answer without usage: settled in full
    UNKNOWN = "unknown"  # nobody knows whether it was billed: settled in full
    UNBILLED = "unbilled"  # a release


class BudgetKind(enum.StrEnum):
    BATCH = "batch"
    KEY = "key"


class Period(enum.StrEnum):
    """What the limit of an API key is for. Days and months are UTC's."""

    DAY = "day"
    MONTH = "month"
    ALL = "all"


class FilePurpose(enum.StrEnum):
    BATCH = "batch"
    BATCH_OUTPUT = "batch_output"


class Reason(enum.StrEnum):
    """Why a request went to its model."""

    PLAN = "plan"  # its gain per dollar against the plan's shadow price
    SHARE = "share"
    THRESHOLD = "threshold"
    PINNED = "pinned"
    UNSCORED = "unscored"  # scoring failed: cheapest-first
    BUDGET = "budget"  # downgraded: the better model did not fit
    CACHED = "cached"  # an earlier batch of its key has paid for the answer
    FALLBACK = "fallback"  # its attempts on the model that was meant for it are used up
    DUPLICATE = "duplicate"  # another line of the batch asked the same, and its answer is this one's
    EXPLORE = "explore"  # drawn at random: the other model has answered it already


class CircuitCause(enum.StrEnum):
    """Why nothing is sent to a model."""

    REFUSED = "refused"  # its upstream refuses our key, or us
    FAILING = "failing"  # call after call failed


class ComparisonSource(enum.StrEnum):
    ARENA = "arena"
    GOLDEN = "golden"
    JUDGE = "judge"
    FEEDBACK = "feedback"


class VersionState(enum.StrEnum):
    """candidate -> active <-> retired, or candidate -> retired."""

    CANDIDATE = "candidate"
    ACTIVE = "active"
    RETIRED = "retired"


class RefitTrigger(enum.StrEnum):
    """Why routers were fitted again."""

    SCHEDULE = "schedule"
    COMPARISONS = "comparisons"  # so many were new
    DRIFT = "drift"
    MANUAL = "manual"


class RefitOutcome(enum.StrEnum):
    RUNNING = "running"
    PROMOTED = "promoted"
    REFUSED = "refused"
    UNCHANGED = "unchanged"  # nothing new to fit on
    FAILED = "failed"
    DIED = "died"  # its process did
