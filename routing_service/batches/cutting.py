"""The cut of a batch: which plan its mode makes of ranked requests and of what may be spent."""

from __future__ import annotations

from routing_service.batches.scored import Scored
from routing_service.models import Batch
from routing_service.planning import Floats, Plan, Ranking
from routing_service.settings import Settings


def cut(table: Scored, step: Floats, available: int, batch: Batch, settings: Settings) -> Plan:
    """The plan of a batch's mode. `available`: what of its budget may still be spent, in nano-dollars."""
    ranking = Ranking.of(table.cost, table.quality, table.line, step)
    return cut_within(ranking, available - table.largest_worst_case(settings), batch)


def cut_within(ranking: Ranking, spendable: int, batch: Batch) -> Plan:
    """The plan of a batch's mode. `spendable`: what answers may be expected to cost in all, in nano-dollars."""
    mode = batch.options.get("mode", "plan")
    if mode == "share":
        return ranking.share(float(batch.options["strong_share"]))
    if mode == "threshold":
        return ranking.threshold(float(batch.options["threshold"]))
    within = ranking.within(spendable)
    if mode == "target_quality":
        wanted = ranking.reaching(float(batch.options["target_quality"]))
        return min(within, wanted, key=lambda plan: plan.expected_cost)
    return within
