"""The function of the language that reads what a statement gave which waits, or waited. At home on the nameserver."""

from __future__ import annotations

from typing import Any

from peers.waiting_reading import WaitingAnswers
from query.declarations import Call, Example, Home, function


class WaitingFunctions:
    """Over what the nameserver keeps."""

    def __init__(self, answers: WaitingAnswers) -> None:
        self._answers = answers

    @function(
        "query:results(String id) -> Bag of Record",
        home=Home.NAMESERVER,
        example=Example('query:results("q-000000000000")'),
    )
    async def query_results(self, call: Call, id: str) -> list[dict[str, Any]]:  # noqa: A002 — its name in the language
        """What a statement with //wait: has given so far, or gave: a record for each of its targets, with the state in
        the ledger (`waiting` while there is none), its rows and its errors. An answer that came after the end stands in
        its place and is marked as late. Of aggregates the first record has the rows of the whole so far, and no peer.
        Kept for a day after the end. One's own, or any with the role operator.
        """
        return await self._answers.results(id, call=call)
