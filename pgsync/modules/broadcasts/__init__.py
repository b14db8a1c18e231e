"""Campaigns: messages to many recipients, each at most once."""

from pgsync.modules.broadcasts.broadcasts import Broadcasts
from pgsync.modules.broadcasts.campaigns import CampaignStateError
from pgsync.modules.broadcasts.webhooks import webhook_app

__all__ = ["Broadcasts", "CampaignStateError", "webhook_app"]
