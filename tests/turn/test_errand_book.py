"""What an edge remembers of statements that wait: once, whatever restarts, in bounded room."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import EnvelopeExpired, NonceReused, NoncesFull
from peers.edge_store import EdgeStore
from peers.errand_book import ErrandBook, ErrandKey, begin_book
from query.errors import LimitExceeded

NOW = 1_800_000_000.0
KEY = ErrandKey("ann", "0:n1")


def book(store: EdgeStore, *, began: float = NOW, **bounds: int) -> ErrandBook:
    return ErrandBook(store, began=lambda: began, **bounds)


def use(
    made: ErrandBook,
    nonce: str,
    *,
    caller: str = "ann",
    expires: float = NOW + 10,
    now: float = NOW,
    issued: float = NOW,
    errand: str = "q-1",
) -> None:
    made.use(nonce, caller=caller, expires=expires, now=now, issued=issued, errand=errand)


def test_a_statement_is_begun_once_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = EdgeStore.open(path)
    use(book(store), "0:n1")
    with pytest.raises(NonceReused):
        use(book(store), "0:n1")
    store.close()
    again = EdgeStore.open(path)
    with pytest.raises(NonceReused):
        use(book(again, began=NOW + 5), "0:n1", now=NOW + 9.999)
    use(book(again), "1:n1")
    use(book(again), "0:n1", caller="bob")
    again.close()


def test_an_answer_is_kept_until_it_was_handed_over(tmp_path: Path) -> None:
    store = EdgeStore.open(tmp_path / "state.db")
    made = book(store)
    use(made, "0:n1", errand="q-1")
    assert made.answer(KEY) is None
    assert made.unfetched() == frozenset()
    made.keep(KEY, b"answer", now=NOW)
    store.close()
    again = EdgeStore.open(tmp_path / "state.db")
    made = book(again)
    assert (made.answer(KEY), made.unfetched()) == (b"answer", {"q-1"})
    made.done(["q-2"])
    assert made.answer(KEY) == b"answer"
    made.done(["q-1"])
    assert (made.answer(KEY), made.unfetched()) == (None, frozenset())
    with pytest.raises(NonceReused):
        use(made, "0:n1")
    again.close()


def test_answers_take_bounded_room_and_expired_ones_make_some() -> None:
    store = EdgeStore.open()
    made = book(store, answers_bytes_max=10)
    for number in range(3):
        use(made, f"0:n{number}", expires=NOW + 10 * (number + 1))
    made.keep(ErrandKey("ann", "0:n0"), b"123456", now=NOW)
    with pytest.raises(LimitExceeded, match="expected at most 10 with one of 5"):
        made.keep(ErrandKey("ann", "0:n1"), b"12345", now=NOW)
    made.keep(ErrandKey("ann", "0:n1"), b"12345", now=NOW + 10)
    assert made.answer(ErrandKey("ann", "0:n0")) is None
    store.close()


def test_the_book_is_bounded_in_all_and_for_each_caller() -> None:
    store = EdgeStore.open()
    made = book(store, errands_max=3, errands_per_caller_max=2)
    use(made, "1")
    use(made, "2")
    with pytest.raises(NoncesFull):
        use(made, "3")
    use(made, "1", caller="bob")
    with pytest.raises(NoncesFull, match="3 statements that waited are remembered here"):
        use(made, "2", caller="bob")
    assert len(made) == 3
    store.close()


def test_a_clock_that_is_set_forth_and_back_brings_nothing_back() -> None:
    store = EdgeStore.open()
    made = book(store, errands_max=2)
    use(made, "1", expires=NOW + 10)
    use(made, "2", expires=NOW + 20)
    use(made, "3", now=NOW + 15, issued=NOW + 15, expires=NOW + 30)  # "1" has expired by this clock, and makes room
    for again in (made, book(store, errands_max=2)):
        with pytest.raises(EnvelopeExpired, match="before what this peer remembers"):
            use(again, "1", now=NOW + 1)
        with pytest.raises(NonceReused):
            use(again, "2", now=NOW + 1)
    store.close()


def test_a_book_whose_file_was_lost_refuses_what_was_signed_before() -> None:
    store = EdgeStore.open()
    with pytest.raises(EnvelopeExpired):
        use(book(store, began=NOW), "1", issued=NOW - 1)
    use(book(store, began=NOW + 5), "2", issued=NOW + 1)  # what it may take was settled at the first one
    store.close()


def test_an_edge_that_just_joined_takes_what_waited_for_it(tmp_path: Path) -> None:
    begin_book(tmp_path / "state.db")
    store = EdgeStore.open(tmp_path / "state.db")
    use(book(store, began=NOW), "1", issued=NOW - 3600)
    store.close()


@settings(max_examples=60)
@given(uses=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(-8, 8), st.booleans()), max_size=30))
def test_nothing_is_ever_begun_twice_whatever_the_clock_says(uses: list[tuple[int, int, int, bool]]) -> None:
    """Each number is one envelope: signed once, with one lifetime."""
    store = EdgeStore.open()
    made = book(store, began=0.0, errands_max=3)
    begun: set[str] = set()
    lives: dict[int, tuple[float, float]] = {}
    now = NOW
    for number, lifetime, step, restarts in uses:
        now += step
        issued, expires = lives.setdefault(number, (now, now + lifetime))
        if restarts:
            made = book(store, began=now, errands_max=3)
        if not issued <= now < expires:
            continue  # refused before the book is asked
        try:
            use(made, str(number), now=now, issued=issued, expires=expires)
        except (NonceReused, EnvelopeExpired, NoncesFull):
            continue
        assert str(number) not in begun
        begun.add(str(number))
    store.close()
