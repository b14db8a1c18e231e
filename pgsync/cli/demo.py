"""``pgsync demo``."""

import click

__all__ = ["demo"]


@click.command()
def demo() -> None:
    """Placeholder."""
