"""The calls that the tests of the client make again and again."""

from __future__ import annotations

from typing import Any

import requests

from pgsync.modules.whatsapp.graph import GraphClient, Sent
from pgsync.modules.whatsapp.standin import GraphStandin

TO = "+4915112345678"
TOKEN = "EAAGsecretTOKENplanted0123456789"


def make(graph: GraphStandin, **settings: Any) -> GraphClient:
    settings = {"timeout": (2.0, 10.0), "backoff": 0.0, **settings}
    return GraphClient(token=graph.token, base_url=graph.url, **settings)


def send(client: GraphClient, graph: GraphStandin, to: str = TO, data: str = "7:1") -> Sent:
    return client.send_template(
        graph.phone_number_id,
        to=to,
        template="hello",
        language="de",
        components=BODY,
        callback_data=data,
    )


def listed(client: GraphClient, graph: GraphStandin, **settings: Any) -> list[str]:
    pages = client.template_pages(graph.waba_id, **settings)
    return [template["id"] for page in pages for template in page.templates]


def everything(graph: GraphStandin) -> list[str]:
    return [template["id"] for template in graph.templates.all()]


def gets(graph: GraphStandin) -> int:
    return len(graph.log.entries(method="GET"))


def posts(graph: GraphStandin) -> int:
    return len(graph.log.entries(method="POST"))


class Api:
    """Calls one account of a stand-in with its token."""

    def __init__(self, graph: GraphStandin) -> None:
        self.graph = graph
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {graph.token}"

    def get(self, path: str, **query: Any) -> requests.Response:
        return self.session.get(f"{self.graph.url}/v23.0/{path}", params=query)

    def templates(self, **query: Any) -> dict[str, Any]:
        body: dict[str, Any] = self.get(f"{self.graph.waba_id}/message_templates", **query).json()
        return body

    def post(self, payload: Any) -> requests.Response:
        path = f"{self.graph.url}/v23.0/{self.graph.phone_number_id}/messages"
        return self.session.post(path, json=payload)

    def send(self, to: str = TO, data: str | None = None, **template: Any) -> requests.Response:
        content = {"name": "hello", "language": {"code": "de"}, "components": [body("Ada")]}
        payload = {
            "messaging_product": "whatsapp",
            "to": to,
            "type": "template",
            "template": {**content, **template},
        }
        return self.post(payload | ({} if data is None else {"biz_opaque_callback_data": data}))


def body(*values: str) -> dict[str, Any]:
    return part("body", *({"type": "text", "text": value} for value in values))


def part(kind: str, *parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": kind, "parameters": list(parameters), **more}


BODY = [body("Ada")]
