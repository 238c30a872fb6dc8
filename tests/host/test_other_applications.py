"""Applications other than atopile send less: an e-mail address only if asked for, and a salted project."""

from __future__ import annotations

import hashlib

from atotelemetry.facts.run import RUN_PROPERTIES
from atotelemetry.host.telemetry import Telemetry
from support_git import EMAIL, WIDGET


def sent(server, app, repository, monkeypatch, **options):
    """Return the properties of one event of `app`, captured in a repository."""
    monkeypatch.chdir(repository)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    telemetry = Telemetry(app=app, api_key="phc_test", host=server.url, notice=None, **options)
    telemetry.capture_event("built")
    assert telemetry.client.flush(20, delivered=True)
    telemetry.client.shutdown()
    (event,) = server.events
    server.clear()
    return event["distinct_id"], event["properties"]


def test_the_email_has_to_be_asked_for(server, repository, git, monkeypatch):
    """Atopile sends it as today; other applications have to name it."""
    git(repository, "config", "user.email", EMAIL)
    assert sent(server, "atopile", repository, monkeypatch)[1]["email"] == EMAIL
    assert "email" not in sent(server, "mytool", repository, monkeypatch)[1]
    assert sent(server, "mytool", repository, monkeypatch, run_properties=RUN_PROPERTIES)[1]["email"] == EMAIL


def test_the_projects_id_cannot_be_looked_up(server, repository, monkeypatch):
    """Atopile's is the plain hash that its dashboards know; another's is mixed with the installation's id."""
    _, properties = sent(server, "atopile", repository, monkeypatch)
    assert properties["project_id"] == WIDGET
    person, properties = sent(server, "mytool", repository, monkeypatch)
    assert properties["project_id"] == hashlib.sha256(f"{person}:{WIDGET}".encode()).hexdigest()
    _, again = sent(server, "mytool", repository, monkeypatch)
    assert again["project_id"] == properties["project_id"]


def test_somebody_who_is_signed_in_has_the_same_projects(server, repository, monkeypatch):
    """The salt is the installation's id, whoever is signed in."""
    _, properties = sent(server, "mytool", repository, monkeypatch)
    person, signed_in = sent(server, "mytool", repository, monkeypatch, identity=lambda: "al")
    assert (person, signed_in["project_id"]) == ("al", properties["project_id"])
