"""The tables of routebatch. What may not be is forbidden here: by enums, checks, unique and partial indexes.

Read `base` first (enums: the states that rows may have), then `batch` and `request` (the work), `money` (budgets,
attempts, the ledger), `dispatch` (leases and circuits), `files` and `learning`.
"""

from routing_service.models.base import (
    OPEN,
    TERMINAL,
    AttemptState,
    Base,
    BatchPurpose,
    BatchState,
    BudgetKind,
    CircuitCause,
    EntryBasis,
    EntryKind,
    FilePurpose,
    Period,
    Reason,
    RefitOutcome,
    RefitTrigger,
    RequestState,
    VersionState,
)
from routing_service.models.batch import Batch, ScoreRange
from routing_service.models.dispatch import ModelCircuit, Pump
from routing_service.models.files import ApiKey, File, FileChunk
from routing_service.models.learning import (
    Comparison,
    Evaluation,
    Feedback,
    FittedLengths,
    Judgement,
    Promotion,
    Rating,
    Refit,
    RouterVersion,
)
from routing_service.models.money import Attempt, Budget, KeyLimit, LedgerEntry, TopUp
from routing_service.models.request import Decision, Request

__all__ = [
    "OPEN",
    "TERMINAL",
    "ApiKey",
    "Attempt",
    "AttemptState",
    "Base",
    "Batch",
    "BatchPurpose",
    "BatchState",
    "Budget",
    "BudgetKind",
    "CircuitCause",
    "Comparison",
    "Decision",
    "EntryBasis",
    "EntryKind",
    "Evaluation",
    "Feedback",
    "File",
    "FileChunk",
    "FilePurpose",
    "FittedLengths",
    "Judgement",
    "KeyLimit",
    "LedgerEntry",
    "ModelCircuit",
    "Period",
    "Promotion",
    "Pump",
    "Rating",
    "Reason",
    "Refit",
    "RefitOutcome",
    "RefitTrigger",
    "Request",
    "RequestState",
    "RouterVersion",
    "ScoreRange",
    "TopUp",
    "VersionState",
]
