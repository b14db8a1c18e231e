"""The worker processes of the fault harness, and what is done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

__all__ = ["Crew", "Freeze"]

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Freeze:
    """A worker did not run between two moments of the machine's monotonic clock."""

    worker: str
    began: float
    ended: float


class Crew:
    """``count`` places, each with a living process; a killed one is replaced at once.

    A process runs ``module`` with its orders: a dataclass with name, history, seed and gate.
    """

    def __init__(self, module: str, orders: Any, folder: Path, count: int) -> None:
        self._module = module
        self._orders = orders
        self.folder = folder
        self.count = count
        self.freezes: list[Freeze] = []
        self.died: list[str] = []
        self._lives = [0] * count
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._frozen: dict[int, float] = {}

    def start(self, place: int, gate: Path | None = None) -> None:
        """Start a new process at the place."""
        self._lives[place] += 1
        name = self._name(place)
        orders = replace(
            self._orders,
            name=name,
            history=str(self.folder / f"{name}.history"),
            seed=f"{self._orders.seed}.{name}",
            gate=str(gate) if gate else None,
        )
        with (self.folder / f"{name}.stderr").open("wb") as errors:
            self._processes[place] = subprocess.Popen(
                [sys.executable, "-m", self._module, orders.text()],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                cwd=_REPOSITORY,
            )

    def history(self, place: int) -> Path:
        """The history file of the process that is at the place now."""
        return self.folder / f"{self._name(place)}.history"

    def place_of(self, owner: str | None) -> int | None:
        """The place of the living worker that a lock's owner names; None where it has gone."""
        if owner is None:
            return None
        name = owner.rpartition(".")[0]
        place = int(name.partition(".")[0])
        return place if self._name(place) == name else None

    def kill(self, place: int) -> None:
        """Kill the process with SIGKILL, frozen or not, and start another."""
        self._note_deaths()
        self._processes[place].kill()
        self._processes.pop(place).wait()
        self._end_freeze(place)
        self.start(place)

    def freeze(self, place: int) -> bool:
        """Stop the process with SIGSTOP; False where it is stopped already."""
        if place in self._frozen:
            return False
        self._frozen[place] = time.monotonic()
        self._processes[place].send_signal(signal.SIGSTOP)
        return True

    def wake(self, place: int) -> None:
        """Let a frozen process go on."""
        if place in self._frozen:
            self._processes[place].send_signal(signal.SIGCONT)
            self._end_freeze(place)

    def stop(self, within: float) -> None:
        """Wake all, tell them to stop, and note whoever does not end in order in that time."""
        self._note_deaths()
        for place in list(self._frozen):
            self.wake(place)
        for process in self._processes.values():
            process.terminate()
        until = time.monotonic() + within
        for place, process in self._processes.items():
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGABRT)
                process.wait()
                hung = self._said(place)
                self.died.append(f"{self._name(place)} did not stop within {within:g} s:\n{hung}")
            else:
                self._note_end(place, process)
        self._processes.clear()

    def _note_deaths(self) -> None:
        for place, process in list(self._processes.items()):
            if process.poll() is not None:
                self._note_end(place, process)
                self._end_freeze(place)
                self.start(place)

    def _note_end(self, place: int, process: subprocess.Popen[bytes]) -> None:
        # SIGTERM ends one that has not come to its own handler yet.
        if process.returncode not in (0, -signal.SIGTERM):
            said = self._said(place)
            self.died.append(f"{self._name(place)} ended with {process.returncode}:\n{said}")

    def _said(self, place: int) -> str:
        return (self.folder / f"{self._name(place)}.stderr").read_text(errors="replace")[-4000:]

    def _name(self, place: int) -> str:
        return f"{place}.{self._lives[place]}"

    def _end_freeze(self, place: int) -> None:
        began = self._frozen.pop(place, None)
        if began is not None:
            self.freezes.append(Freeze(self._name(place), began, time.monotonic()))
