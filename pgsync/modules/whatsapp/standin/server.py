"""The stand-in as a thing to start, steer and read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route

from pgsync.modules.whatsapp.standin.catalogue import Catalogue
from pgsync.modules.whatsapp.standin.control import control_routes
from pgsync.modules.whatsapp.standin.faults import Fault
from pgsync.modules.whatsapp.standin.graph_routes import GraphRoutes
from pgsync.modules.whatsapp.standin.ledger import Ledger, before_last_colon
from pgsync.modules.whatsapp.standin.throttles import Throttle
from pgsync.modules.whatsapp.standin.webhooks import Plan, Webhooks
from pgsync.modules.whatsapp.standin.wire import WireProtocol
from pgsync.modules.whatsapp.standin.world import Account, World

__all__ = ["GraphStandin"]

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class GraphStandin:
    """A server on a real socket that behaves as Meta's Graph API is documented to.

    Use it as a context manager, or with :meth:`start` and :meth:`stop`; it runs in a thread of
    its own. It starts with one account, ``waba_id``, which has one phone number,
    ``phone_number_id``, and ``templates`` made-up templates, and which ``token`` may use.
    ``latency`` (seconds) is added to every answer. ``campaign_of`` finds the campaign in the
    callback data of a message; see ``log.duplicate_sends``. ``port`` 0 takes a free one.
    """

    def __init__(
        self,
        *,
        token: str = "standin-token",  # noqa: S107 - made up, and valid nowhere else
        templates: int = 25,
        waba_id: str = "100000000000001",
        phone_number_id: str = "200000000000001",
        host: str = "127.0.0.1",
        port: int = 0,
        app_secret: str = "standin-secret",  # noqa: S107 - as above
        latency: float = 0.0,
        campaign_of: Callable[[str], str] = before_last_colon,
    ) -> None:
        self.token = token
        self.waba_id = waba_id
        self.phone_number_id = phone_number_id
        self.app_secret = app_secret
        self.log = Ledger(campaign_of)
        self.webhooks = Webhooks(app_secret)
        self._world = World(self.log, self.webhooks, latency)
        account = self._world.add_account(waba_id, [phone_number_id], templates, token)
        self.templates: Catalogue = account.templates
        self._address = (host, port)
        self._thread: threading.Thread | None = None
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._routes: GraphRoutes | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL, without a version and without a slash at the end."""
        return f"http://{self._address[0]}:{self._address[1]}"

    def start(self) -> None:
        """Bind the port and serve; returns when requests are answered.

        Raises:
            OSError: if the port cannot be bound.
            RuntimeError: if the server does not come up within ten seconds.
        """
        family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
        # asyncio turns Nagle's algorithm off only where the protocol is named: 40 ms an answer.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(self._address)
            listening.listen(1024)
        except OSError:
            listening.close()
            raise
        self._address = (self._address[0], listening.getsockname()[1])
        ready = threading.Event()
        self._server = uvicorn.Server(self._config(ready))
        self._thread = threading.Thread(
            target=self._server.run, args=([listening],), name="graph-standin", daemon=True
        )
        self._thread.start()
        if not ready.wait(timeout=10):
            raise RuntimeError("the stand-in did not start")

    def stop(self) -> None:
        """Answer what is under way, close the port and drop webhooks that are still to go."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        if self._loop is not None and self._routes is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._routes.stopping.set)
        self._thread.join(timeout=15)
        self._thread = self._server = None
        self.webhooks.stop()

    def _config(self, ready: threading.Event) -> uvicorn.Config:
        routes = GraphRoutes(self._world)
        self._routes = routes

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            self._loop = asyncio.get_running_loop()
            ready.set()
            yield

        app = Starlette(
            routes=[
                *control_routes(self._world),
                Route("/{path:path}", routes.__call__, methods=_METHODS),
            ],
            lifespan=lifespan,
        )
        return uvicorn.Config(
            app,
            http=WireProtocol,
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=2,
        )

    def add_account(
        self,
        waba_id: str,
        phone_number_ids: Iterable[str],
        *,
        templates: int = 25,
        token: str | None = None,
    ) -> Account:
        """Add an account for another tenant; without ``token`` the stand-in's own may use it."""
        return self._world.add_account(waba_id, phone_number_ids, templates, token or self.token)

    def expire_token(self, token: str | None = None) -> None:
        """Let a token (by default the stand-in's own) be refused as expired."""
        self._world.expire(token or self.token)

    def restore_token(self, token: str | None = None) -> None:
        """Let an expired token work again."""
        self._world.restore(token or self.token)

    def inject(self, kind: str, **details: Any) -> None:
        """Let something go wrong with the next requests; see :class:`Fault`.

        ``graph.inject("error", code=131000, times=2)``,
        ``graph.inject("reset", accept=True, to="+4915112345678")``.
        """
        self._world.faults.add(Fault(kind, **details))

    def clear_faults(self) -> None:
        """Forget the faults that have not happened yet."""
        self._world.faults.clear()

    def throttle(self, limit: int, per: float, **details: Any) -> None:
        """Allow ``limit`` requests in ``per`` seconds; see :class:`Throttle`."""
        self._world.throttles.add(Throttle(limit, per, **details))

    def clear_throttles(self) -> None:
        """Lift all rate limits."""
        self._world.throttles.clear()

    def send_webhooks(self, url: str, **plan: Any) -> None:
        """Post status webhooks of every message accepted from now on; see :class:`Plan`."""
        self.webhooks.plan = Plan(**plan)
        self.webhooks.url = url

    def post_status(self, message_id: str, status: str, code: int | None = None) -> int:
        """Post one status of an accepted message now; return the receiver's HTTP status.

        ``code`` is the error of status ``failed``. Raises KeyError for an unknown message.
        """
        return self.webhooks.post(self._world.status_webhook(message_id, status, code))

    def post_template_status(self, template_id: str, event: str, reason: str = "NONE") -> int:
        """Post ``message_template_status_update``; return the receiver's HTTP status.

        The catalogue does not change with it. Raises KeyError for an unknown template.
        """
        value = {"event": event, "reason": reason}
        return self.post_template_event(template_id, "message_template_status_update", value)

    def post_template_event(self, template_id: str, field: str, value: dict[str, Any]) -> int:
        """Post any webhook about a template, such as ``message_template_quality_update``."""
        return self.webhooks.post(self._world.template_webhook(template_id, field, value))
