"""A process that imports a file, and dies in the middle where it is told to."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from itertools import count

from pgsync import Coordinator, OperationBlocked
from pgsync.modules.contacts import Contacts
from pgsync.modules.contacts.chunks import Arrival
from pgsync.modules.contacts.merging import OnDuplicate
from pgsync.modules.database import sessions_for

__all__ = ["main"]


def main(dsn: str, workspace: int, path: str, batch: int, kill_in: int) -> None:
    """Print what came of it, the seconds, and the most memory that was used, as JSON.

    Killed by SIGKILL in the transaction of chunk ``kill_in``, before its commit; 0 is never.
    """
    if kill_in:
        merge, chunks = Arrival.merge_others, count(1)

        def merge_then_die(arrival: Arrival, file_name: str, on_duplicate: OnDuplicate) -> None:
            merge(arrival, file_name, on_duplicate)
            if next(chunks) == kill_in:
                os.kill(os.getpid(), signal.SIGKILL)

        Arrival.merge_others = merge_then_die  # type: ignore[method-assign]
    sessions = sessions_for(dsn)
    with Coordinator(dsn) as sync:
        contacts = Contacts(sync, sessions, batch=batch)
        began = time.monotonic()
        while True:
            try:
                result = contacts.contact_import(workspace_id=workspace, path=path)
                break
            except OperationBlocked:
                time.sleep(0.1)  # The server takes a moment to see that a process died.
        seconds = time.monotonic() - began
    sessions.kw["bind"].dispose()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"result": result, "seconds": seconds, "peak_mb": peak}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
