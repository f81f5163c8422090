"""``POST /logs``: the inference log of this peer, a page of rows at a time, the oldest first.

    {}                                       the oldest rows, at most 1000
    {"cursor": "…", "limit": 100}            those after a page's cursor
    {"pipeline": "house-price", "start": 1800000000000, "end": …}    of one pipeline, between two times in ms
    {"newest_first": true}                   the newest rows, backwards

Owns the reading of the request and the headers that say how a page ended, as the pipeline server's contract names them:
``x-iteration-status`` is ``All``, ``RecordLimited`` or ``ByteLimited``, and ``x-iteration-cursor`` says where to go on
unless it is ``All``. ``Peerage-Missing-Rows`` counts the rows that lay in between and are no more; ``logs:local`` says
which. ``dataset`` and ``dataset_exclude`` choose columns as for an inference; ``row`` asks for a row's identity.

Rules: rows are what other programs sent, so reading them needs the token, or the Unix socket. Members that nobody knows
are passed over. Where no log is kept, the answer says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from engine.errors import InputProblem
from peers.conversion_words import in_words
from peers.face_bodies import LogsRequest
from peers.inference_bodies import Bodies
from peers.whole_answers import JSON, WholeAnswer
from query.errors import UnknownName

if TYPE_CHECKING:
    from engine.inference_log_reading import LogReader, Page
    from engine.records import Selection

ROWS: Final = 1000
STATUSES: Final = {"end": "All", "limit": "RecordLimited", "bytes": "ByteLimited"}
ASKED_HINT: Final = "expected an object with cursor, limit, pipeline, start, end (in ms) and newest_first, or nothing"
GROUPS: Final = ("time", "in", "out", "anomaly", "metadata", "row")

FindLog = Callable[[], "LogReader | None"]


def log_routes(find: FindLog, *, bodies: Bodies) -> tuple[web.RouteDef, ...]:
    """The route, among those that need the token. ``find``: the log as it is now, None where none is kept."""

    async def read_log(request: web.Request) -> web.StreamResponse:
        """Rows of this peer's inference log."""
        asked = asked_of(await bodies.read(request))
        selection = _selection(request)
        log = find()
        if log is None:
            raise UnknownName(
                "no inference log is kept on this peer", hint="the setting local_inference_storage turns it on"
            )
        return await bodies.aside(lambda: _answer(log, asked, selection))

    return (web.post("/logs", read_log),)


def asked_of(body: bytes) -> LogsRequest:
    """What a body asks for; nothing at all asks for the oldest rows. Raises ``InputProblem``."""
    if not body.strip():
        return LogsRequest()
    try:
        return msgspec.json.decode(body, type=LogsRequest)
    except msgspec.ValidationError as error:
        raise InputProblem(in_words(error), hint=ASKED_HINT) from error
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise InputProblem(f"the body is not JSON: {error}", hint=ASKED_HINT) from error


def _selection(request: web.Request) -> Selection:
    """The columns that are asked for; which challengers there are, only the rows know."""
    from engine.records import Selection

    selection = Selection.of_query(request.query)
    challengers = (name.partition(".")[0] for name in selection.named if name.startswith("out_"))
    selection.check(dict.fromkeys((*GROUPS, *challengers)))
    return selection


def _answer(log: LogReader, asked: LogsRequest, selection: Selection) -> web.StreamResponse:
    from engine.inference_log_reading import Cursor, Filter
    from engine.records import worded

    page: Page = log.read(
        None if asked.cursor is None else Cursor.parse(asked.cursor),
        limit=ROWS if asked.limit is None else asked.limit,
        wanted=Filter(pipeline=asked.pipeline, start_ms=asked.start, end_ms=asked.end),
        newest_first=asked.newest_first,
    )
    rows: list[Any] = [worded(record) for record in page.records(selection)]
    missing = sum(gap.rows for gap in page.gaps)
    more = b"x-iteration-status: %b\r\nPeerage-Missing-Rows: %d\r\n" % (STATUSES[page.ends].encode(), missing)
    if page.ends != "end":
        more += b"x-iteration-cursor: %b\r\n" % str(page.next).encode()
    return WholeAnswer(msgspec.json.encode(rows), kind=JSON, more=more)
