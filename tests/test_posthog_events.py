"""PostHog's own events and properties about persons and groups, through a real sender: they arrive as they were.

The names and shapes are those of PostHog's SDK for Python, but that its `set` and `set_once` put `$set` beside the
properties, and here it stands among them, as on any other event. README's table says what to write for each method.
"""

from __future__ import annotations

import pytest

from atotelemetry.host.telemetry import Telemetry
from support_home import ID, fresh_home, store
from support_processes import PATIENCE

SHAPES = {
    "identify": ("$identify", {"$anon_distinct_id": ID, "$set": {"plan": "pro"}, "$set_once": {"first": 1}}),
    "set": ("$set", {"$set": {"plan": "pro", "seats": [1, 2], "address": {"city": "Berlin"}}}),
    "set_once": ("$set_once", {"$set_once": {"first_command": "build", "empty": ""}}),
    "groups": ("built", {"$groups": {"company": "id:5", "project": "café"}, "targets": 3}),
    "group_identify": (
        "$groupidentify",
        {
            "$group_type": "company",
            "$group_key": "id:5",
            "$group_set": {"name": "Acme", "seats": 9_007_199_254_740_993},
        },
    ),
    "alias": ("$create_alias", {"distinct_id": ID, "alias": "dev@acme.example"}),
    "set on any event": (
        "built",
        {"$set": {"plan": "pro"}, "$set_once": {"first": None}, "$process_person_profile": True},
    ),
}


@pytest.mark.parametrize("protocol", ["v0", "v1"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_client_passes_it_on(server, new_client, shape, protocol):
    """Name, person and properties as PostHog's SDK sends them."""
    event, properties = SHAPES[shape]
    client = new_client(server.url, protocol=protocol)
    client.capture(event, distinct_id="dev@acme.example", properties=properties)
    assert client.flush(PATIENCE, delivered=True)
    (arrived,) = server.events
    assert (arrived["event"], arrived["distinct_id"]) == (event, "dev@acme.example")
    # PostHog's newer protocol has this one as an option of the event.
    expected = {name: properties[name] for name in properties if (name, protocol) != ("$process_person_profile", "v1")}
    assert {name: arrived["properties"].get(name) for name in expected} == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_an_application_passes_it_on(server, monkeypatch, tmp_path, shape):
    """Likewise, where `identity=` says who is signed in: one `$identify` makes the installation and them one person."""
    store(fresh_home(monkeypatch, tmp_path), f"id: {ID}\ntelemetry: true\n")
    event, properties = SHAPES[shape]
    telemetry = Telemetry(
        app="atopile", api_key="phc_test", host=server.url, identity=lambda: "dev@acme.example", run_properties=()
    )
    assert telemetry.known()["id"] == ID
    telemetry.capture_event(event, properties)
    assert telemetry.flush(PATIENCE, delivered=True)
    telemetry.shutdown()
    (arrived,) = server.events
    assert (arrived["event"], arrived["distinct_id"]) == (event, "dev@acme.example")
    assert properties.items() <= arrived["properties"].items()
