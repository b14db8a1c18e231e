"""Loops that keep the house: workers, scheduler, maintenance."""
