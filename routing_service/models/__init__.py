"""The tables of routebatch. What may not be is forbidden here: by enums, checks, unique and partial indexes."""

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
    RequestState,
)
from routing_service.models.circuits import ModelCircuit
from routing_service.models.files import ApiKey, File, FileChunk
from routing_service.models.learning import Comparison, Evaluation, Feedback, FittedLengths, Rating, RouterVersion
from routing_service.models.money import Attempt, Budget, KeyLimit, LedgerEntry, TopUp
from routing_service.models.work import Batch, Decision, Pump, Request, ScoreRange

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
    "KeyLimit",
    "LedgerEntry",
    "ModelCircuit",
    "Period",
    "Pump",
    "Rating",
    "Reason",
    "Request",
    "RequestState",
    "RouterVersion",
    "ScoreRange",
    "TopUp",
]
