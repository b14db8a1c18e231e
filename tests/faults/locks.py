"""Locks under faults: ``python -m tests.faults.locks --minutes 10 --seed S``.

Processes raise a counter under a lock, with its guard, while holders are killed, frozen past their
ttl and woken, sessions are ended, and the server is shut down. A checker reads the ledger then.
``--unguarded`` leaves the guard out, and shows what goes wrong without it. A seed gives a
replayable fault order; what PostgreSQL and the workers do in between is theirs.
"""

from __future__ import annotations

import argparse
import random
import sys

from tests.faults.lock_run import Report, Settings, run

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Run and print the figures; 1 where an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.locks", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long the storm lasts")
    parser.add_argument("--seed", help="the order of faults; a random one by default")
    parser.add_argument("--workers", type=int, default=4, help="processes")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--ttl", type=float, default=0.5, help="of the lock, in seconds")
    parser.add_argument("--wait", type=float, default=3.0, help="for the lock, in seconds")
    parser.add_argument("--unguarded", action="store_true", help="leave the guard out")
    given = parser.parse_args(arguments)
    settings = Settings(
        seconds=given.minutes * 60,
        seed=given.seed or f"{random.SystemRandom().getrandbits(32):08x}",
        guarded=not given.unguarded,
        workers=given.workers,
        threads=given.threads,
        ttl=given.ttl,
        wait=given.wait,
    )
    print(f"seed {settings.seed}", flush=True)
    report = run(settings)
    print(_text(report))
    return 1 if report.violations else 0


def _text(report: Report) -> str:
    lines = [f"{name:36}{value}" for name, value in report.figures.items()]
    lines += [f"fault: {kind:29}{times}" for kind, times in sorted(report.faults.items())]
    lines += [f"VIOLATION {violation}" for violation in report.violations]
    lines += [f"{'violations':36}{len(report.violations)}"]
    if report.folder is not None:
        lines += [f"histories, faults and ledger are in {report.folder}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
