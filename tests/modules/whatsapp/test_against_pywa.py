"""An independent client, pywa, agrees with the stand-in and with the messages that we send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

httpx = pytest.importorskip("httpx")
pywa = pytest.importorskip("pywa")

from pywa.errors import WhatsAppError  # noqa: E402
from pywa.types.others import ProductsSection  # noqa: E402
from pywa.types.templates import (  # noqa: E402
    BodyText,
    Carousel,
    CarouselCard,
    CatalogButton,
    CopyCodeButton,
    FlowButton,
    HeaderDocument,
    HeaderImage,
    HeaderLocation,
    HeaderProduct,
    HeaderText,
    MPMButton,
    QuickReplyButton,
    TemplateLanguage,
    URLButton,
)

from pgsync.modules.whatsapp.filling import Filling  # noqa: E402
from pgsync.modules.whatsapp.standin import GraphStandin  # noqa: E402
from tests.modules.whatsapp.calls import TOKEN  # noqa: E402


@pytest.fixture
def client(graph: GraphStandin) -> Iterator[Any]:
    """A client of pywa, whose requests go to the stand-in."""
    target = httpx.URL(graph.url)

    class ToTheStandin(httpx.HTTPTransport):  # type: ignore[misc, name-defined, unused-ignore]
        def handle_request(self, request: Any) -> Any:
            request.url = request.url.copy_with(
                scheme=target.scheme, host=target.host, port=target.port
            )
            request.headers["Host"] = f"{target.host}:{target.port}"
            return super().handle_request(request)

    with httpx.Client(transport=ToTheStandin()) as session:
        yield pywa.WhatsApp(
            phone_id=graph.phone_number_id, waba_id=graph.waba_id, token=TOKEN, session=session
        )


_BUTTONS = [
    {"type": "QUICK_REPLY", "text": "Stop"},
    {"type": "URL", "text": "Shop", "url": "https://shop.example/{{1}}"},
    {"type": "COPY_CODE", "example": "SUMMER24"},
]


_CARD = [
    {"type": "HEADER", "format": "IMAGE"},
    {"type": "BODY", "text": "{{1}}"},
    {"type": "BUTTONS", "buttons": _BUTTONS[:2]},
]


@pytest.mark.parametrize(
    ("components", "named", "values", "params"),
    [
        (
            [{"type": "BODY", "text": "Hello {{1}}, from {{2}}"}],
            False,
            ["Ada", "Bo"],
            [BodyText.params("Ada", "Bo")],
        ),
        (
            [
                {"type": "HEADER", "format": "TEXT", "text": "For {{who}}"},
                {"type": "BODY", "text": "Dear {{first_name}}, until {{day}}"},
            ],
            True,
            {"header": "you", "body.first_name": "Ada", "body.day": "Monday"},
            [HeaderText.params(who="you"), BodyText.params(first_name="Ada", day="Monday")],
        ),
        (
            [
                {"type": "HEADER", "format": "IMAGE"},
                {"type": "BODY", "text": "Look."},
                {"type": "BUTTONS", "buttons": _BUTTONS},
            ],
            False,
            {
                "header": "https://cdn.example/1.jpg",
                "button.0": "stop",
                "button.1": "spring",
                "button.2": "SPRING25",
            },
            [
                HeaderImage.params(image="https://cdn.example/1.jpg"),
                QuickReplyButton.params(callback_data="stop", index=0),
                URLButton.params(url_variable="spring", index=1),
                CopyCodeButton.params(coupon_code="SPRING25", index=2),
            ],
        ),
        (
            [{"type": "HEADER", "format": "DOCUMENT"}, {"type": "BODY", "text": "Read it."}],
            False,
            {"header": "https://cdn.example/1.pdf", "header.filename": "Offer.pdf"},
            [HeaderDocument.params(document="https://cdn.example/1.pdf", filename="Offer.pdf")],
        ),
        (
            [{"type": "HEADER", "format": "LOCATION"}, {"type": "BODY", "text": "Come."}],
            False,
            {
                "header.latitude": "52.5163",
                "header.longitude": "-13.3777",
                "header.name": "Gate",
                "header.address": "Pariser Platz",
            },
            [
                HeaderLocation.params(
                    lat=52.5163, lon=-13.3777, name="Gate", address="Pariser Platz"
                )
            ],
        ),
        (
            [
                {"type": "HEADER", "format": "PRODUCT"},
                {"type": "BODY", "text": "Look."},
                {"type": "BUTTONS", "buttons": [{"type": "SPM", "text": "View"}]},
            ],
            False,
            {"header.product": "sku1", "header.catalog": "77"},
            [HeaderProduct.params(catalog_id="77", sku="sku1")],
        ),
        (
            [
                {"type": "BODY", "text": "Book."},
                {"type": "BUTTONS", "buttons": [{"type": "FLOW", "text": "Book"}]},
            ],
            False,
            {"button.0.token": "t1", "button.0.data": '{"name": "Ada", "seats": [1, 2]}'},
            [
                FlowButton.params(
                    index=0, flow_token="t1", flow_action_data={"name": "Ada", "seats": [1, 2]}
                )
            ],
        ),
        (
            [
                {"type": "BODY", "text": "Look."},
                {"type": "BUTTONS", "buttons": [{"type": "CATALOG", "text": "View catalog"}]},
            ],
            False,
            {"button.0.thumbnail": "sku1"},
            [CatalogButton.params(thumbnail_product_sku="sku1", index=0)],
        ),
        (
            [
                {"type": "BODY", "text": "Look."},
                {"type": "BUTTONS", "buttons": [{"type": "MPM", "text": "View items"}]},
            ],
            False,
            {"button.0.thumbnail": "sku1", "button.0.sections": "New: sku1, sku2; Old: sku3"},
            [
                MPMButton.params(
                    thumbnail_product_sku="sku1",
                    product_sections=[
                        ProductsSection(title="New", skus=["sku1", "sku2"]),
                        ProductsSection(title="Old", skus=["sku3"]),
                    ],
                    index=0,
                )
            ],
        ),
        (
            [
                {"type": "BODY", "text": "For {{1}}"},
                {"type": "CAROUSEL", "cards": [{"components": _CARD}, {"components": _CARD}]},
            ],
            False,
            {
                "body.1": "Ada",
                "card.0.header": "https://cdn.example/0.jpg",
                "card.0.body.1": "Aloe",
                "card.0.button.1": "aloe",
                "card.1.header": "1234567",
                "card.1.body.1": "Fern",
                "card.1.button.0": "more",
                "card.1.button.1": "fern",
            },
            [
                BodyText.params("Ada"),
                Carousel.params(
                    cards=[
                        CarouselCard.params(
                            index=0,
                            params=[
                                HeaderImage.params(image="https://cdn.example/0.jpg"),
                                BodyText.params("Aloe"),
                                URLButton.params(url_variable="aloe", index=1),
                            ],
                        ),
                        CarouselCard.params(
                            index=1,
                            params=[
                                HeaderImage.params(image="1234567"),
                                BodyText.params("Fern"),
                                QuickReplyButton.params(callback_data="more", index=0),
                                URLButton.params(url_variable="fern", index=1),
                            ],
                        ),
                    ]
                ),
            ],
        ),
    ],
)
def test_its_messages_are_accepted_and_are_ours(
    client: Any,
    graph: GraphStandin,
    components: list[dict[str, Any]],
    named: bool,
    values: Any,
    params: list[Any],
) -> None:
    name = f"pywa_{len(graph.templates)}"
    kind = "NAMED" if named else "POSITIONAL"
    graph.templates.add(name=name, language="en_US", components=components, parameter_format=kind)
    client.send_template(
        to="4915112000001", name=name, language=TemplateLanguage.ENGLISH_US, params=params
    )
    (entry,) = [each for each in graph.log.entries() if each.method == "POST"]
    ours = Filling(components, kind).components(values)
    assert _plain(entry.body["template"]["components"]) == _plain(ours)


def _plain(components: list[dict[str, Any]]) -> list[str]:
    """Without what the API takes either way: the case of words, numbers as such or as text."""
    return sorted(json.dumps(_as_texts(part), sort_keys=True).lower() for part in components)


def _as_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_texts(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_texts(each) for each in value]
    return str(value)


def test_it_understands_how_a_message_is_refused(client: Any, graph: GraphStandin) -> None:
    graph.inject("error", code=131026, path="messages")
    with pytest.raises(WhatsAppError) as caught:
        client.send_template(
            to="4915112000001",
            name="hello",
            language=TemplateLanguage.GERMAN,
            params=[BodyText.params("Ada")],
        )
    assert caught.value.code == 131026
