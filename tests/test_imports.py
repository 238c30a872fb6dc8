"""Who imports what: measured in fresh interpreters, and read from the source of every file.

The interpreters run without `site`, so that nothing of the environment's own start-up hides what we load.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path

import pytest

import atotelemetry
from support_processes import run_python

PACKAGE = Path(atotelemetry.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NO_MODULE_HERE = {"__init__"} | ({"spawn_windows"} if sys.platform != "win32" else set())
HOST_MODULES = sorted(
    f"atotelemetry.host.{path.stem}" for path in PACKAGE.glob("host/*.py") if path.stem not in NO_MODULE_HERE
)

EVENTS = {"values", "kinds", "classes", "cut", "messages", "exceptions", "reports", "stack_trace"}

NETWORK = {
    "httpx",
    "httpcore",
    "ssl",
    "_ssl",
    "asyncio",
    "socket",
    "http",
    "http.client",
    "urllib.request",
    "truststore",
}
COSTLY = {
    *("typing", "dataclasses", "logging", "threading", "re", "uuid", "datetime", "traceback", "inspect", "json"),
    *("subprocess", "pathlib", "collections", "enum", "functools", "contextlib", "msgspec", "tempfile", "signal"),
    *("select", "importlib.metadata", "yaml", "platform", "warnings", "types", "random", "hashlib", "shutil"),
}

# A C module that some builds keep in a file of its own; it loads nothing else.
FREE = {"__future__", "_queue"}

PRINT_MODULES = "import json, sys; print(json.dumps(sorted(set(sys.modules) - before)))"


def fresh(program: str, *arguments: str, stdin: str = "") -> str:
    """Run a program in an interpreter that has loaded nothing yet, and finds what this one finds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)])
    return run_python(program, *arguments, options=("-S",), env=environment, input=stdin)


def loaded_by(program: str, *arguments: str) -> set[str]:
    """Return the modules that running `program` in a fresh interpreter loads on top of what that has anyway."""
    whole = f"import sys; before = set(sys.modules)\n{program}\nafter = set(sys.modules) - before\n"
    said = fresh(whole + "import json; print(json.dumps(sorted(after)))", *arguments)
    return set(json.loads(said.splitlines()[-1]))


def below(package: str, modules: set[str]) -> set[str]:
    return {name for name in modules if name == package or name.startswith(f"{package}.")}


@pytest.fixture(scope="module")
def free() -> set[str]:
    """Return what costs a host nothing: C modules that are in the interpreter, and `os`, which every program has."""
    return {*sys.builtin_module_names, *loaded_by("import os"), *FREE}


# In the host


def test_importing_the_package_loads_nothing_else():
    """Not one module beside the package itself: names are loaded when they are used."""
    assert loaded_by("import atotelemetry") == {"__future__", "atexit", "atotelemetry"}


def test_looking_at_the_package_loads_nothing_else():
    """Neither its version nor `dir`, nor a name that it does not have."""
    program = "import atotelemetry; dir(atotelemetry); atotelemetry.__version__; getattr(atotelemetry, 'none', None)"
    assert loaded_by(program) == {"__future__", "atexit", "atotelemetry", "atotelemetry.version"}


@pytest.mark.parametrize("module", HOST_MODULES)
def test_a_module_of_the_host_loads_nothing_that_costs(module, free):
    """At import a module of the host loads what a bare interpreter has, but for a few that are loaded later."""
    loaded = loaded_by(f"import {module}")
    own = below("atotelemetry", loaded)
    assert not below("atotelemetry.sender", own)
    if module.rpartition(".")[2] in EVENTS:  # an event has loaded msgspec
        loaded -= loaded_by("import atotelemetry.wire")
        own -= {"atotelemetry.wire"}
    assert "atotelemetry.wire" not in own
    if module.rpartition(".")[2] in ("reports", "exceptions", "stack_trace"):  # the text of the first exception
        loaded -= loaded_by("import traceback")
    if module != "atotelemetry.host.arguments":  # made of `typing`
        assert loaded - own <= free
        assert not loaded & COSTLY


