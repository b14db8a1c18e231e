"""The worker processes of the fault harness, and what is done to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.process import Orders

__all__ = ["Crew", "Crews", "Freeze"]

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Freeze:
    """A worker did not run between two moments of the machine's monotonic clock."""

    worker: str
    began: float
    ended: float


class Crew:
    """``count`` places, each with a living process; a killed one is replaced at once.

    A process runs ``module`` with its orders.
    """

    def __init__(self, module: str, orders: Orders, folder: Path, count: int) -> None:
        self._module = module
        self._orders = orders
        self.folder = folder
        self.count = count
        self.freezes: list[Freeze] = []
        self.died: list[str] = []
        self._lives = [0] * count
        self._clocks = [0.0] * count
        self._stopping = False
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
                [sys.executable, "-m", *self._program(place), orders.text()],
                stdin=subprocess.DEVNULL,
                stderr=errors,
                cwd=_REPOSITORY,
            )

    def _program(self, place: int) -> list[str]:
        if not self._clocks[place]:
            return [self._module]
        return ["tests.faults.wrong_clock", str(self._clocks[place]), self._module]

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

    def kill(self, place: int, clock: float | None = None) -> None:
        """Kill the process with SIGKILL, frozen or not, and start another.

        ``clock`` is by how many seconds that one's clock is wrong, and those after it.
        """
        self._note_deaths()
        if clock is not None:
            self._clocks[place] = clock
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

    def tell_to_stop(self) -> None:
        """Wake all, and tell them to stop."""
        if self._stopping:
            return
        self._note_deaths()
        self._stopping = True
        for place in list(self._frozen):
            self.wake(place)
        for process in self._processes.values():
            process.terminate()

    def stop(self, within: float) -> None:
        """Tell all to stop, and note whoever does not end in order in that time."""
        self.tell_to_stop()
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


class Crews:
    """Several crews, by name, whose places are counted one behind the other."""

    def __init__(self, folder: Path, crews: Mapping[str, Crew]) -> None:
        self.folder = folder
        self._crews = crews
        self._places = [(crew, place) for crew in crews.values() for place in range(crew.count)]
        self.count = len(self._places)

    def start_all(self) -> None:
        """Start a process at each place."""
        for crew, place in self._places:
            crew.start(place)

    def kill(self, place: int, clock: float | None = None) -> None:
        """As :meth:`Crew.kill`."""
        crew, its = self._places[place]
        crew.kill(its, clock)

    def freeze(self, place: int) -> bool:
        """As :meth:`Crew.freeze`."""
        crew, its = self._places[place]
        return crew.freeze(its)

    def wake(self, place: int) -> None:
        """As :meth:`Crew.wake`."""
        crew, its = self._places[place]
        crew.wake(its)

    def stop(self, within: float) -> list[str]:
        """Stop all at once, as :meth:`Crew.stop`; who died, or did not end in order."""
        for crew in self._crews.values():
            crew.tell_to_stop()
        for crew in self._crews.values():
            crew.stop(within)
        return [f"of the {name} {died}" for name, crew in self._crews.items() for died in crew.died]
