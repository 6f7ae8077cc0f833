"""The lines of a batch's output and error file, rendered by the database straight from the requests.

One SQL expression makes a line, so a file's size, which is fixed when the batch ends, and its content agree by
construction. The upstream's body is spliced in as it is, but for what would break a line in two: raw line breaks
(in JSON only between tokens) become spaces; U+0085, U+2028 and U+2029, at which many readers split, are escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import text
from sqlalchemy.orm import Session

from routing_service.db import Database

PAGE_LINES = 512
PAGE_BYTES = 4_000_000  # of upstream bodies: what one page may hold in memory, unless a single body is larger

_BREAKS = {"000a": " ", "000d": " ", "0085": "\\u0085", "2028": "\\u2028", "2029": "\\u2029"}

_OUTPUT = "request.state = 'succeeded'"
_ERRORS = "request.state in ('failed', 'cancelled', 'expired', 'unaffordable')"

# What a request that never got an answer says, unless a reason was stored with it.
_CODE = """case request.state when 'cancelled' then 'batch_cancelled' when 'expired' then 'batch_expired'
 when 'unaffordable' then 'budget_exhausted' else 'upstream_error' end"""
_MESSAGE = """case request.state when 'cancelled' then 'This request was not executed because the batch was cancelled.'
 when 'expired' then 'This request could not be executed before the completion window expired.'
 when 'unaffordable' then 'This request was not executed because the batch''s budget is spent.'
 else 'The upstream gave no usable answer.' end"""


def _concat(*parts: str) -> str:
    return " || ".join(parts)


def _json(column: str) -> str:
    return f"coalesce(to_json({column})::text, 'null')"


_ID = "'batch_req_' || replace(request.batch_id, 'batch_', '') || '_' || request.line"
_COST = "request.cost_nano * 0.000000001"
_COST_USD = f"(case when scale(trim_scale({_COST})) < 2 then round({_COST}, 2) else trim_scale({_COST}) end)"
_HEAD = _concat("""'{"id":'""", _json(_ID), """',"custom_id":'""", _json("request.custom_id"), """',"response":'""")
_ROUTING = _concat(
    """'{"model":'""",
    _json("request.model"),
    """',"win_rate":'""",
    _json("coalesce(request.win_rate, first_asked.win_rate)"),
    """',"gain":'""",
    _json("decision.gain"),
    """',"reason":'""",
    _json("request.reason"),
    "case when decision.router_version_id is null then ''"
    """ else ',"router_version":' || decision.router_version_id end""",
    """',"cost_usd":"'""",
    _COST_USD,
    """'"}'""",
)
_ERROR = _concat(
    """'{"code":'""",
    _json(f"coalesce(request.error_code, {_CODE})"),
    """',"message":'""",
    _json(f"coalesce(request.error_message, {_MESSAGE})"),
    """'}'""",
)
_NO_BODY = _concat(  # an HTTP failure whose body was not kept
    """'{"error":{"message":'""",
    _json(f"coalesce(request.error_message, {_MESSAGE})"),
    """',"type":"upstream_error","param":null,"code":'""",
    _json("request.error_code"),
    """'}}'""",
)


def _response(body: str) -> str:
    return _concat(
        """'{"status_code":'""",
        "request.status_code",
        """',"request_id":'""",
        _json("request.request_id"),
        """',"body":'""",
        body,
        """',"routing":'""",
        _ROUTING,
        """'}'""",
    )


_OUTPUT_LINE = _concat(_HEAD, _response("coalesce(request.response, first_asked.response)"), """',"error":null}'""")
_ERROR_LINE = _concat(
    _HEAD,
    "case when request.state = 'failed' and request.status_code is not null then "
    + _concat(_response(f"coalesce(request.response, first_asked.response, {_NO_BODY})"), """',"error":null}'""")
    + " else "
    + _concat("""'null,"error":'""", _ERROR, """'}'""")
    + " end",
)
# Of a duplicate, the line that was asked in its stead. The limit keeps the planner from joining the batch with itself.
_FIRST = """left join lateral (select first_asked.response, first_asked.win_rate from requests first_asked
 where first_asked.batch_id = request.batch_id and first_asked.line = request.twin_of limit 1) first_asked on true"""
_DECISION = """left join lateral (select decision.gain, decision.router_version_id from decisions decision
    where decision.batch_id = request.batch_id
 and decision.line = coalesce(request.twin_of, request.line) order by decision.number desc limit 1) decision on true"""


def file_bytes(session: Session, batch_id: str, *, errors: bool) -> tuple[int, int]:
    """(lines, bytes) of a batch's output file, or of its error file."""
    query = (
        f"select count(*), coalesce(sum(octet_length({_line(errors)}) + 1), 0)"  # noqa: S608
        f" from requests request {_FIRST} {_DECISION}"
        f" where request.batch_id = :id and {_which(errors)}"
    )
    count, size = session.execute(text(query), {"id": batch_id}).one()
    return int(count), int(size)


def render(database: Database, batch_id: str, *, errors: bool) -> Iterator[bytes]:
    """The file's content in pieces of a few megabytes, in order of line.

    Each piece is its own short transaction: a slow reader holds no connection, and memory stays bounded. The rows of
    a batch that has ended do not change any more.
    """
    after = 0
    while True:
        with database.transaction() as session:
            # Lines come in the key's order. A batch that the database has no statistics of yet, it would read to its
            # end and sort, for every page.
            session.execute(text("set local enable_bitmapscan = off"))
            rows = session.execute(
                text(_page(errors)), {"id": batch_id, "after": after, "lines": PAGE_LINES, "bytes": PAGE_BYTES}
            ).all()
        if not rows:
            return
        after = rows[-1][0]
        yield "".join(f"{line}\n" for _, line in rows).encode()


def _page(errors: bool) -> str:
    """The next lines after :after, as many as :lines and :bytes allow, at least one."""
    return f"""
with page as (
    select request.line, row_number() over w as number,
           sum(coalesce(octet_length(request.response), octet_length(first_asked.response), 0)) over w as size
    from (select request.batch_id, request.line, request.twin_of, request.response from requests request
    where request.batch_id = :id and request.line > :after
          and {_which(errors)} order by request.line limit :lines) request {_FIRST}
    window w as (order by request.line rows unbounded preceding)
)
select request.line, {_line(errors)} from page page_line join requests request on request.batch_id = :id
    and request.line = page_line.line {_FIRST} {_DECISION}
where page_line.number = 1 or page_line.size <= :bytes order by request.line"""  # noqa: S608


def _which(errors: bool) -> str:
    return _ERRORS if errors else _OUTPUT


def _line(errors: bool) -> str:
    line = _ERROR_LINE if errors else _OUTPUT_LINE
    for sign, stand_in in _BREAKS.items():
        line = f"replace({line}, U&'\\{sign}', '{stand_in}')"
    return line.replace(":", "\\:")  # colons of the text are no parameters
