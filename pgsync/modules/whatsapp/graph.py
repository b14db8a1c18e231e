"""A client of Meta's Graph API: templates page by page, and template messages sent once."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import requests
import urllib3.exceptions

from pgsync.errors import InvalidArgument
from pgsync.modules.whatsapp.answers import Answer, answer_to, default_wait
from pgsync.modules.whatsapp.bodies import (
    Sent,
    TemplatePage,
    flaw,
    next_cursor,
    parse,
    read_body,
    sent,
    templates,
)
from pgsync.modules.whatsapp.errors import (
    GraphError,
    GraphInterrupted,
    GraphPagingError,
    GraphUnreachable,
    error_from_answer,
    integer,
)
from pgsync.modules.whatsapp.transport import BearerToken, GraphAdapter, certainly_unsent
from pgsync.modules.whatsapp.usage import asked_wait

__all__ = ["TEMPLATE_FIELDS", "GraphClient", "Sent", "TemplatePage"]

TEMPLATE_FIELDS = (
    "id",
    "name",
    "language",
    "status",
    "category",
    "components",
    "quality_score",
    "rejected_reason",
    "parameter_format",
)

logger = logging.getLogger("pgsync.modules.whatsapp")

_DEFAULT_URL = "https://graph.facebook.com"
_DEFAULT_VERSION = "v23.0"
_MOST_PAGES = 10_000
_LONGEST_CALLBACK_DATA = 512


class GraphClient:
    """Calls the Graph API with one token; may be shared between threads.

    ``base_url`` and ``version`` default to the environment's ``PGSYNC_GRAPH_URL`` and
    ``PGSYNC_GRAPH_VERSION``, then to Meta's own. ``timeout`` is (connect, read) in seconds; an
    answer's body must also be complete within the read timeout. ``before_call`` is run before
    every HTTP request, retries included, and may raise to prevent it. ``on_throttle`` is called
    with seconds, and the error's code (None: a header alone), when an answer asks others to wait
    too; its errors are only logged, so that the answer is not lost. ``retries`` and ``backoff``
    (seconds) are for reading calls; a send is never repeated. In a ``session`` of the caller's own
    the adapter for ``base_url`` is replaced, so give each client one of its own.
    """

    def __init__(
        self,
        *,
        token: str,
        base_url: str | None = None,
        version: str | None = None,
        timeout: tuple[float, float] = (5.0, 30.0),
        session: requests.Session | None = None,
        before_call: Callable[[], None] | None = None,
        on_throttle: Callable[[float, int | None], None] | None = None,
        retries: int = 3,
        backoff: float = 0.5,
        connections: int = 32,
    ) -> None:
        url = base_url or os.environ.get("PGSYNC_GRAPH_URL") or _DEFAULT_URL
        self.base_url = _checked(url.rstrip("/"), _URL, "base_url")
        chosen = version or os.environ.get("PGSYNC_GRAPH_VERSION") or _DEFAULT_VERSION
        self.version = _checked(chosen, _VERSION, "version")
        # The message never shows the value, since it is a secret even when it is malformed.
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise InvalidArgument("token must be printable ASCII without spaces")
        self._token = token
        self._timeout = timeout
        self._before_call = before_call
        self._on_throttle = on_throttle
        self._owns_session = session is None
        self._session = session if session is not None else requests.Session()
        self._session.mount(
            self.base_url + "/",
            GraphAdapter(
                retries=retries,
                backoff=backoff,
                connections=connections,
                before_retry=before_call,
            ),
        )

    def __repr__(self) -> str:
        return f"GraphClient(base_url={self.base_url!r}, version={self.version!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the kept connections, unless the session is the caller's own."""
        if self._owns_session:
            self._session.close()

    def template_pages(
        self,
        waba_id: str,
        *,
        fields: Sequence[str] = TEMPLATE_FIELDS,
        page_size: int = 100,
    ) -> Iterator[TemplatePage]:
        """Yield the pages of an account's message templates until the listing is complete.

        The end is the page without ``paging.next``; a short or empty page may have one. Only the
        cursor is taken from that link, which holds the token and may name any host. A listing that
        ends without an exception is complete.

        Raises:
            GraphError: if a page cannot be read; GraphPagingError if the cursors lead nowhere.
        """
        if page_size < 1:
            raise InvalidArgument(f"page_size must be 1 or more, not {page_size}")
        path = f"{_node(waba_id, 'waba_id')}/message_templates"
        parameters = {"fields": ",".join(fields), "limit": str(page_size)}
        seen: set[str] = set()
        for number in range(1, _MOST_PAGES + 1):
            body = self._call("GET", path, parameters=parameters)
            following = next_cursor(body)
            yield TemplatePage(number, templates(body), last=following is None)
            if following is None:
                return
            if following in seen:
                raise GraphPagingError(f"page {number} of the templates repeats an earlier cursor")
            seen.add(following)
            parameters["after"] = following
        raise GraphPagingError(f"the templates did not end within {_MOST_PAGES} pages")

    def send_template(
        self,
        phone_number_id: str,
        *,
        to: str,
        template: str,
        language: str,
        components: Sequence[Mapping[str, Any]] = (),
        callback_data: str | None = None,
    ) -> Sent:
        """Send one template message, exactly once, and return what the API said.

        ``callback_data`` (512 characters at most) comes back in the status webhooks.

        Raises:
            GraphError: with ``ambiguous`` True where the message may have been accepted.
        """
        if callback_data is not None and len(callback_data) > _LONGEST_CALLBACK_DATA:
            raise InvalidArgument(
                f"callback_data may have {_LONGEST_CALLBACK_DATA} characters, "
                f"not {len(callback_data)}"
            )
        content: dict[str, Any] = {"name": template, "language": {"code": language}}
        if components:
            content["components"] = [dict(component) for component in components]
        payload: dict[str, Any] = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": to,
            "type": "template",
            "template": content,
        }
        if callback_data is not None:
            payload["biz_opaque_callback_data"] = callback_data
        path = f"{_node(phone_number_id, 'phone_number_id')}/messages"
        return sent(self._call("POST", path, payload=payload))

    def _call(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        content = _encode(payload) if payload is not None else None
        if self._before_call is not None:
            self._before_call()
        failure: GraphError
        try:
            response = self._session.request(
                method,
                f"{self.base_url}/{self.version}/{path}",
                params=parameters,
                data=content,
                headers=_JSON if content else None,
                auth=BearerToken(self._token),
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            )
            with response:
                body = read_body(response, self._timeout[1], self._token)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            failure = _transport_failure(method, path, error)
        else:
            return self._judge(method, path, response, body)
        # Raised outside of the handler: the original holds the request, and with it the token.
        raise failure

    def _judge(
        self, method: str, path: str, response: requests.Response, body: bytes | None
    ) -> dict[str, Any]:
        """Return the answer's object, or raise what it says."""
        sending = method != "GET"
        answer = parse(body)
        wait = asked_wait(response.headers)
        error = answer.get("error") if answer is not None else None
        if answer is not None and error is None and 200 <= response.status_code < 300:
            if wait:
                self._throttled(wait)
            return answer
        if not isinstance(error, Mapping):
            if wait:
                self._throttled(wait)
            raise GraphInterrupted(
                f"{method} {path}: the answer (HTTP {response.status_code}) {flaw(body)}",
                http_status=response.status_code,
                retry_after=wait,
                ambiguous=sending,
            )
        code = integer(error.get("code"))
        wait = wait if wait is not None else default_wait(code)
        if wait and answer_to(code) not in _FOR_ONE_RECIPIENT:
            self._throttled(wait, code)
        raise error_from_answer(
            error,
            http_status=response.status_code,
            retry_after=wait,
            sending=sending,
        )

    def _throttled(self, seconds: float, code: int | None = None) -> None:
        if self._on_throttle is None:
            return
        try:
            self._on_throttle(seconds, code)
        except Exception:  # the outcome of a send weighs more than the hook
            logger.warning("telling others to wait %.1f s failed", seconds, exc_info=True)


_FOR_ONE_RECIPIENT = frozenset({Answer.RETRY_RECIPIENT_LATER, Answer.RETRY_RECIPIENT_TOMORROW})
"""Their waits do not concern the other calls."""

_JSON = {"Content-Type": "application/json"}

_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#@]*)?")
_VERSION = re.compile(r"v[0-9]+\.[0-9]+")
_NODE = re.compile(r"[0-9]{1,32}")


def _checked(value: str, pattern: re.Pattern[str], name: str) -> str:
    if not pattern.fullmatch(value):
        raise InvalidArgument(f"{name} does not look right: {value[:100]!r}")
    return value


def _node(value: str, name: str) -> str:
    return _checked(str(value), _NODE, name)


def _encode(payload: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(payload, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"the message cannot be written as JSON: {error}") from None


def _transport_failure(method: str, path: str, error: Exception) -> GraphError:
    # Only the type is told: the text of such errors may hold what was being sent.
    reason = type(error).__name__
    if certainly_unsent(error):
        return GraphUnreachable(f"{method} {path}: no connection could be made ({reason})")
    return GraphInterrupted(
        f"{method} {path}: the connection failed before the answer was complete ({reason})",
        ambiguous=method != "GET",
    )
