"""What a re-fit is made of: all comparisons of one moment, and the newest prompts held out of every fit.

The hold-out is the newest share of the prompts on which the pair was compared, by when each was first: a router is
judged on what came after all that it was fitted on. No prompt stands on both sides, nor its like but for case, spaces
and typographic signs. A later re-fit holds out later prompts, so that the version of an earlier one has not seen them
either.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from routing_service.db import Database
from routing_service.models import Comparison
from routing_service.settings import Settings
from training.data.comparisons import ROLES, Comparisons, Pair
from training.data.database import stored
from training.data.decontamination import normalised
from training.data.labels import DataError, draw
from training.data.readers import Collector
from training.data.tables import BadRow
from training.progress import Progress, silent

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

__all__ = ["Judged", "Parts", "Snapshot", "compared_since", "split", "take_snapshot"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`comparisons` in the order of their ids, models by their keys in the configuration, `pair` its dearest and
    cheapest candidate. By row: `came`, when it was stored (seconds since 1970), and whether it is of `live` traffic:
    both models answered the same request, and a judge or a gold answer compared them. `ids`: the first and the last.
    """

    comparisons: Comparisons
    came: Floats
    live: Flags
    ids: tuple[int, int]
    bad: int

    @property
    def pair(self) -> Pair:
        assert self.comparisons.pair is not None
        return self.comparisons.pair

    def fingerprint(self) -> str:
        """A sha256: the same one, split with the same seed, gives the same routers and the same verdict."""
        digest = sha256(f"{self.ids} {self.comparisons.fingerprint()}".encode())
        digest.update(np.ascontiguousarray(self.came, "<f8").tobytes() + self.live.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Judged:
    """Prompts, each once, with what strong gained on it and what that weighs, both of shape (n,)."""

    prompts: list[str]
    gain: Floats
    weight: Floats

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, slots=True)
class Parts:
    """What is fitted on, and what is held out: all of it, and the part that comes of live traffic."""

    fitted: Comparisons
    held: Judged
    live: Judged


def take_snapshot(database: Database, settings: Settings, progress: Progress = silent) -> Snapshot:
    """Read everything that has come by now, in one transaction that sees one state of the database.

    DataError where there are no two candidates, or no usable comparison of them.
    """
    with database.transaction() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        return _read(session, settings, Comparison.created_at <= func.now(), progress)


def compared_since(session: Session, settings: Settings, last: int, most: int) -> Judged:
    """The prompts of the pair in the comparisons after that id, of about so many newest ones; there may be none."""
    newest = select(func.max(Comparison.id) - most).scalar_subquery()
    try:
        comparisons = _read(session, settings, Comparison.id > func.greatest(last, newest), silent).comparisons
    except DataError:
        return judged(None, np.empty(0, np.intp))
    return judged(comparisons, comparisons.of_pair()[0])


def _read(session: Session, settings: Settings, wanted: ColumnElement[bool], progress: Progress) -> Snapshot:
    pair = _pair(settings)
    names = _names(settings, pair)
    into, came, live, ids = Collector(pair), array("d"), array("b"), array("q")
    cap = settings.learning.feedback_weight_per_key
    for row in stored(session, progress, feedback_weight_per_key=cap, wanted=wanted):
        into.counted["rows"] += 1
        ids.append(row.id)
        if isinstance(row.reading, BadRow):
            into.leave_out(row.reading)
            continue
        a, b = (names.get(model, model) for model in row.reading.pair or ROLES)
        if a != b:
            into.add(replace(row.reading, pair=(a, b)))
            came.append(row.created_at.timestamp())
            live.append(row.live)
    comparisons = into.loaded().comparisons
    if not len(comparisons.of_pair()[0]):
        raise DataError(f"no comparison is of {pair[0]} with {pair[1]}. {comparisons.most_common_pairs()}")
    return Snapshot(comparisons, np.array(came, float), np.array(live, bool), (ids[0], ids[-1]), into.counted["bad"])


def split(snapshot: Snapshot, share: float, seed: int) -> Parts:
    """Hold out the newest `share` of the prompts of the pair, and all that says anything of them. Prompts that came at
    one moment, as those of an import did, are drawn by the seed."""
    comparisons = snapshot.comparisons
    rows, _ = comparisons.of_pair()
    same = _numbered([normalised(prompt) for prompt in comparisons.prompts])
    texts = same[comparisons.prompt]  # of each row
    first = np.full(same.max() + 1, np.inf)
    np.minimum.at(first, texts[rows], snapshot.came[rows])
    candidates = np.flatnonzero(np.isfinite(first))
    shown = {int(number): prompt for number, prompt in zip(same[::-1], comparisons.prompts[::-1], strict=True)}
    drawn = np.array([draw(shown[number], seed) for number in candidates.tolist()], np.uint64)
    newest = candidates[np.lexsort((drawn, first[candidates]))]
    held = np.zeros(len(first), bool)
    held[newest[len(newest) - round(share * len(newest)) :]] = True
    is_held = held[texts]
    of_pair = np.zeros(len(comparisons), bool)
    of_pair[rows] = True
    return Parts(
        comparisons.take(np.flatnonzero(~is_held)),
        judged(comparisons, np.flatnonzero(is_held & of_pair)),
        judged(comparisons, np.flatnonzero(is_held & of_pair & snapshot.live)),
    )


def judged(comparisons: Comparisons | None, rows: npt.NDArray[np.intp]) -> Judged:
    """These rows, which are of the pair, by prompt: the weighted mean of what they say."""
    if comparisons is None or not len(rows):
        return Judged([], np.empty(0), np.empty(0))
    part = comparisons.take(rows)
    _, outcome = part.of_pair()
    place = _numbered([normalised(prompt) for prompt in part.prompts])
    weight = np.bincount(place[part.prompt], part.weight).astype(np.float64)
    gain = np.bincount(place[part.prompt], part.weight * (2 * outcome - 1)) / weight
    prompts = [part.prompts[i] for i in np.unique(place, return_index=True)[1].tolist()]
    return Judged(prompts, np.clip(gain, -1, 1), weight)


def _numbered(texts: Sequence[str]) -> npt.NDArray[np.intp]:
    """Equal texts get equal numbers, from 0 in the order of their first."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(text, len(known)) for text in texts], np.intp)


def _pair(settings: Settings) -> Pair:
    if len(settings.candidates) < 2:
        raise DataError("a re-fit needs two candidates: configure a strong and a weak model (routing.candidates)")
    return settings.candidates[-1], settings.candidates[0]


def _names(settings: Settings, pair: Pair) -> dict[str, str]:
    """By what comparisons may call a model: its key. A name at the upstream that two models share says nothing."""
    called: dict[str, set[str]] = {role: {key} for role, key in zip(ROLES, pair, strict=True)}
    for key, model in settings.models.items():
        for name in {model.name, model.rated_as} - {None}:
            called.setdefault(str(name), set()).add(key)
    told = {name: next(iter(keys)) for name, keys in called.items() if len(keys) == 1}
    return told | {key: key for key in settings.models}
