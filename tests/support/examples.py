"""How many examples a slow property test draws."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

FEWEST = 5


def examples(most: int) -> settings:
    """`most` of them in `make test-all`; in `make test` the same part of them as of any other property test's hundred.

    All examples of a test may use the same fixtures: a database to which each adds its own rows.
    """
    default = settings()
    return settings(
        max_examples=max(FEWEST, round(most * default.max_examples / 100)),
        suppress_health_check=[*default.suppress_health_check, HealthCheck.function_scoped_fixture],
    )
