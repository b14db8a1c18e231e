"""Forking: what holds connections is made anew in the child, which never uses its parent's.

A server session that two processes speak to is broken for both. Web servers that load the app
before they fork, and pools of worker processes, do just that.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

__all__ = ["leave_connection", "leave_to_parent", "renew_after_fork"]

T = TypeVar("T")

_renewals: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def renew_after_fork(holder: T, renew: Callable[[T], None]) -> None:
    """Let a forked child call ``renew(holder)`` before any other code of its own runs.

    It must take new locks too: old ones may have been held by threads that the child has not.
    """
    _renewals[holder] = renew


def leave_to_parent(inherited: object) -> None:
    """Never finalise in this child what belongs to its parent, not even at the child's end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def leave_connection(inherited: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """Let go of a parent's connection without a word to the server; here it is broken from now on.

    A child that kept the socket would keep the session alive, with its locks, after its parent's
    death.
    """
    leave_to_parent(inherited)
    try:
        descriptor = inherited.pgconn.socket
    except psycopg.OperationalError:
        return  # The parent had closed it.
    # Not closed but replaced: the number stays taken, so that nobody else's file gets it.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _renew_all() -> None:
    for holder, renew in list(_renewals.items()):
        renew(holder)


os.register_at_fork(after_in_child=_renew_all)
