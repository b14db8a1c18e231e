"""Message templates of WhatsApp, kept in step with the Graph API."""
