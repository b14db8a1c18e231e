"""What a person consented to: as a file says it, and opt-ins and opt-outs one by one.

Each change is an event in ``pgsync_modules.contact_event``, which the database writes itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

__all__ = ["Consent", "ConsentChange", "read_consent", "record_consent"]

# In the languages of header_names.py, and as spreadsheets write true and false in them.
_YES = frozenset(
    (
        *("yes", "y", "true", "1", "x", "on", "opted in", "opted_in", "granted"),
        *("ja", "oui", "si", "sí", "sì", "sim", "wahr", "vrai", "verdadero", "vero", "waar"),
    )
)
_NO = frozenset(
    (
        *("no", "n", "false", "0", "off", "opted out", "opted_out", "denied", "withdrawn"),
        *("nein", "non", "não", "nao", "nee", "falsch", "faux", "falso", "onwaar"),
    )
)

_OPT_OUT = text("""
SELECT contact_id, status, opted_out_at AS at, changed
FROM pgsync_modules.opt_out(
    :workspace_id, :phone, :source, :evidence, coalesce(:at, clock_timestamp()))
""")
_OPT_IN = text("""
SELECT contact_id, status, opted_in_at AS at, changed
FROM pgsync_modules.opt_in(
    :workspace_id, :phone, :source, :evidence, coalesce(:at, clock_timestamp()))
""")


@dataclass(frozen=True, slots=True)
class Consent:
    """What a row of a file, or a person, says; ``at``, in UTC, and the rest where it says so."""

    opted_in: bool
    at: datetime | None = None
    source: str | None = None
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class ConsentChange:
    """What an opt-in or opt-out did; ``changed`` is False where it came too late to matter."""

    contact_id: int
    status: str
    at: datetime | None
    changed: bool


def read_consent(
    word: str | None, at: str | None, source: str | None, evidence: str | None
) -> Consent | None:
    """The consent that a row's cells tell of; None where the first is neither a yes nor a no."""
    said = word.casefold() if word else ""
    if said not in _YES and said not in _NO:
        return None
    return Consent(said in _YES, _moment(at), source, evidence)


def _moment(cell: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(cell) if cell else None
    except ValueError:
        return None
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def record_consent(session: Session, workspace_id: int, phone: str, said: Consent) -> ConsentChange:
    """Record what a person (a number in E.164) said, at its time or now.

    Raises:
        InvalidArgument: if the source or the evidence of an opt-in is blank.
    """
    given = {"workspace_id": workspace_id, "phone": phone, "at": said.at}
    given |= {"source": said.source, "evidence": said.evidence}
    return ConsentChange(*session.execute(_OPT_IN if said.opted_in else _OPT_OUT, given).one())
