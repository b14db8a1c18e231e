"""A stand-in for Meta's Graph API: a real server on a real socket, for tests and the demo."""

from pgsync.modules.whatsapp.standin.catalogue import Catalogue
from pgsync.modules.whatsapp.standin.faults import Fault
from pgsync.modules.whatsapp.standin.ledger import Entry, Ledger, Message
from pgsync.modules.whatsapp.standin.server import GraphStandin
from pgsync.modules.whatsapp.standin.throttles import Throttle
from pgsync.modules.whatsapp.standin.webhooks import Delivery, Plan, Webhooks

__all__ = [
    "Catalogue",
    "Delivery",
    "Entry",
    "Fault",
    "GraphStandin",
    "Ledger",
    "Message",
    "Plan",
    "Throttle",
    "Webhooks",
]
