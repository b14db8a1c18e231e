"""Runs a module as a program whose clock is wrong by so many seconds: the first two arguments.

The time of day is wrong, as Python tells it, and not what is measured by monotonic clocks, as it
is where a machine's clock was never set.
"""

from __future__ import annotations

import runpy
import sys
from datetime import UTC, datetime, timedelta

import time_machine

if __name__ == "__main__":
    _, seconds, module, *arguments = sys.argv
    sys.argv[1:] = arguments
    now = datetime.now(UTC) + timedelta(seconds=float(seconds))
    time_machine.travel(now, tick=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
