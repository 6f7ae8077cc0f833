"""The draw of paired sampling: uniform, without replacement, in random order, and within its money."""

from __future__ import annotations

import numpy as np
import pytest

from routing_service.exploration.explore import Population, draw

SEEDS = 4000


def population(n: int, expected: int = 100, worst: int = 1000, size: int = 10) -> Population:
    line = np.arange(1, n + 1)
    return Population(line, np.full(n, expected), np.full(n, worst), np.full(n, size))


def test_every_line_has_the_chance_that_is_logged_and_any_place_in_the_order() -> None:
    lines = population(12)
    drawn, first = np.zeros(12), np.zeros(12)
    for seed in range(SEEDS):
        sample = draw(lines, 0.2, 10**6, seed)
        assert len(set(sample.lines)) == len(sample.lines) in (2, 3)  # 2.4 lines
        assert sample.propensity == pytest.approx(0.2)
        assert sample.of == 12
        drawn[np.array(sample.lines) - 1] += 1
        first[sample.lines[0] - 1] += 1
    for counts, chance in ((drawn, 0.2), (first, 1 / 12)):
        deviation = (SEEDS * chance * (1 - chance)) ** 0.5
        assert np.abs(counts - SEEDS * chance).max() < 4 * deviation


def test_the_same_seed_draws_the_same() -> None:
    assert draw(population(1000), 0.1, 10**9, 7) == draw(population(1000), 0.1, 10**9, 7)
    assert draw(population(1000), 0.1, 10**9, 7) != draw(population(1000), 0.1, 10**9, 8)


def test_small_batches_are_explored_now_and_then() -> None:
    counts = [len(draw(population(5), 0.01, 10**6, seed).lines) for seed in range(SEEDS)]
    assert set(counts) == {0, 1}
    assert sum(counts) / SEEDS == pytest.approx(0.05, abs=0.015)


def test_money_lowers_the_chance_of_all_lines_alike() -> None:
    """Half of the lines cost 50 times as much as the others: were it drawn until money runs out, fewer would be in."""
    rng = np.random.default_rng(0)
    expected = np.where(rng.random(400) < 0.5, 20, 1000)
    lines = Population(np.arange(1, 401), expected, 3 * expected, np.full(400, 10))
    samples = [draw(lines, 0.5, 30_000, seed) for seed in range(400)]
    assert {sample.propensity for sample in samples} == {samples[0].propensity}
    assert 0 < samples[0].propensity < 0.1
    costs = np.array([expected[np.array(sample.lines) - 1].sum() for sample in samples])
    assert (costs + 3000 <= 30_000).mean() > 0.98  # so money rarely runs out
    dear = np.mean([(expected[np.array(sample.lines) - 1] == 1000).mean() for sample in samples])
    assert dear == pytest.approx((expected == 1000).mean(), abs=0.02)


def test_lines_that_could_take_more_than_half_of_the_money_are_left_out_of_what_is_drawn_from() -> None:
    lines = Population(np.array([1, 2, 3]), np.array([1, 1, 900]), np.array([10, 10, 1000]), np.array([5, 5, 5]))
    sample = draw(lines, 1.0, 1500, 0)
    assert (sorted(sample.lines), sample.of) == ([1, 2], 2)
    assert draw(lines, 1.0, 15, 0).lines == []


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(population(0), 1.0, 10**9, 0).lines == []
    assert draw(population(5), 0.0, 10**9, 0).lines == []


def test_lines_without_a_price_are_all_affordable() -> None:
    assert len(draw(population(50, expected=0, worst=0), 1.0, 1, 0).lines) == 50


def test_no_more_prompts_are_read_at_once_than_memory_holds() -> None:
    sample = draw(population(2000, size=1_000_000), 1.0, 10**9, 0)
    assert len(sample.lines) in (256, 257)
