"""Threads that ask together: each is woken with its answer, whoever is interrupted."""

from __future__ import annotations

import threading

import pytest

from pgsync.database import combining
from pgsync.database.combining import Combiner, Party
from tests.eventually import eventually

pytestmark = pytest.mark.core


class _Interrupted(Party):
    """Whose caller is interrupted in the moment in which it is woken."""

    __slots__ = ("again",)

    def wait(self, seconds: float) -> bool:
        if hasattr(self, "again"):
            return super().wait(seconds)
        self.again = True
        super().wait(60)
        raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", range(4))
def test_all_hear_their_answer_where_one_is_interrupted(
    interrupted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combining, "_LOOK_AGAIN", 60.0)
    asks, others_wait = threading.Event(), threading.Event()

    def serve(parties: list[Party]) -> None:
        asks.set()
        others_wait.wait(60)
        for party in parties:
            party.answered = True

    combiner: Combiner[Party] = Combiner(serve, 100)
    heard: list[Party] = []

    def work(party: Party) -> None:
        try:
            combiner.ask(party)
        except KeyboardInterrupt:
            assert isinstance(party, _Interrupted)
        heard.append(party)

    first = threading.Thread(target=work, args=(Party(),))
    first.start()
    assert asks.wait(60)
    threads = []
    for number in range(4):
        party = _Interrupted() if number == interrupted else Party()
        threads.append(threading.Thread(target=work, args=(party,)))
        threads[-1].start()
        eventually(lambda: len(combiner._queue) == len(threads))
    others_wait.set()
    for thread in (first, *threads):
        thread.join(30)
    assert len(heard) == 5
