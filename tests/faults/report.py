"""What a run of a fault harness showed, and the folder that keeps its records."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Report", "run_folder", "text_of"]


@dataclass
class Report:
    """What a run showed; ``folder`` keeps its records where there are violations."""

    violations: list[str] = field(default_factory=list)
    figures: dict[str, object] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    folder: Path | None = None


@contextmanager
def run_folder(report: Report) -> Iterator[Path]:
    """A folder for a run, in memory where there is room; kept where it found violations.

    What is below ``server`` is dropped in any case.
    """
    folder = Path(tempfile.mkdtemp(prefix="pgsync-faults-", dir=_memory()))
    yield folder
    shutil.rmtree(folder / "server", ignore_errors=True)
    if report.violations:
        report.folder = folder
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK):
        return memory if shutil.disk_usage(memory).free > 4 << 30 else None
    return None


def text_of(report: Report) -> str:
    """The figures, faults and violations of a run, a line each."""
    lines = [f"{name:44}{value}" for name, value in report.figures.items()]
    lines += [f"fault: {kind:37}{times}" for kind, times in sorted(report.faults.items())]
    lines += [f"VIOLATION {violation}" for violation in report.violations]
    lines += [f"{'violations':44}{len(report.violations)}"]
    if report.folder is not None:
        lines += [f"the histories, the faults and the ledger are in {report.folder}"]
    return "\n".join(lines)
