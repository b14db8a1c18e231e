"""A chunk of a file: read, then brought to the contacts in one transaction.

Most rows of a first import are of numbers that are no contacts yet and say nothing of consent. They
are copied straight into the contacts; all others are staged and merged, a turn at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from psycopg.errors import UniqueViolation
from sqlalchemy import text
from sqlalchemy.orm import Session

from pgsync.modules.contacts.lines import Lines
from pgsync.modules.contacts.merging import OnDuplicate, lock_known, merge_turn, plan_lookups
from pgsync.modules.contacts.rows import ContactRow, Reject
from pgsync.modules.contacts.staging import Staging, driver_of, redirect

__all__ = ["Ahead", "Arrival", "Chunk"]

_PIECE = 250
_CHARACTERS = 16 << 20
_COPY = """
COPY pgsync_modules.contact
    (phone, name, email, company, notes, tags, custom, status, workspace_id, import_id)
FROM STDIN
"""
_COUNT_NEW = text("""
UPDATE pgsync_modules.contact_import SET imported = imported + :copied WHERE id = :import_id
""")


@dataclass(slots=True)
class Chunk:
    """Rows to be done in one transaction; ``through`` is the number of the last."""

    through: int = 0
    lines: Lines = field(default_factory=Lines)
    rejects: list[Reject] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.lines) + len(self.rejects)


class Ahead:
    """The next chunk, of ``size`` rows at most, while it is being read a piece at a time.

    It has fewer where their cells are long, so that they fit in memory.
    """

    def __init__(self, contacts: Iterator[ContactRow | Reject], size: int) -> None:
        self._contacts = contacts
        self._size = size
        self._chunk = Chunk()
        self._characters = 0

    def step(self) -> bool:
        """Read a piece; False if there is none, or the chunk has its size."""
        if self._characters >= _CHARACTERS:
            return False
        # Few rows at a time: Python would look through more of them for cycles, again and again.
        piece = list(islice(self._contacts, min(_PIECE, self._size - self._chunk.rows)))
        if piece:
            lines, before = self._chunk.lines, len(self._chunk.lines)
            lines.extend([row for row in piece if isinstance(row, ContactRow)])
            rejects = [row for row in piece if isinstance(row, Reject)]
            self._chunk.rejects += rejects
            self._chunk.through = piece[-1].row
            self._characters += sum(map(len, lines.cells[before:]))
            self._characters += sum(len(cell) for row in rejects for cell in row.raw.values())
        return bool(piece)

    def rest(self) -> Chunk | None:
        """Read what is left of it; None if the file has no more rows."""
        while self.step():
            pass
        return self._chunk if self._chunk.rows else None


class Arrival:
    """The contacts of one chunk on their way into the database, in the transaction of a session.

    Turn 0 are the first rows of numbers that are taken for new and tell of no consent, turn 1 those
    of the others, and the second rows, and so on. With ``lock_known`` it is asked, before, who is a
    contact already; without, :attr:`met_known` tells whether somebody was, which took longer.
    """

    def __init__(
        self,
        session: Session,
        import_id: int,
        workspace_id: int,
        lines: Lines,
        *,
        lock_known: bool = False,
    ) -> None:
        self.met_known = False
        self._session = session
        self._import_id = import_id
        self._workspace_id = workspace_id
        self._lines = lines
        redirect(session, workspace_id, lines)
        self._turns = self._take_turns(lock_known)
        self._first = 0

    def copy_new(self, meanwhile: Callable[[], object]) -> None:
        """Copy those of turn 0 into the contacts, and do something for each piece that is sent.

        If somebody is a contact already, they are left to be merged.
        """
        lines = zip(self._lines.cells, self._turns, strict=True)
        # By number, as all that write many contacts, so that none of two waits for the other.
        new = sorted(line for line, turn in lines if not turn)
        if not new:
            self._first = 1
            return
        constants = f"\t{self._workspace_id}\t{self._import_id}\n"
        try:
            # The session sets its savepoint where it is asked for its connection.
            with self._session.begin_nested(), driver_of(self._session).cursor() as cursor:
                with cursor.copy(_COPY) as copy:
                    for start in range(0, len(new), _PIECE):
                        copy.write(constants.join([*new[start : start + _PIECE], ""]))
                        meanwhile()
                copied = cursor.rowcount
        except UniqueViolation:
            self.met_known = True
        else:
            self._first = 1
            given = {"copied": copied, "import_id": self._import_id}
            self._session.execute(_COUNT_NEW, given)

    def merge_others(self, file_name: str, on_duplicate: OnDuplicate) -> None:
        """Stage and merge what was not copied, a turn at a time."""
        turns = [(index, turn) for index, turn in enumerate(self._turns) if turn >= self._first]
        if not turns:
            return
        staging = Staging(self._session)
        staging.add(self._lines, turns)
        last = max(self._turns)
        if last > self._first:
            staging.index()
        plan_lookups(self._session)
        for turn in range(self._first, last + 1):
            merge_turn(
                self._session, self._import_id, self._workspace_id, file_name, on_duplicate, turn
            )

    def _take_turns(self, lock: bool) -> list[int]:
        phones = self._lines.phones
        coming: dict[str, int] = {}
        if lock:
            plan_lookups(self._session)
            coming = dict.fromkeys(lock_known(self._session, self._workspace_id, phones), 1)
        turns = []
        for index, phone in enumerate(phones):
            turn = coming.get(phone) or int(index in self._lines.telling)
            turns.append(turn)
            coming[phone] = turn + 1
        return turns
