"""How a re-fit measures routers."""

from __future__ import annotations

import numpy as np
import pytest

from routing_service.routers.random import RandomRouter
from tests.support.routers.labelled import labels
from training.data.comparisons import ROLES, Comparisons
from training.refit.candidates import measured
from training.refit.snapshot import Judged, Parts


def test_a_random_router_is_judged_by_what_it_knows_not_by_what_it_drew() -> None:
    prompts = [f"prompt {number}" for number in range(40)]
    gain = np.tile([1.0, 0.0], 20)
    judged = Judged(prompts, gain, np.ones(40))
    parts = Parts(Comparisons.from_labels(labels(prompts, gain.tolist())), judged, judged)
    for seed in range(3):
        actual = measured(RandomRouter(seed), parts, [], ROLES, "", 0)
        assert abs(actual.evaluations["hold-out"][1]["qini"]) < 1e-12
        assert actual.evaluations["live pairs"][1]["apgr"] == pytest.approx(0.5)
