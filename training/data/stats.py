"""What the database's comparisons are: by source, pair of models, month and language, and how many of them are ties.

The language that a prompt is written in is py3langid's guess: n-grams of bytes, 140 languages, without a network.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.orm import Session

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LANGUAGE_SAMPLE = 2000  # comparisons: telling languages is slow

_GROUPS = text("""
select source, pair[1] as model_a, pair[2] as model_b, month, count(*) as rows, sum(weight::float8) as weight,
       count(*) filter (where outcome = 0.5)::float8 / nullif(count(*), 0) as tie_share, avg(outcome_a) as outcome
from (select source::text, array[least(model_a, model_b), greatest(model_a, model_b)] as pair,
             to_char(created_at at time zone 'UTC', 'YYYY-MM') as month, weight, outcome,
             case when model_a < model_b then outcome else 1 - outcome end as outcome_a from comparisons) c
group by grouping sets ((source), (pair), (month), ())
order by rows desc, source, pair, month desc
""")
# Digests are as good as drawn by lot, and there is an index on them.
_SAMPLE = text("select prompt, outcome from comparisons order by digest limit :limit")
_COUNTS = text("select count(distinct md5(prompt)), (select count(*) from ratings) from comparisons")

Group = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Collected:
    """Each group has `rows`, `tie_share` (of outcomes that are 0.5) and its name or names; all but languages have the
    sum of their `weight`s. Pairs are named in the order of the alphabet, `outcome` is the mean of the first one's.
    Languages are those of `sampled` comparisons. `ratings` are no comparisons: what is said of one answer alone."""

    rows: int
    prompts: int
    ratings: int
    tie_share: float | None
    by_source: list[Group]
    by_pair: list[Group]
    by_month: list[Group]
    by_language: list[Group]
    sampled: int


def collected(session: Session) -> Collected:
    """All comparisons, grouped; the largest groups first, months from the last."""
    groups: dict[str, list[Group]] = {"source": [], "pair": [], "month": [], "all": []}
    for row in session.execute(_GROUPS).mappings():
        figures = {"rows": row["rows"], "weight": row["weight"], "tie_share": row["tie_share"]}
        if row["source"] is not None:
            groups["source"].append({"source": row["source"], **figures})
        elif row["model_a"] is not None:
            names = {"model_a": row["model_a"], "model_b": row["model_b"]}
            groups["pair"].append({**names, **figures, "outcome": row["outcome"]})
        elif row["month"] is not None:
            groups["month"].append({"month": row["month"], **figures})
        else:
            groups["all"].append(figures)
    prompts, ratings = session.execute(_COUNTS).one()
    sample = session.execute(_SAMPLE, {"limit": LANGUAGE_SAMPLE}).all()
    months = sorted(groups["month"], key=lambda group: str(group["month"]), reverse=True)
    whole = groups["all"][0]
    by_language = _languages([(row.prompt, row.outcome) for row in sample])
    return Collected(
        whole["rows"],
        prompts,
        ratings,
        whole["tie_share"],
        groups["source"],
        groups["pair"],
        months,
        by_language,
        len(sample),
    )


def _languages(sample: list[tuple[str, float]]) -> list[Group]:
    known: dict[str, str] = {}
    outcomes: defaultdict[str, list[float]] = defaultdict(list)
    for prompt, outcome in sample:
        if prompt not in known:
            known[prompt] = language(prompt)
        outcomes[known[prompt]].append(outcome)
    groups = [
        {"language": code, "rows": len(values), "tie_share": values.count(0.5) / len(values)}
        for code, values in outcomes.items()
    ]
    return sorted(groups, key=lambda group: (-group["rows"], group["language"]))


UNKNOWN = "unknown"
READ_CHARACTERS = 1000  # of a prompt
LEAST_PROBABILITY = 1 / 3  # of 140 languages: below it a short prompt may be in any


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def language(prompt: str) -> str:
    """Its ISO 639 code, or `unknown` where it has too few words to tell (about 1,000 prompts a second)."""
    read = prompt[:READ_CHARACTERS]
    if not any(character.isalpha() for character in read):
        return UNKNOWN
    code, probability = _identifier().classify(read)
    return str(code) if probability >= LEAST_PROBABILITY else UNKNOWN
