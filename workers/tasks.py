"""The tasks: ids in, a use case, then what follows is announced. Any of them may run twice, or never."""

from __future__ import annotations

from celery import shared_task

from routing_service.dispatch.finish import finish as finish_batch
from routing_service.dispatch.sweep import sweep as sweep_all
from routing_service.exploration.explore import explore as explore_batch
from routing_service.ingest.ingest import ingest as ingest_batch
from routing_service.models import RefitTrigger
from routing_service.plans.plan import plan as plan_batch
from routing_service.plans.replan import replan as replan_batch
from routing_service.scoring.lengths import fit_lengths as fit_all_lengths
from routing_service.scoring.score import announce_ranges
from routing_service.scoring.score import score as score_range
from workers.context import context


@shared_task(name="routebatch.ingest")
def ingest(batch_id: str) -> None:
    """Read and validate a batch's file; announce what may be scored of it."""
    c = context()
    if ingest_batch(c.database, c.settings, c.prices, batch_id) is None:
        c.publisher.finish(batch_id)  # cancelled meanwhile, perhaps
    announce_ranges(c.database, c.settings, c.publisher, batch_id)


@shared_task(name="routebatch.score")
def score(batch_id: str, first_line: int) -> None:
    """Score one range of lines and announce the next; the last one announces the plan."""
    c = context()
    if score_range(c.database, c.settings, c.routers, batch_id, first_line, c.lengths):
        c.publisher.plan(batch_id)
    announce_ranges(c.database, c.settings, c.publisher, batch_id)


@shared_task(name="routebatch.plan")
def plan(batch_id: str) -> None:
    """Allocate the batch under its budget and ring the pump; later, cut what is left of it anew."""
    c = context()
    if plan_batch(c.database, c.settings, batch_id):
        c.publisher.dispatch()
    else:
        replan_batch(c.database, c.settings, batch_id)


@shared_task(name="routebatch.dispatch")
def dispatch() -> None:
    """The doorbell: pump for a while."""
    context().pump()


@shared_task(name="routebatch.finish")
def finish(batch_id: str) -> None:
    """Give the batch its files and its last state, if it has nothing left to do; have it explored if it is to be."""
    c = context()
    finish_batch(c.database, batch_id)
    if explore_batch(c.database, c.settings, c.prices, batch_id):
        c.publisher.dispatch()


@shared_task(name="routebatch.sweep")
def sweep() -> None:
    """Recover what was abandoned, announce what nobody announced."""
    c = context()
    sweep_all(c.database, c.settings, c.publisher)


@shared_task(name="routebatch.fit_lengths")
def fit_lengths() -> None:
    """Learn output lengths from what was settled since the last fits."""
    c = context()
    fit_all_lengths(c.database, c.settings)


@shared_task(name="routebatch.refit")
def refit() -> None:
    """Fit routers on all comparisons; by the clock. One at a time: where one runs this does nothing."""
    from training.refit.refit import refit as refit_routers

    c = context()
    refit_routers(c.database, c.settings, trigger=RefitTrigger.SCHEDULE)


@shared_task(name="routebatch.refit_if_due")
def refit_if_due() -> None:
    """The same, if new comparisons or drift ask for it."""
    from training.refit.refit import refit as refit_routers
    from training.refit.triggers import due

    c = context()
    if (asked := due(c.database, c.settings)) is not None:
        refit_routers(c.database, c.settings, trigger=asked[0], asked=asked[1])


@shared_task(name="routebatch.collect_judgements")
def collect_judgements() -> None:
    """Make comparisons and ratings of what a judge has replied."""
    from training.label.judge.collect import collect_judgements as collect

    collect(context().database)