def test_what_an_application_imports_loads_nothing_that_costs(free):
    """The names that atopile imports, a disabled client and a decorated function: none of it pays for telemetry."""
    program = """
from atotelemetry import TelemetryClient, TelemetryConfig, capture, capture_event, capture_exception, client
assert client.disabled
assert TelemetryClient("", "").capture("built") is None
capture_event("built", {"a": 1})
with capture("start", "end"):
    pass
"""
    loaded = loaded_by(program)
    assert loaded - below("atotelemetry", loaded) <= free
    assert not loaded & (COSTLY | NETWORK)


def test_a_disabled_client_does_not_load_msgspec():
    """Whoever opted out does not even pay for the encoder."""
    program = """
import atotelemetry
client = atotelemetry.TelemetryClient("key", "http://127.0.0.1:9")
client.disabled = True
client.capture("built", distinct_id="me", properties={"a": object()})
client.capture_exception(ValueError("x"))
client.flush()
client.shutdown()
"""
    loaded = loaded_by(program)
    assert not loaded & COSTLY
    assert not below("msgspec", loaded)


CAPTURE = """
import sys
import atotelemetry
client = atotelemetry.TelemetryClient("key", sys.argv[1])
client.capture("built", distinct_id="me", properties={"a": 1})
"""


def test_a_captured_event_loads_no_network(server):
    """The first event brings msgspec and the wire; no HTTP, no TLS, no event loop, no subprocess, and no sender."""
    loaded = loaded_by(CAPTURE + "client.flush()", server.url)
    assert {"msgspec", "atotelemetry.wire"} <= loaded
    assert not loaded & (NETWORK | {"subprocess", "_posixsubprocess", "threading", "logging", "tempfile", "json"})
    assert not below("atotelemetry.sender", loaded)
    assert not below("atotelemetry.testing", loaded)
    server.wait_for_events(1)


def test_further_events_load_nothing(server):
    """What the first event loaded serves all after it."""
    program = (
        CAPTURE
        + """
first = set(sys.modules)
for number in range(50):
    client.capture("built", distinct_id="me", properties={"text": "x", "number": number, "list": [1.5, None]})
assert set(sys.modules) == first, set(sys.modules) - first
client.flush()
"""
    )
    loaded_by(program, server.url)
    server.wait_for_events(51)


def test_no_kind_of_event_and_no_end_loads_the_network(server):
    """Odd values, exceptions, contexts, flush, shutdown and exit: none of it brings an HTTP stack into the host."""
    program = (
        CAPTURE
        + """
client.capture("odd", properties={"a": object(), "b": {1, 2}}, context={"k": 1}, timestamp="2026-01-02")
client.capture_exception(ValueError("x"))
client.flush(10, delivered=True)
client.shutdown()
"""
    )
    loaded = loaded_by(program, server.url)
    assert not loaded & (NETWORK | {"subprocess", "logging", "threading"})
    assert not below("atotelemetry.sender", loaded)
    server.wait_for_events(3)


def test_the_feeders_thread_never_becomes_pythons_main_thread(server, tmp_path):
    """Until Python 3.12 that is whichever thread imports `threading` first, and the exit waits for it for ever.

    Here with all that makes the feeder import something: common values, a network that failed, losses to report, a
    sender that dies, and a full pipe.
    """
    program = """
import _thread, os, sys
elsewhere = []
main = _thread.get_ident()
sys.addaudithook(lambda event, args: event == "import" and _thread.get_ident() != main and elsewhere.append(args[0]))
import atotelemetry
os.makedirs(os.path.join(os.environ["XDG_CACHE_HOME"], "tool"))
client = atotelemetry.TelemetryClient(
    "key", sys.argv[1], app="tool", on_error=print, queue_size=5000, properties={"path": {object()}, "when": 1.5}
)
for number in range(1000):
    client.capture("built", distinct_id="me", properties={"text": "x" * 2000})
assert client.flush(30)
client.capture("late", distinct_id="me")
client.flush(30, delivered=True)
assert not {"threading", "subprocess", "logging"} & set(sys.modules)
assert "threading" not in elsewhere
import threading
assert threading._main_thread.ident == main
"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        fresh(program, server.url)
    server.wait_for_events(1001)


def test_the_exit_of_a_host_loads_nothing():
    """Nothing is imported while the interpreter shuts down: half of it may be gone, and it would cost time."""
    program = """
