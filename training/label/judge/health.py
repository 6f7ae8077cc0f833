"""Judge health: whether a judge can be believed, from its raw verdicts. By judge and template.

Agreement of the two orders, preference for what is shown first, replies that cannot be read, and agreement with golden
comparisons of the same prompt and models. Shares have Wilson's 95 % interval.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.orm import Session

from training.evaluate.intervals import Mean
from training.label.judge.collect import outcome_of, strong_preferred
from training.label.judge.prompts import FIRST, SECOND, UNANSWERED, UNPARSED

_VERDICTS = text("""
select judgement.judge, judgement.template, judgement.verdict, count(*) as calls,
    sum(request.cost_nano)::bigint as cost_nano
from judgements judgement join requests request using (batch_id, line)
    group by judgement.judge, judgement.template, judgement.verdict
order by judgement.judge, judgement.template
""")
# Both orders of each pair, and what a golden comparison of its prompt says of strong, if there is one.
_PAIRS = text("""
with pairs as (
    select judgement.judge, judgement.template, judgement.verdict as unswapped,
    swapped_judgement.verdict as swapped, judgement.model_a as strong, judgement.model_b as weak,
           comparison.prompt
    from judgements judgement
    join judgements swapped_judgement on swapped_judgement.batch_id = judgement.batch_id
    and swapped_judgement.parent_line = judgement.parent_line and swapped_judgement.swapped
    left join comparisons comparison on comparison.source = 'judge'
    and comparison.batch_id = judgement.parent_id and comparison.line = judgement.parent_line
    where not judgement.swapped and judgement.model_b is not null
), golden as (
    select prompt, greatest(model_a, model_b) as a, least(model_a, model_b) as b,
           avg(case when model_a > model_b then outcome else 1 - outcome end) as outcome
    from comparisons where source = 'golden' group by 1, 2, 3
)
select pair.judge, pair.template, pair.unswapped, pair.swapped,
       case when pair.strong > pair.weak then sign(golden_label.outcome - 0.5)
            else sign(0.5 - golden_label.outcome) end as golden,
       count(*) as pairs
from pairs pair left join golden golden_label
  on golden_label.prompt = pair.prompt and golden_label.a = greatest(pair.strong, pair.weak)
  and golden_label.b = least(pair.strong, pair.weak)
group by 1, 2, 3, 4, 5
""")


@dataclass(frozen=True, slots=True)
class JudgeHealth:
    """`verdicts` counts raw ones (`unread`: not collected yet). `unparsed`: of the replies. `swap_agreement`: of the
    pairs with two verdicts, those on which both orders say the same. `first_preferred`: of their verdicts that prefer
    one answer, those for the one shown first; 0.5 is no bias. `golden_agreement`: of pairs with a golden comparison,
    those on which the judge says the same, ties included; `golden_decided`: of those where both prefer one answer."""

    judge: str
    template: str
    calls: int
    cost_nano: int
    verdicts: dict[str, int]
    unparsed: Mean
    swap_agreement: Mean
    first_preferred: Mean
    golden_agreement: Mean
    golden_decided: Mean


@dataclass(slots=True)
class _Tally:
    verdicts: Counter[str] = field(default_factory=Counter)
    cost_nano: int = 0
    pairs: Counter[tuple[str | None, str | None, float | None]] = field(default_factory=Counter)

    def health(self, judge: str, template: str) -> JudgeHealth:
        calls = self.verdicts.total()
        replies = calls - self.verdicts["unread"] - self.verdicts[UNANSWERED]
        agreed, complete, first, decided = 0, 0, 0, 0
        golden: Counter[str] = Counter()
        for (unswapped, swapped, sign), count in self.pairs.items():
            one, other = strong_preferred(unswapped or "", False), strong_preferred(swapped or "", True)
            outcome = outcome_of(one, other)
            if outcome is None:
                continue
            complete += count
            agreed += count * (one == other)
            first += count * [unswapped, swapped].count(FIRST)
            decided += count * sum(verdict in (FIRST, SECOND) for verdict in (unswapped, swapped))
            if sign is not None:
                same = (outcome > 0.5) - (outcome < 0.5) == sign
                golden["n"] += count
                golden["same"] += count * same
                golden["decided"] += count * (outcome != 0.5 and sign != 0)
                golden["decided_same"] += count * (outcome != 0.5 and sign != 0 and same)
        return JudgeHealth(
            judge,
            template,
            calls,
            self.cost_nano,
            dict(sorted(self.verdicts.items())),
            Mean.of(self.verdicts[UNPARSED], replies),
            Mean.of(agreed, complete),
            Mean.of(first, decided),
            Mean.of(golden["same"], golden["n"]),
            Mean.of(golden["decided_same"], golden["decided"]),
        )


def judge_health(session: Session) -> list[JudgeHealth]:
    """The health of every judge with every template that it was asked by."""
    tallies: dict[tuple[str, str], _Tally] = {}
    for judge, template, verdict, calls, cost_nano in session.execute(_VERDICTS):
        tally = tallies.setdefault((judge, template), _Tally())
        tally.verdicts[verdict or "unread"] += calls
        tally.cost_nano += cost_nano
    for judge, template, unswapped, swapped, golden, pairs in session.execute(_PAIRS):
        tallies[judge, template].pairs[unswapped, swapped, None if golden is None else float(golden)] += pairs
    return [tally.health(*name) for name, tally in tallies.items()]
