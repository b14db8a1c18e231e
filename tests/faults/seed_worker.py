"""One of two processes that start the same operation at once; told which by lines."""

from __future__ import annotations

import json
import sys
from typing import Any

from pgsync import Coordinator, OperationBlocked
from pgsync.modules.broadcasts import UNCAPPED
from pgsync.modules.platform import Platform

__all__ = ["answer"]


def answer(platform: Platform, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run an operation, and say what came of it."""
    operations = {
        "sync": platform.whatsapp.template_sync,
        "import": platform.contacts.contact_import,
        "export": platform.contacts.contact_export,
        "campaign": platform.broadcasts.campaign_sending,
    }
    try:
        return {"done": operations[name](**arguments)}
    except OperationBlocked as error:
        return {"blocked": str(error)}


def main(dsn: str, graph_url: str) -> None:
    """Answer until the harness closes the pipe."""
    with Coordinator(dsn) as sync:
        platform = Platform(sync, graph_url=graph_url, caps=UNCAPPED)
        for line in sys.stdin:
            said = answer(platform, *json.loads(line))
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