import atexit, sys
atexit.register(lambda: print(sorted(set(sys.modules) - before), flush=True))  # runs after ours
import atotelemetry
client = atotelemetry.TelemetryClient("key", "http://127.0.0.1:9", sender_deadline=1)
client.capture("built", distinct_id="me")
client.flush()
before = set(sys.modules)
client.capture("late", distinct_id="me")
"""
    assert fresh(program) == "[]\n"


# In the sender


def test_the_sender_loads_nothing_of_the_host(server):
    """A whole life of a sender, greeting, enriching, delivering: its own folder and the parts below it."""
    program = """
import sys
before = set(sys.modules)
from atotelemetry.sender.__main__ import main
assert main([]) == 0
after = set(sys.modules) - before
import json
print(json.dumps(sorted(after)))
"""
    stream = [
        {
            "type": "hello",
            "protocol": 1,
            "api_key": "key",
            "host": server.url,
            "run_properties": ["ci_provider", "email"],
        },
        {"event": "first"},
        {"event": "second", "properties": {"a": 1}},
        {"type": "end"},
    ]
    said = fresh(program, stdin="".join(json.dumps(line) + "\n" for line in stream))
    loaded = set(json.loads(said))
    own = below("atotelemetry", loaded)
    shared = {*(f"atotelemetry{name}" for name in ("", ".wire", ".ids", ".version")), *below("atotelemetry.facts", own)}
    assert own <= {*shared, *below("atotelemetry.sender", own)}
    assert {"httpx", "atotelemetry.sender.delivery", "atotelemetry.facts.git"} <= loaded
    assert not loaded & {"asyncio", "click", "rich", "yaml"}, "what nobody there calls"
    assert len(server.events) == 2


def test_a_sender_without_proxies_and_tls_loads_nothing_for_them(server, monkeypatch):
    """Each module is a part of a per cent of a sender's CPU. What was loaded is not searched for garbage again."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    program = """
import gc, json, sys
from atotelemetry.sender.__main__ import main
assert main(["--host", sys.argv[1], "--api-key", "k"]) == 0
needless = {"queue", "truststore", "atotelemetry.sender.proxy", "atotelemetry.sender.certificates"}
print(json.dumps([sorted(needless & set(sys.modules)), gc.isenabled(), gc.get_freeze_count() > 10_000]))
"""
    said = fresh(program, server.url, stdin='{"event": "first"}\n')
    assert json.loads(said) == [[], True, True]


def test_a_sender_with_nothing_to_send_does_not_load_httpx():
    """A stream without events ends without the cost of an HTTP library."""
    program = """
import sys
from atotelemetry.sender.__main__ import main
assert main([]) == 0
print(sorted({"httpx", "ssl", "truststore"} & set(sys.modules)))
"""
    assert fresh(program, stdin='{"type":"end"}\n') == "[]\n"


def test_the_wire_loads_nothing_of_either_side():
    """Both processes use it, so it knows neither, and no network."""
    loaded = loaded_by("import atotelemetry.wire")
    assert below("atotelemetry", loaded) == {"atotelemetry", "atotelemetry.ids", "atotelemetry.wire"}
    assert not loaded & NETWORK


# In the source


def imports_of(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere in it, in functions and for type checkers, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_only_one_file_knows_httpx():
    """The HTTP library stays replaceable."""
    knowing = [path.name for path in FILES if any(name.partition(".")[0] == "httpx" for name in imports_of(path))]
    assert knowing == ["connection.py"]


def test_one_file_of_the_host_starts_processes_on_each_system():
    """Everything about operating systems is in one place, and Windows' part beside it."""
    words = ("posix_spawn", "CreateProcess(", "subprocess.Popen", "os.fork(", "os.system", "popen(")
    texts = {path.name: path.read_text("utf-8") for path in FILES if path.parent.name == "host"}
    knowing = [name for name, text in texts.items() if any(word in text for word in words)]
    assert knowing == ["spawn.py", "spawn_windows.py"]
