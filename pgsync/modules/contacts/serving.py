"""Downloads over HTTP: an ASGI app that an app mounts behind its own sign-in."""

from __future__ import annotations

import re
from collections.abc import Callable

from sqlalchemy import select
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from pgsync.modules.contacts.contacts import Contacts
from pgsync.modules.contacts.models import ContactImport
from pgsync.modules.contacts.sheets import csv_pieces

__all__ = ["contacts_app"]

# None is as long, and more digits would be no number of the database's.
_NUMBER = re.compile("[0-9]{1,18}")


def contacts_app(contacts: Contacts, *, allowed: Callable[[Request, int], bool]) -> Starlette:
    """An ASGI app with ``GET /imports/{id}/rejects.csv``, streamed in constant memory.

    ``allowed`` is given the request and the import's workspace, in a thread, and says whether the
    one who asks may see it; who may not is told the same as of an import that is not there.
    """

    def find(request: Request) -> int | None:
        number: str = request.path_params["import_id"]
        if _NUMBER.fullmatch(number) is None:
            return None
        import_id = int(number)
        with contacts.sessions() as session:
            workspace = session.scalar(
                select(ContactImport.workspace_id).where(ContactImport.id == import_id)
            )
        return import_id if workspace is not None and allowed(request, workspace) else None

    async def rejects(request: Request) -> Response:
        import_id = await run_in_threadpool(find, request)
        if import_id is None:
            return PlainTextResponse("no such import", status_code=404)
        pieces = await run_in_threadpool(lambda: csv_pieces(contacts.rejects(import_id)))
        return StreamingResponse(
            pieces,
            media_type="text/csv; charset=utf-8",
            headers={
                "content-disposition": f'attachment; filename="rejects-{import_id}.csv"',
                "cache-control": "no-store",
                "x-content-type-options": "nosniff",
            },
        )

    return Starlette(routes=[Route("/imports/{import_id}/rejects.csv", rejects)])
