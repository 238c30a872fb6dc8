"""`testing.captured` and the plugin for pytest: the events of a test's own process, and nothing that leaves it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import atotelemetry
from atotelemetry import Telemetry, TelemetryClient
from atotelemetry.host import default as default_module
from atotelemetry.testing import captured
from support_processes import run_python

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"

# The program of README's recipes.
MYTOOL = """
import sys
from atotelemetry import Telemetry

telemetry = Telemetry(app="mytool", api_key="phc_real", host="http://127.0.0.1:9", report_crash=True)

@telemetry.capture("build_start", "build_end")
def build(target):
    return target

if __name__ == "__main__":
    build(sys.argv[1])
"""
# Beside them: what the plugin does to the processes and the conftest of a suite.
SUITE = """
import os, subprocess, sys
from mytool.main import build, telemetry

def test_telemetry_is_off():
    assert telemetry.client.disabled
    assert os.environ["ATOTELEMETRY_OFF"] == "1"

def test_it_is_off_in_processes(tmp_path):
    code = "from mytool.main import telemetry; print(telemetry.client.disabled, telemetry.status())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True ")
    assert "ATOTELEMETRY_OFF" in done.stdout

def test_the_server_lifts_it_for_its_test(capture_server):
    assert "ATOTELEMETRY_OFF" not in os.environ

def test_only_for_its_test():
    assert os.environ["ATOTELEMETRY_OFF"] == "1"
"""


def names(events):
    return [event["event"] for event in events]


def new(**options):
    return Telemetry(**{"app": "mytool", "api_key": "phc_test", "host": NOWHERE, **options})


def test_events_of_a_decorated_function():
    """What was decorated before the block is captured in it, with its own properties and those of the client."""
    telemetry = new(properties={"edition": "free"})

    @telemetry.capture("start", "end", {"board": "blinky"})
    def build():
        return 5

    with captured(telemetry) as events:
        assert build() == 5
    assert names(events) == ["start", "end"]
    assert {"edition": "free", "board": "blinky"}.items() <= events[1]["properties"].items()
    assert events[1]["properties"]["duration"] >= 0
    assert "$lib" not in events[1]["properties"]  # the sender's work


@pytest.mark.parametrize("reason", ["notice", "variable", "no key", "disabled", "disabled later"])
def test_works_where_telemetry_is_off(monkeypatch, reason):
    """Neither consent nor a missing key nor the host's own switch keeps the events of a test."""
    if reason == "variable":
        monkeypatch.setenv("DO_NOT_TRACK", "1")
    telemetry = new(api_key="" if reason == "no key" else "phc_test")
    if reason == "disabled":
        telemetry.client.disabled = True
    with captured(telemetry) as events:
        telemetry.capture_event("inside")
        if reason == "disabled later":
            telemetry.client.disabled = True
        telemetry.capture_event("later")
    assert names(events) == (["inside"] if reason == "disabled later" else ["inside", "later"])
    assert telemetry.client.disabled
    telemetry.capture_event("after")
    assert len(events) < 3


def test_a_no_during_the_block_stays(monkeypatch):
    """A person's no that the test makes is a no afterwards, for good."""
    telemetry = new(notice=None)
    with captured(telemetry) as events:
        telemetry.disable()
        telemetry.capture_event("after the no")
    assert events == []
    telemetry.client.disabled = False
    assert telemetry.client.disabled


@pytest.mark.parametrize("given", [(), (atotelemetry,)])
def test_the_default_instance(monkeypatch, given):
    """Without an argument the module-level names are meant, and so they are with the package."""
    monkeypatch.setattr(default_module, "_defaults", {})
    with captured(*given) as events:
        atotelemetry.capture_event("hello")
        with atotelemetry.capture("start", "end"):
            pass
        atotelemetry.capture_exception(ValueError("no"))
    assert names(events) == ["hello", "start", "end", "$exception"]


def test_a_client():
    """The layer below consent is captured as well, and sends again afterwards."""
    client = TelemetryClient("phc_test", NOWHERE)
    with captured(client) as events:
        client.capture("built", distinct_id="me")
        assert client.flush(0)
    assert (names(events), client.disabled) == (["built"], False)
    assert client.stats.captured == 1


def test_leaves_nothing(tmp_path):
    """No file is created, and no thread: not even for the id of a first run."""
    import threading

    before = threading.active_count()
    telemetry = new(notice=None)
    with captured(telemetry) as events:
        telemetry.capture_event("one")
    assert threading.active_count() == before
    assert not [path for path in Path(os.environ["HOME"]).rglob("*") if path.is_file()]
    assert len(events) == 1


def test_blocks_within_blocks():
    """The inner block has its events, the outer one the others."""
    telemetry = new()
    with captured(telemetry) as outer:
        telemetry.capture_event("first")
        with captured(telemetry) as inner:
            telemetry.capture_event("second")
        telemetry.capture_event("third")
    assert (names(outer), names(inner)) == (["first", "third"], ["second"])


@pytest.mark.posix("a recipe is about SIGSEGV")
def test_readme_recipes(tmp_path):
    """README's recipes for tests pass as they stand, and the plugin switches off everything else."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Testing code that captures\n")[1]
    recipes = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    assert len(recipes) == 4
    (tmp_path / "mytool").mkdir()
    files = {
        "mytool/__init__.py": "",
        "mytool/main.py": MYTOOL,
        "conftest.py": "import mytool.main",
        "pytest.ini": "[pytest]\ntelemetry = mytool.main:telemetry\naddopts = -W error -p no:cacheprovider -p no:xdist",
        "test_suite.py": SUITE,
        **{f"test_recipe_{number}.py": recipe for number, recipe in enumerate(recipes)},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--basetemp={tmp_path / 'base'}"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": "", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout


def test_the_plugin_costs_nothing():
    """Pytest loads it in every suite of a user: it imports the package's two names and nothing else of ours."""
    code = (
        "import sys, pytest; known = {*sys.modules}; import atotelemetry.testing.plugin; print(*{*sys.modules} - known)"
    )
    assert set(run_python(code).split()) == {"atotelemetry", "atotelemetry.testing", "atotelemetry.testing.plugin"}
