"""The alert rules and the board ask for what /metrics has, in words that Prometheus understands."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import promql_parser
import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from pgsync import Coordinator
from pgsync.daemon.metrics import read_metrics, render_metrics
from pgsync.daemon.vitals import Vitals

DOCS = Path(__file__).parents[2] / "docs"
RULES = yaml.safe_load((DOCS / "monitoring/pgsync.rules.yml").read_text())["groups"][0]["rules"]
BOARD = json.loads((DOCS / "monitoring/grafana.json").read_text())
# What Grafana puts in before it asks.
_PUT_IN = {"$__rate_interval": "5m", "$queue": ".*"}


def asked() -> list[str]:
    queries = [rule["expr"] for rule in RULES]
    for panel in BOARD["panels"]:
        queries += [target["expr"] for target in panel["targets"]]
    for name, value in _PUT_IN.items():
        queries = [query.replace(name, value) for query in queries]
    return queries


@pytest.fixture
def exported(sync: Coordinator, database: psycopg.Connection[Any]) -> dict[str, set[str]]:
    """The labels of each metric that a daemon's page has once it has worked."""
    sync.task(name="work", queue="q")(lambda: None).enqueue()
    sync.run_worker(queues=["q"], drain=True)
    for statement in (
        "UPDATE pgsync.job_finished SET started_at = run_at, finished_at = now() - interval '20s'",
        "UPDATE pgsync.throughput_mark SET counted_until = now() - interval '1 h'",
        "SELECT pgsync.count_throughput()",
        "SELECT pgsync.enqueue('work', queue => 'q')",
        "SELECT pgsync.snapshot_queues()",
        "CALL pgsync.do_duties(ARRAY['prepare history'])",
    ):
        database.execute(statement)
    decided = ("pgsync_limit_decisions_total", (("limiter", "graph"), ("outcome", "denied")))
    vitals = Vitals(None, listening=True, counts=Counter([decided]))
    page = render_metrics(sync.database.run(read_metrics()), vitals).decode()
    found: dict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name] |= set(sample.labels)
    return found


def test_every_metric_and_label_that_is_asked_for_is_exported(
    exported: dict[str, set[str]],
) -> None:
    of_the_scrape = {"instance", "job"}
    for query in asked():
        names = re.findall(r"\bpgsync_\w+", query)
        assert names
        assert set(names) <= set(exported), query
        has = set.union(of_the_scrape, *(exported[name] for name in names))
        labels = re.findall(r"(\w+)=~?\"", query)
        for group in re.findall(r"by \(([^)]*)\)", query):
            labels += re.split(r",\s*", group)
        assert set(labels) <= has, query


def test_every_metric_is_on_the_board(exported: dict[str, set[str]]) -> None:
    asked_for = " ".join(asked())
    for name in exported:
        family = re.sub(r"_(bucket|count|sum|created)$", "", name)
        assert family in asked_for, name


@pytest.mark.parametrize("query", asked())
def test_prometheus_can_read_it(query: str) -> None:
    promql_parser.parse(query)


def test_every_alert_says_what_to_do_and_is_in_the_guide() -> None:
    guide = (DOCS / "monitoring.md").read_text()
    named = re.findall(r"^\| (Pgsync\w+) \|", guide, re.MULTILINE)
    assert named == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "remedy"}
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "warning")


def test_the_boards_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
