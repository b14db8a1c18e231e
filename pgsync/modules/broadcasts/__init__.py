"""Campaigns: messages to many recipients, each at most once."""

from pgsync.modules.broadcasts.audience import Audience
from pgsync.modules.broadcasts.broadcasts import Broadcasts
from pgsync.modules.broadcasts.campaigns import CampaignStateError
from pgsync.modules.broadcasts.pacing import UNCAPPED, Caps
from pgsync.modules.broadcasts.quiet_hours import QuietHours
from pgsync.modules.broadcasts.rehearsal import Preflight, PreflightFailed
from pgsync.modules.broadcasts.webhooks import webhook_app

__all__ = [
    "UNCAPPED",
    "Audience",
    "Broadcasts",
    "CampaignStateError",
    "Caps",
    "Preflight",
    "PreflightFailed",
    "QuietHours",
    "webhook_app",
]
