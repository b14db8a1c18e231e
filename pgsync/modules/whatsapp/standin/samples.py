"""Made-up templates that look like those of a real account, the same ones each time."""

from __future__ import annotations

from typing import Any

__all__ = ["STATUSES", "sample"]

STATUSES = (
    "APPROVED",
    "PENDING",
    "REJECTED",
    "PAUSED",
    "DISABLED",
    "IN_APPEAL",
    "PENDING_DELETION",
    "DELETED",
    "LIMIT_EXCEEDED",
    "ARCHIVED",
)

_LANGUAGES = ("en_US", "de", "es_MX", "pt_BR", "hi")
_SCORES = ("GREEN", "UNKNOWN", "YELLOW", "RED")


def sample(number: int) -> dict[str, Any]:
    """Return the fields of made-up template ``number``, from 0.

    More than half are approved; any twenty in a row have each status at least once.
    """
    shapes = (_plain, _order, _offer, _named, _picture, _code)
    shape = shapes[number % len(shapes)]
    turn = number % 20
    status = "APPROVED" if turn % 2 == 0 else STATUSES[turn // 2]
    fields = shape()
    return {
        **fields,
        "name": f"{fields['name']}_{number + 1:04d}",
        "language": _LANGUAGES[number // len(shapes) % len(_LANGUAGES)],
        "status": status,
        "quality_score": {"score": _SCORES[number % 4], "date": 1735689600 + number * 60},
        "rejected_reason": "INVALID_FORMAT" if status == "REJECTED" else "NONE",
    }


def _plain() -> dict[str, Any]:
    return {
        "name": "opening_hours",
        "category": "UTILITY",
        "components": [{"type": "BODY", "text": "We are open from 9 to 18 o'clock today."}],
    }


def _order() -> dict[str, Any]:
    return {
        "name": "order_update",
        "category": "UTILITY",
        "components": [
            {
                "type": "BODY",
                "text": "Hello {{1}}, your order {{2}} is on its way.",
                "example": {"body_text": [["Ada", "A-1001"]]},
            },
            {"type": "FOOTER", "text": "Reply STOP to end these messages"},
        ],
    }


def _offer() -> dict[str, Any]:
    return {
        "name": "season_offer",
        "category": "MARKETING",
        "components": [
            {
                "type": "HEADER",
                "format": "TEXT",
                "text": "{{1}} is here",
                "example": {"header_text": ["Spring"]},
            },
            {
                "type": "BODY",
                "text": "Take {{1}} off until Sunday.",
                "example": {"body_text": [["20 %"]]},
            },
            {
                "type": "BUTTONS",
                "buttons": [
                    {
                        "type": "URL",
                        "text": "Shop now",
                        "url": "https://shop.example/offers/{{1}}",
                        "example": ["https://shop.example/offers/spring"],
                    },
                    {"type": "QUICK_REPLY", "text": "Not for me"},
                ],
            },
        ],
    }


def _named() -> dict[str, Any]:
    return {
        "name": "appointment",
        "category": "UTILITY",
        "parameter_format": "NAMED",
        "components": [
            {
                "type": "BODY",
                "text": "Dear {{first_name}}, we expect you on {{day}}.",
                "example": {
                    "body_text_named_params": [
                        {"param_name": "first_name", "example": "Ada"},
                        {"param_name": "day", "example": "Monday"},
                    ]
                },
            }
        ],
    }


def _picture() -> dict[str, Any]:
    return {
        "name": "new_arrival",
        "category": "MARKETING",
        "components": [
            {
                "type": "HEADER",
                "format": "IMAGE",
                "example": {"header_handle": ["https://cdn.example/arrival.jpg"]},
            },
            {
                "type": "BODY",
                "text": "{{1}}, look what came in.",
                "example": {"body_text": [["Ada"]]},
            },
            {
                "type": "BUTTONS",
                "buttons": [
                    {"type": "PHONE_NUMBER", "text": "Call us", "phone_number": "+15550783881"}
                ],
            },
        ],
    }


def _code() -> dict[str, Any]:
    return {
        "name": "sign_in_code",
        "category": "AUTHENTICATION",
        "components": [
            {
                "type": "BODY",
                "text": "*{{1}}* is your verification code.",
                "add_security_recommendation": True,
                "example": {"body_text": [["123456"]]},
            },
            {
                "type": "BUTTONS",
                "buttons": [
                    {
                        "type": "URL",
                        "text": "Copy code",
                        "url": "https://www.whatsapp.com/otp/code/?otp_type=COPY_CODE&code={{1}}",
                        "example": ["https://www.whatsapp.com/otp/code/?code=123456"],
                    }
                ],
            },
        ],
    }
