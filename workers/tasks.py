"""The tasks: ids in, the event they stand for handled by the service. Any of them may run twice, or never.

Re-fits and what a judge replied are handled here: they belong to `training`, which the service knows nothing of.
"""

from __future__ import annotations

from functools import cache

from celery import shared_task

from routing_service.events import DispatchDue, FinishDue, FitLengthsDue, IngestDue, PlanDue, ScoreDue, SweepDue
from routing_service.models import RefitTrigger
from routing_service.service import Service, handle
from routing_service.settings import get_settings
from workers.publisher import CeleryPublisher
from workers.shutdown import stopping


@cache
def service() -> Service:
    """The service of this worker process. Its first task makes it, hence after the fork."""
    from workers.app import app

    return Service.of(get_settings(), CeleryPublisher(app), stopping.is_set)


@shared_task(name="routebatch.ingest")
def ingest(batch_id: str) -> None:
    handle(service(), IngestDue(batch_id))


@shared_task(name="routebatch.score")
def score(batch_id: str, first_line: int) -> None:
    handle(service(), ScoreDue(batch_id, first_line))


@shared_task(name="routebatch.plan")
def plan(batch_id: str) -> None:
    handle(service(), PlanDue(batch_id))


@shared_task(name="routebatch.dispatch")
def dispatch() -> None:
    handle(service(), DispatchDue())


@shared_task(name="routebatch.finish")
def finish(batch_id: str) -> None:
    handle(service(), FinishDue(batch_id))


@shared_task(name="routebatch.sweep")
def sweep() -> None:
    handle(service(), SweepDue())


@shared_task(name="routebatch.fit_lengths")
def fit_lengths() -> None:
    handle(service(), FitLengthsDue())


@shared_task(name="routebatch.refit")
def refit() -> None:
    """Fit routers on all comparisons; by the clock. One at a time: where one runs this does nothing."""
    from training.refit.refit import refit as refit_routers

    refit_routers(service().database, service().settings, trigger=RefitTrigger.SCHEDULE)


@shared_task(name="routebatch.refit_if_due")
def refit_if_due() -> None:
    """The same, if new comparisons or drift ask for it."""
    from training.refit.refit import refit as refit_routers
    from training.refit.triggers import due

    database, settings = service().database, service().settings
    if (asked := due(database, settings)) is not None:
        refit_routers(database, settings, trigger=asked[0], asked=asked[1])


@shared_task(name="routebatch.collect_judgements")
def collect_judgements() -> None:
    """Make comparisons and ratings of what a judge has replied."""
    from training.label.judge.collect import collect_judgements as collect

    collect(service().database)
