"""Encrypted arguments: only workers with a key read them, and keys can be changed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsync import Coordinator, InvalidArgument, Unique, current_job
from pgsync.queues.sealing import SealedArguments, is_sealed, new_key, open_args, seal_text

_SECRET = "4111-secret-1111"

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the keys of this process."""

    def put(*given: str) -> None:
        monkeypatch.setenv("PGSYNC_ARGS_KEYS", ", ".join(given))

    put(new_key())
    return put


@given(st.dictionaries(st.text(), _JSON))
def test_what_was_sealed_opens_to_the_same(args: dict[str, Any]) -> None:
    import json

    sealed = json.loads(seal_text(json.dumps(args)))
    assert is_sealed(sealed)
    assert open_args(sealed) == args
    assert is_sealed(args) or open_args(args) is args


def _everything(database: Any) -> str:
    """All rows of all tables, as text."""
    tables = database.execute(
        "SELECT c.oid::regclass::text FROM pg_class AS c"
        " WHERE c.relnamespace = 'pgsync'::regnamespace AND c.relkind = 'r'"
    ).fetchall()
    rows: list[Any] = []
    for (table,) in tables:
        rows += database.execute(f"SELECT t::text FROM {table} AS t").fetchall()
    return repr(rows)


def test_only_the_handler_reads_them(
    face: Any, database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    @face.task(name="pay", encrypt=True, backoff=0, max_attempts=2)
    def pay(card: str) -> None:
        seen.append(card)
        if current_job().attempt == 1:
            raise RuntimeError("once more")

    with caplog.at_level(logging.DEBUG):
        pay.enqueue(card=_SECRET)
        pay.enqueue_many([{"card": _SECRET}])
        pay.options(key="k").enqueue(card=_SECRET)
        before = _everything(database)
        report = face.run_worker(drain=True)
    assert (report.completed, report.retryable) == (3, 3)
    assert seen == [_SECRET] * 6
    assert "pgsync:sealed" in before
    assert _SECRET not in before + _everything(database) + caplog.text


def test_without_its_key_a_job_fails_clearly_and_waits_for_one(
    sync: Coordinator, keys: Any, database: Any
) -> None:
    old, other = new_key(), new_key()
    keys(old)
    seen: list[str] = []
    pay = sync.task(name="pay", encrypt=True, backoff=0.1)(lambda card: seen.append(card))
    job = pay.enqueue(card=_SECRET)
    keys(other)
    while sync.run_worker(drain=True).retryable == 0:
        pass
    state = sync.job(job.id)
    assert state is not None
    assert state.state == "retryable"
    assert "no key of PGSYNC_ARGS_KEYS opens the arguments" in state.errors[0]["error"]
    assert old not in repr(state)
    keys(other, old)
    sync.retry_job(job.id)
    assert sync.run_worker(drain=True).completed == 1
    assert seen == [_SECRET]


def test_waiting_jobs_are_resealed_for_a_new_key(face: Any, keys: Any, database: Any) -> None:
    old, new = new_key(), new_key()
    keys(old)
    seen: list[int] = []
    pay = face.task(name="pay", encrypt=True, key="k", max_running_per_key=1)(
        lambda n: seen.append(n)
    )
    plain = face.task(name="plain")(lambda n: seen.append(n))
    pay.enqueue_many({"n": n} for n in range(3))
    pay.options(delay=3600).enqueue(n=3)
    plain.enqueue(n=4)
    keys(new)
    with pytest.raises(SealedArguments):
        face.reseal_jobs()
    keys(new, old)
    assert face.reseal_jobs() == 4
    keys(new)
    database.execute("UPDATE pgsync.job_scheduled SET run_at = now()")
    assert face.run_worker(drain=True, concurrency=1).completed == 5
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_what_cannot_be_sealed_is_refused(sync: Coordinator, keys: Any) -> None:
    with pytest.raises(InvalidArgument, match="cannot be compared"):
        sync.task(name="a", encrypt=True, unique=True)(lambda n: None)
    pay: Any = sync.task(name="pay", encrypt=True)(lambda n: None)
    with pytest.raises(InvalidArgument, match="cannot be compared"):
        pay.options(unique=Unique()).enqueue(n=1)
    keys("too short")
    with pytest.raises(InvalidArgument, match="new-key") as refused:
        pay.enqueue(n=1)
    assert "too short" not in str(refused.value)
    keys()
    with pytest.raises(InvalidArgument, match="set PGSYNC_ARGS_KEYS"):
        pay.enqueue(n=1)
