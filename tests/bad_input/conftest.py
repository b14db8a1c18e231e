"""The fixtures of contacts, for files that are none."""

from __future__ import annotations

from tests.modules.contacts.conftest import contacts, sessions, workspace

__all__ = ["contacts", "sessions", "workspace"]
