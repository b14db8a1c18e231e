"""Tags: words to find jobs by, which travel with the arguments and are none of them."""

from __future__ import annotations

from typing import Any

import pytest

from pgsync import InvalidArgument, current_job
from pgsync.queues.sealing import new_key

pytestmark = pytest.mark.core


def found(database: Any, *tags: str) -> list[int]:
    query = "SELECT ids FROM pgsync.find_jobs(jsonb_build_object('tags', %s::text[]))"
    return sorted(database.execute(query, [list(tags)]).fetchone()[0])


def test_a_handler_is_not_given_the_tags_and_can_ask_for_them(face: Any, database: Any) -> None:
    seen: list[Any] = []

    @face.task(tags=["mail"])
    def send(n: int) -> None:
        job = current_job()
        assert job
        seen.append((n, job.tags))

    plain = send.enqueue(n=1).id
    other = send.options(tags=["eu", "eu", "night"]).enqueue(n=2).id
    assert found(database, "mail") == [plain]
    assert found(database, "eu", "night") == [other]
    assert found(database, "eu", "mail") == []
    face.run_worker(drain=True)
    assert sorted(seen) == [(1, ("mail",)), (2, ("eu", "night"))]
    assert face.job(other).tags == ("eu", "night")
    row = database.execute("SELECT tags FROM pgsync.job_history WHERE id = %s", [other])
    assert row.fetchone() == (["eu", "night"],)


def test_jobs_enqueued_by_hundreds_or_encrypted_are_found_by_their_tags(
    face: Any, database: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    monkeypatch.setenv("PGSYNC_ARGS_KEYS", key)
    seen: list[int] = []

    @face.task(tags=["bulk"], encrypt=True)
    def send(n: int) -> None:
        seen.append(n)

    ids = send.enqueue_many([{"n": n} for n in range(150)])
    assert found(database, "bulk") == sorted(ids)[-50:]
    monkeypatch.setenv("PGSYNC_ARGS_KEYS", f"{new_key()},{key}")
    face.reseal_jobs()
    assert found(database, "bulk") == sorted(ids)[-50:]
    face.run_worker(drain=True)
    assert sorted(seen) == list(range(150))


def test_a_job_is_unique_whatever_its_tags(face: Any) -> None:
    @face.task(unique=True)
    def send(n: int) -> None: ...

    first = send.options(tags=["a"]).enqueue(n=1)
    assert not send.options(tags=["b"]).enqueue(n=1).added
    assert not send.enqueue(n=1).added
    assert first.added


@pytest.mark.parametrize("tags", ["word", [""], ["x" * 101], [1], [f"{n}" for n in range(21)], 7])
def test_tags_that_cannot_be_are_refused_where_they_are_given(sync: Any, tags: Any) -> None:
    with pytest.raises(InvalidArgument, match="tag"):
        sync.task(name="t", tags=tags)(lambda: None)
