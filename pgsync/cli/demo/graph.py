"""The stand-in for the Graph API as a process of its own, as the real one would be elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import requests

from pgsync.errors import PgsyncError

__all__ = ["GraphProcess"]

_TIMEOUT = 10.0


class GraphProcess:
    """Runs the stand-in for as long as the ``with`` lasts."""

    def __init__(self, *, token: str, templates: int) -> None:
        self.token = token
        self._templates = templates
        self.url = self.waba_id = self.phone_number_id = ""

    def __enter__(self) -> GraphProcess:
        arguments = ["--templates", str(self._templates), "--token", self.token, "--until-eof"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pgsync.modules.whatsapp.standin", *arguments],
            # However the demo ends, the pipe ends with it, and then the stand-in does.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C is for the demo, which ends this process itself.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        first_line = self._process.stdout.readline()
        if not first_line:
            raise PgsyncError("the stand-in for the Graph API did not start; see its words above")
        facts = json.loads(first_line)
        self.url = facts["url"]
        self.waba_id = facts["waba_id"]
        self.phone_number_id = facts["phone_number_id"]
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def add(self, kind: str, values: dict[str, Any]) -> None:
        """Give the stand-in something more: a fault (``faults``) or a template (``templates``)."""
        answer = requests.post(f"{self.url}/_standin/{kind}", json=values, timeout=_TIMEOUT)
        answer.raise_for_status()

    def counts(self) -> dict[str, Any]:
        """What its own log says it received and accepted."""
        answer = requests.get(f"{self.url}/_standin/state", timeout=_TIMEOUT)
        answer.raise_for_status()
        counts: dict[str, Any] = answer.json()
        return counts
