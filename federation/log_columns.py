"""Whether the columns that a pipeline's log settings name are columns of its answers. Pure.

Owns that question and nothing else. Refuses with :class:`~federation.pipelines.BadPipeline`, naming the column and what
there is: a name that nothing has would leave out everything, in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from federation.pipelines import BadPipeline
from query.errors import suggestion

_ALWAYS = ("time", "metadata")  # recorded whatever is named


def check_log_columns(wanted: Iterable[str], groups: Mapping[str, Iterable[str]]) -> None:
    """``groups``: ``in``, ``out``, those of challengers and ``anomaly``, each with its columns."""
    known = {name for group, columns in groups.items() for name in (group, *(f"{group}.{one}" for one in columns))}
    for name in wanted:
        if name not in known and name not in _ALWAYS and name != "*":
            tail = suggestion(name, known, otherwise="")
            raise BadPipeline(
                f'the log has no column "{name[:80]}"{tail}',
                hint=f"expected of {', '.join((*_ALWAYS, *groups))}, or one of a group as group.column",
            )
