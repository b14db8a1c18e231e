"""Campaigns: messages to many recipients, each at most once."""
