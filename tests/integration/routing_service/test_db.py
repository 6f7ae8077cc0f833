"""Rows that are sent to a statement as arrays."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from routing_service.db import Database, Unnest, array

PRICES = Unnest("price", {"line": "int", "nano": "bigint", "model": "text"})


def test_a_statement_reads_the_rows_like_a_table(database: Database) -> None:
    query = text(f"select price.line, price.nano, price.model from {PRICES} order by price.line desc")
    with database.transaction() as session:
        rows = session.execute(query, PRICES.parameters(nano=(10, 2**40), line=[1, 2], model=["weak", None])).all()
    assert [tuple(row) for row in rows] == [(2, 2**40, None), (1, 10, "weak")]


def test_no_rows_are_an_empty_table(database: Database) -> None:
    with database.transaction() as session:
        values = PRICES.parameters(line=[], nano=[], model=[])
        assert session.scalar(text(f"select count(*) from {PRICES}"), values) == 0


def test_places_of_rows_are_sent_as_strings(database: Database) -> None:
    place = Unnest("row", {"place": "tid"})
    with database.transaction() as session:
        values = place.parameters(place=["(0,1)", "(7,3)"])
        rows = session.scalars(text(f"select place::text from {place}"), values).all()
        assert rows == ["(0,1)", "(7,3)"]
        query = text(f"select cast('(7,3)' as tid) = any({array('places', 'tid')})")
        assert session.scalar(query, {"places": ["(0,1)", "(7,3)"]}) is True


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"line": [1], "nano": [2]}, "price has the columns line, nano, model, not line, nano"),
        ({"line": [1], "nano": [2], "model": ["a"], "at": [0]}, "not line, nano, model, at"),
        ({"line": [1, 2], "nano": [2], "model": ["a"]}, "the columns of price differ in length"),
    ],
)
def test_columns_that_do_not_fit_are_refused(values: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PRICES.parameters(**values)
