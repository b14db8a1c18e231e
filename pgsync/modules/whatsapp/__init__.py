"""Message templates of WhatsApp, kept in step with the Graph API."""

from pgsync.modules.whatsapp.connections import ConnectionDisabled, UnknownConnection
from pgsync.modules.whatsapp.templates import SYNC_LIMIT, TemplateStopped, WhatsApp

__all__ = [
    "SYNC_LIMIT",
    "ConnectionDisabled",
    "TemplateStopped",
    "UnknownConnection",
    "WhatsApp",
]
