"""Processes that stay for a comparison and work in turns, all of them at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

__all__ = ["Member", "crew"]

_PATIENCE = 240.0

# Opens what a process of that number needs; what it yields carries out an order and answers.
Member: TypeAlias = Callable[[int], AbstractContextManager[Callable[[Any], Any]]]


@contextmanager
def crew(count: int, member: Member) -> Iterator[Callable[[Any], list[Any]]]:
    """So many processes for the ``with``; the function gives them an order and gathers the answers.

    They begin each turn together. ``member`` and orders must be what pickle can send; None is no
    order.

    Raises:
        RuntimeError: if a process ends, or gives no answer in four minutes.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    pipes, processes = [], []
    try:
        for number in range(1, count + 1):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(member, number, barrier, theirs), daemon=True
            )
            process.start()
            theirs.close()  # so that a process which dies closes its end for good
            pipes.append(ours)
            processes.append(process)

        def turn(order: Any) -> list[Any]:
            for pipe in pipes:
                pipe.send(order)
            return [_answer(pipe) for pipe in pipes]

        yield turn
        for pipe in pipes:
            pipe.send(None)
        for process in processes:
            process.join(_PATIENCE)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(_PATIENCE):
        raise RuntimeError(f"a process of the crew gave no answer in {_PATIENCE:g} s")
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError("a process of the crew ended; its error is above") from None


def _serve(member: Member, number: int, barrier: Any, pipe: Connection) -> None:
    with member(number) as work:
        while (order := pipe.recv()) is not None:
            barrier.wait(_PATIENCE)
            pipe.send(work(order))
