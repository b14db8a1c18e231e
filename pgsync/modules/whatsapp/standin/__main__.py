"""The stand-in as a process: ``python -m pgsync.modules.whatsapp.standin --port 8900``."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading

import click

from pgsync.modules.whatsapp.standin.server import GraphStandin


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, show_default=True, help="0 takes a free one.")
@click.option("--templates", default=25, show_default=True, help="How many to make up.")
@click.option("--token", default="standin-token", show_default=True, help="The token to accept.")
@click.option("--waba-id", default="100000000000001", show_default=True)
@click.option("--phone-number-id", default="200000000000001", show_default=True)
@click.option("--app-secret", default="standin-secret", help="Signs the webhooks.")
@click.option("--latency", default=0.0, help="Seconds added to every answer.")
@click.option("--until-eof", is_flag=True, help="End when standard input does: with the parent.")
@click.option("--webhook-url", help="Where to post the statuses of accepted messages.")
def main(
    host: str,
    port: int,
    templates: int,
    token: str,
    waba_id: str,
    phone_number_id: str,
    app_secret: str,
    latency: float,
    until_eof: bool,
    webhook_url: str | None,
) -> None:
    """Serve until SIGTERM or SIGINT. The first line of output is JSON: url and ids."""
    standin = GraphStandin(
        host=host,
        port=port,
        templates=templates,
        token=token,
        waba_id=waba_id,
        phone_number_id=phone_number_id,
        app_secret=app_secret,
        latency=latency,
    )
    if webhook_url:
        standin.send_webhooks(webhook_url)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    if until_eof:
        threading.Thread(target=_wait_for_eof, args=(stopped,), daemon=True).start()
    with standin as graph:
        facts = {"url": graph.url, "waba_id": waba_id, "phone_number_id": phone_number_id}
        sys.stdout.write(json.dumps(facts) + "\n")
        sys.stdout.flush()
        stopped.wait()


def _wait_for_eof(stopped: threading.Event) -> None:
    # Past Python's own buffer, whose lock, held at the interpreter's end, would crash it.
    while os.read(sys.stdin.fileno(), 4_096):
        pass
    stopped.set()


if __name__ == "__main__":
    main()
