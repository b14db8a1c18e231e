"""The stand-in for the Graph API, seen by a plain HTTP client that follows the documentation."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys

import pytest
import requests

from pgsync.modules.whatsapp.standin import GraphStandin
from pgsync.modules.whatsapp.standin.samples import STATUSES
from tests.modules.whatsapp.calls import TO, TOKEN, Api

# Tokens and ids


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic abc", "Bearer "])
def test_a_missing_or_wrong_token_is_refused(graph: GraphStandin, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = requests.get(f"{graph.url}/v23.0/{graph.waba_id}/message_templates", headers=headers)
    error = answer.json()["error"]
    assert answer.status_code == 401
    assert (error["type"], error["code"]) == ("OAuthException", 190)
    assert error["fbtrace_id"]


def test_an_expired_token_is_told_apart(api: Api, graph: GraphStandin) -> None:
    graph.expire_token()
    error = api.templates()["error"]
    graph.restore_token()
    assert (error["code"], error["error_subcode"]) == (190, 463)
    assert "data" in api.templates()


def test_a_token_sees_its_own_accounts_only(api: Api, graph: GraphStandin) -> None:
    graph.add_account("300", ["301"], templates=3, token="another-tenant")
    error = api.get("300/message_templates").json()["error"]
    assert (error["code"], error["error_subcode"]) == (100, 33)
    graph.add_account("400", ["401"], templates=3)
    assert len(api.get("400/message_templates").json()["data"]) == 3


def test_an_unknown_path_is_refused(api: Api) -> None:
    assert api.get("nowhere/at/all").json()["error"]["code"] == 2500
    assert api.get("123/message_templates").json()["error"]["code"] == 100


def test_a_phone_number_and_a_template_can_be_read(api: Api, graph: GraphStandin) -> None:
    assert api.get(graph.phone_number_id).json()["display_phone_number"].startswith("+1555")
    numbers = api.get(f"{graph.waba_id}/phone_numbers").json()["data"]
    assert [number["id"] for number in numbers] == [graph.phone_number_id]
    template = graph.templates.all()[0]
    assert api.get(template["id"]).json() == template


# Listing


def test_a_listing_has_the_documented_shape(api: Api, graph: GraphStandin) -> None:
    listing = api.templates(fields="name,status,components,quality_score,rejected_reason")
    assert len(listing["data"]) == 25
    assert set(listing["data"][0]) == {
        *("id", "name", "status", "components", "quality_score", "rejected_reason"),
    }
    assert set(listing["paging"]) == {"cursors", "next"}
    assert set(listing["paging"]["cursors"]) == {"before", "after"}


def test_the_next_link_can_be_followed_to_the_end(api: Api, graph: GraphStandin) -> None:
    link, found, pages = f"{graph.url}/v23.0/{graph.waba_id}/message_templates?limit=60", [], 0
    while link:
        # As with the real one, the link holds the token, so that it works without the header.
        answer = requests.get(link, headers=api.session.headers if not pages else {}).json()
        found += [template["id"] for template in answer["data"]]
        link, pages = answer["paging"].get("next"), pages + 1
        assert answer["paging"]["cursors"]["after"]
    assert found == [template["id"] for template in graph.templates.all()]
    assert pages == math.ceil(len(found) / 60)
    assert TOKEN not in repr(graph.log.entries())


def test_bad_parameters_of_a_listing_are_refused(api: Api) -> None:
    for query in ({"limit": "x"}, {"limit": "0"}, {"fields": "colour"}, {"after": "!"}):
        assert api.templates(**query)["error"]["code"] == 100


def test_a_listing_can_be_filtered(api: Api) -> None:
    found = api.templates(status="REJECTED", limit=5)["data"]
    assert {template["status"] for template in found} == {"REJECTED"}
    found = api.templates(status="REJECTED,PAUSED", limit=50)["data"]
    assert {template["status"] for template in found} == {"REJECTED", "PAUSED"}


def test_a_listing_can_have_a_summary(api: Api, graph: GraphStandin) -> None:
    listing = api.templates(limit=1, summary="total_count")
    assert listing["summary"] == {"total_count": len(graph.templates)}


def test_every_status_is_there(graph: GraphStandin) -> None:
    with GraphStandin() as small:
        assert {template["status"] for template in small.templates.all()} == set(STATUSES)


def test_templates_change_while_they_are_listed() -> None:
    with GraphStandin(templates=10) as graph:
        api = Api(graph)
        first = api.templates(limit=4)
        for template in first["data"]:
            graph.templates.remove(template["id"])
        added = graph.templates.add(name="late", language="de")
        rest = api.templates(limit=40, after=first["paging"]["cursors"]["after"])["data"]
        assert len(rest) == 7
        assert rest[-1]["id"] == added["id"]
        graph.templates.change(added["id"], status="PAUSED")
        assert api.templates(name="late")["data"][0]["status"] == "PAUSED"
        with pytest.raises(ValueError, match="exists"):
            graph.templates.add(name="late", language="de")


# The log, the control endpoints, the process


def test_the_log_tells_what_came_and_what_was_answered(api: Api, graph: GraphStandin) -> None:
    api.send(data="7:1")
    api.templates(limit=1)
    sent, listed = graph.log.entries()
    assert (sent.method, sent.body["to"], sent.status) == ("POST", TO, 200)
    assert sent.message_id == sent.answer["messages"][0]["id"]
    assert (listed.path, listed.query) == (
        f"/v23.0/{graph.waba_id}/message_templates",
        {"limit": "1"},
    )
    assert graph.log.entries(after=sent.number) == [listed]
    assert TOKEN not in repr(sent) + repr(listed)
    assert sent.at.tzinfo is not None


def test_another_process_can_steer_it(api: Api, graph: GraphStandin) -> None:
    control = f"{graph.url}/_standin"
    fault = {"kind": "error", "code": 131000, "times": 2}
    assert requests.post(f"{control}/faults", json=fault).status_code == 204
    assert api.send().status_code == 500
    (waiting,) = requests.get(f"{control}/faults").json()["faults"]
    assert (waiting["code"], waiting["times"]) == (131000, 1)
    requests.delete(f"{control}/faults")
    requests.post(f"{control}/throttles", json={"limit": 1, "per": 60, "code": 4})
    assert [api.send(data="7:1").status_code for _ in range(2)] == [200, 400]
    requests.delete(f"{control}/throttles")
    api.send(data="7:1")
    state = requests.get(f"{control}/state").json()
    assert (state["requests"], state["accepted"]) == (4, 2)
    assert state["duplicate_sends"][0]["times"] == 2
    entries = requests.get(f"{control}/log", params={"method": "POST"}).json()["entries"]
    assert [entry["status"] for entry in entries] == [500, 200, 400, 200]
    added = requests.post(f"{control}/templates", json={"name": "by_hand"}).json()
    one = f"{control}/templates/{added['id']}"
    assert requests.patch(one, json={"status": "DISABLED"}).json()["status"] == "DISABLED"
    assert requests.delete(one).status_code == 204
    assert requests.delete(one).status_code == 404
    assert requests.post(f"{control}/faults", json={"kind": "x"}).status_code == 400
    assert requests.post(f"{control}/faults", data=b"[").status_code == 400
    requests.delete(f"{control}/log")
    assert requests.get(f"{control}/state").json()["requests"] == 0


def test_it_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "pgsync.modules.whatsapp.standin", "--templates", "3"]
    with subprocess.Popen(
        [*command, "--token", TOKEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        answer = requests.get(
            f"{facts['url']}/v23.0/{facts['waba_id']}/message_templates",
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
        assert len(answer.json()["data"]) == 3
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0
    assert not re.search(r"\S", output + errors)
