"""`facts/breaker.py`: where the note about a server lies, and what it means."""

import json
import os
import zlib
from pathlib import Path

import pytest

from atotelemetry.facts import breaker

NOW = 1_900_000_000.0


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Make a cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_note_lies_in_the_users_cache_under_the_programs_name(cache):
    """One for each server; its name tells nobody which."""
    checksum = zlib.crc32(b"https://eu.i.posthog.com:443")
    assert breaker.note_of("tool", "https://eu.i.posthog.com") == str(cache / "tool" / f"network-{checksum:08x}.json")


@pytest.mark.parametrize(
    "same",
    ["HTTPS://H", "https://h:443", "https://user:secret@h", "https://h/a/path", " https://h/ ", "https://h:"],
)
def test_the_same_server_has_the_same_note(cache, same):
    """Scheme, host and port are what a connection needs."""
    assert breaker.note_of("tool", same) == breaker.note_of("tool", "https://h")


@pytest.mark.parametrize("other", ["http://h", "https://h:444", "https://h2", "https://[::1]", "https://[::1]:444"])
def test_another_server_has_another(cache, other):
    """One that is dead says nothing about the rest."""
    assert breaker.note_of("tool", other) != breaker.note_of("tool", "https://h")


def test_an_address_of_ipv6_has_a_default_port_too(cache):
    """Its colons are none before a port."""
    assert breaker.note_of("tool", "https://[::1]") == breaker.note_of("tool", "https://[::1]:443")


@pytest.mark.parametrize("app", ["", "..", "../x", "a/b", ".hidden", "a\\b", "é"])
def test_a_name_that_is_no_folder_has_no_note(cache, app):
    """It would lie anywhere."""
    assert breaker.note_of(app, "https://h") is None


@pytest.mark.posix("a home named by HOME")
def test_without_the_variable_it_is_the_homes_cache(tmp_path, monkeypatch):
    """As the XDG Base Directory Specification says; a relative path counts as none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert breaker.cache_directory() == str(tmp_path / ".cache")


@pytest.mark.posix("owners of files")
def test_a_cache_of_somebody_else_is_not_used(cache, monkeypatch):
    """Under sudo the home may be the user's while we are root."""
    assert breaker.cache_directory() == str(cache)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert breaker.cache_directory() is None
    assert breaker.note_of("tool", "https://h") is None


def test_a_cache_in_a_place_that_is_missing_is_not_made(tmp_path, monkeypatch):
    """Only the last directory of its path may be missing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert breaker.cache_directory() == str(tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there"))
    assert breaker.cache_directory() is None


def test_a_note_is_json(cache):
    """People and tests may read and write one."""
    assert json.loads(breaker.encode(2, NOW)) == {"failures": 2, "at": NOW}
    for separators in ((",", ":"), (", ", ": ")):
        (cache / "note.json").write_text(json.dumps({"at": NOW, "failures": 3}, separators=separators))
        assert breaker.read(str(cache / "note.json")) == (3, NOW)


@pytest.mark.parametrize(
    ("failures", "age", "is_open"),
    [(1, 0, False), (2, 0, True), (2, 59.9, True), (2, 60, False), (7, 59.9, True), (7, 61, False), (2, -5, False)],
)
def test_two_failures_open_it_for_a_minute(cache, failures, age, is_open):
    """Counted from the last; a time to come is a clock that was wrong."""
    path = breaker.note_of("tool", "https://h")
    Path(path).parent.mkdir()
    Path(path).write_bytes(breaker.encode(failures, NOW))
    assert breaker.read(path) == (failures, NOW)
    left = breaker.pause_left("tool", "https://h", NOW + age)
    assert left == (pytest.approx(60 - age) if is_open else 0)
    assert breaker.pause_left("tool", "https://other", NOW + age) == 0


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"failures": "2"}', b'{"failures": 1e999, "at": 0}', b'{"at": 1}', b"\xff" * 5000]
)
def test_a_damaged_note_says_nothing(cache, content):
    """Telemetry goes on as if there were none."""
    path = cache / "note.json"
    path.write_bytes(content)
    assert breaker.read(str(path)) == (0, 0.0)


@pytest.mark.posix("named pipes in a directory")
def test_a_pipe_in_its_place_holds_nobody_up(cache):
    """Whoever put it there."""
    os.mkfifo(cache / "note.json")
    assert breaker.read(str(cache / "note.json")) == (0, 0.0)


def test_no_note_is_no_reason(cache):
    """Nor is a place where there can be none."""
    assert breaker.pause_left("tool", "https://h", NOW) == 0
    (cache / "tool").mkdir()
    assert breaker.pause_left("tool", "https://h", NOW) == 0
    assert breaker.pause_left("..", "https://h", NOW) == 0
