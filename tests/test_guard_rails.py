"""What the path of an event may cost, in things that can be counted: no stopwatch, so no noise.

`tests/bench/` says how fast it is; these tests say why, and fail when somebody makes it heavier: a module more in the
host, a write for each event, a request for each event, a lock, a copy. A change that is worth more than it costs may
raise a limit here, with its reason.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
from typing import TYPE_CHECKING

import support_processes
from atotelemetry import wire
from atotelemetry.host import child, feeder, spawn, stream, transport
from support_hosts import needs_proc
from support_processes import run_python, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

PROPERTIES = {"command": "build", "ok": True, "targets": 3}
TEN = {**PROPERTIES, "a": 1.5, "b": None, "c": "text", "d": [1, 2], "e": {"f": "g"}, "h": 10**12, "i": "é"}

# A fresh interpreter may have loaded these already, depending on how it was installed; they cost next to nothing.
FREE = {"__future__", "_queue", "_weakref", "atexit", "gc", "itertools", "errno", "_xxsubinterpreters"}
# What only the first event needs of ours, or only an application's own `Telemetry`.
AT_AN_EVENT = {"atotelemetry.wire", "atotelemetry.facts.breaker", "atotelemetry.host.event"}
OF_AN_APPLICATION = ("consent", "choice", "choice_yaml", "telemetry", "block", "exceptions", "properties")
# What no command-line program should find in its process because of us.
NOT_IN_A_HOST = {"asyncio", "httpcore", "httpx", "json", "logging", "socket", "ssl", "subprocess", "threading"}


def loaded_by(code: str, *arguments: str, stdin: str = "") -> set[str]:
    """Return the modules that `code` loads in a fresh interpreter."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*sorted(set(sys.modules) - before))"
    return set(run_python(script, *arguments, input=stdin).split())


def ours(modules: set[str]) -> set[str]:
    """Return those that a client without an application may load: of the host, and of what lies below it."""
    host = {m for m in modules if m.startswith("atotelemetry.host")}
    host -= {f"atotelemetry.host.{name}" for name in OF_AN_APPLICATION}
    below = ("wire", "ids", "version", "facts", "facts.address", "facts.breaker", "facts.run", "facts.text")
    return host | ({"atotelemetry", *(f"atotelemetry.{name}" for name in below)} & modules)


# ---- imports


def test_importing_the_package_loads_nothing_else():
    """`import atotelemetry` is one file."""
    assert loaded_by("import atotelemetry") - FREE == {"atotelemetry"}


def test_making_a_client_loads_our_few_modules_and_nothing_of_the_library():
    """A client that captures nothing costs a few small modules of ours; msgspec comes with the first event."""
    code = "import atotelemetry\natotelemetry.TelemetryClient('key', 'http://127.0.0.1:9')"
    loaded = loaded_by(code) - FREE
    assert ours(loaded) == loaded
    assert not loaded & AT_AN_EVENT


def test_an_event_loads_msgspec_and_nothing_else_into_the_host(server):
    """From import to hand-over, the host loads our modules, the core of msgspec and what that cannot do without."""
    code = """if True:
        from atotelemetry import TelemetryClient
        client = TelemetryClient('key', sys.argv[1])
        assert client.capture('built', distinct_id='me', properties={'ok': True})
        assert client.flush(20.0)
    """
    loaded = loaded_by(code, server.url)
    of_msgspec = loaded_by("import msgspec")
    assert ours(loaded) == loaded - FREE - of_msgspec
    assert not loaded & {*NOT_IN_A_HOST, "typing_extensions", "inspect"}
    assert {name for name in loaded if name.startswith("msgspec")} == {"msgspec", "msgspec._core", "msgspec._utils"}
    assert server.wait_for_events(1)


def test_only_the_first_event_of_a_host_imports_anything(server):
    """Later events run no import statement, open no file and start no program on the thread that captures."""
    code = """if True:
        import builtins, threading
        from atotelemetry import TelemetryClient
        client = TelemetryClient('key', sys.argv[1])
        client.capture('first', distinct_id='me', properties={'ok': True})
        here, seen, original = threading.get_ident(), [], builtins.__import__
        def count(name, *rest):
            if threading.get_ident() == here:
                seen.append(f'import {name}')
            return original(name, *rest)
        def listen(event, arguments):
            if counting and threading.get_ident() == here:
                seen.append(event)
        counting = False
        sys.addaudithook(listen)
        builtins.__import__ = count
        counting = True
        for _ in range(100):
            client.capture('later', distinct_id='me', properties={'ok': True, 'n': 1.5, 'list': ['a', {'b': None}]})
        counting = False
        builtins.__import__ = original
        client.flush(20.0)
        assert seen == [], seen
    """
    loaded_by(code, server.url)
    assert server.wait_for_events(101)


def test_the_sender_loads_what_it_needs_to_post_and_no_command_line_or_event_loop(server):
    """Delivering one event loads httpx and its four libraries; neither its command line nor asyncio, nor the host's."""
    code = """if True:
        from atotelemetry.sender.__main__ import main
        assert main(['--host', sys.argv[1], '--api-key', 'key']) == 0
        # httpx's command line is kept out also where click and rich, which it would load, are not installed.
        assert sys.modules['httpx._main'] is None
    """
    loaded = loaded_by(code, server.url, stdin='{"event": "built", "distinct_id": "me", "properties": {"a": 1}}\n')
    ours_and_theirs = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    # httpcore looks whether anyio is there, and loads no more than its empty entrance.
    needed = {"atotelemetry", "msgspec", "httpx", "httpcore", "h11", "idna", "certifi", "anyio"}
    # msgspec, anyio and httpcore take these along where they are installed, and `traceback` the last one on 3.15.
    assert (
        ours_and_theirs - {"typing_extensions", "sniffio", "exceptiongroup", "socksio", "_missing_stdlib_info"}
        <= needed
    )
    assert not {name for name in loaded if name.startswith("atotelemetry.host")}
    assert not loaded & {"asyncio", "concurrent.futures", "subprocess", "click", "rich", "pygments", "truststore"}
    assert len(server.wait_for_events(1)) == 1


# ---- system calls, processes, requests


@contextlib.contextmanager
def counted_writes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Collect what is written to senders, one entry for each call of write(2)."""
    writes: list[bytes] = []
    write = child.Sender.write

    def counted(sender: child.Sender, data: bytes) -> int:
        taken = write(sender, data)
        writes.append(bytes(data[:taken]))
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(child.Sender, "write", counted)
        yield writes


@contextlib.contextmanager
def queued_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Refuse every new thread of a feeder, so that events wait in the queue."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(feeder, "start_new_thread", refuse)
        yield


def test_a_full_queue_leaves_in_a_handful_of_writes(server, new_client, monkeypatch):
    """256 queued events go out by the pipe's capacity, not one by one: with the greeting and the end, a few calls."""
    client = new_client(server.url)
    with counted_writes(monkeypatch) as writes:
        with queued_up(monkeypatch):
            for _ in range(256):
                assert client.capture("queued", distinct_id="me", properties={"n": 1})
        assert client.flush(20.0)
    assert sum(data.count(b'"queued"') for data in writes) == 256
    assert len(writes) <= 5, [len(data) for data in writes]
    assert len(server.wait_for_events(256)) == 256


def test_a_run_of_two_events_is_three_writes(server, new_client, monkeypatch):
    """The greeting leaves with the first event; then comes the second event, and the end."""
    client = new_client(server.url)
    with counted_writes(monkeypatch) as writes:
        client.capture("run started", distinct_id="me", properties=PROPERTIES)
        wait_until(lambda: client.stats.handed_over)
        client.capture("run ended", distinct_id="me", properties=PROPERTIES)
        assert client.flush(20.0)
    assert [data.count(b"\n") for data in writes] == [2, 1, 1]


def test_a_run_of_many_events_starts_one_sender(server, new_client, monkeypatch):
    """However many events a run captures, it starts one process."""
    started: list[object] = []
    monkeypatch.setattr(transport, "start_sender", lambda **options: started.append(1) or spawn.start_sender(**options))
    client = new_client(server.url)
    for _ in range(20):
        client.capture("one of many", distinct_id="me", properties=PROPERTIES)
    assert client.flush(20.0, delivered=True)
    assert len(started) == 1
    assert len(server.events) == 20


def test_a_thousand_events_are_a_few_requests_on_one_connection(server, new_client, monkeypatch):
    """What waits together is posted together, over one connection."""
    client = new_client(server.url, queue_size=1000)
    with queued_up(monkeypatch):
        for _ in range(1000):
            assert client.capture("bulk", distinct_id="me", properties=PROPERTIES)
    assert client.flush(30.0, delivered=True)
    assert len(server.events) == 1000
    assert len(server.requests) <= 5
    assert server.connection_count == 1


def test_two_events_of_a_short_run_are_one_request(server, new_client):
    """The usual run, one event at its start and one at its end, costs the server one request."""
    client = new_client(server.url)
    client.capture("run started", distinct_id="me", properties=PROPERTIES)
    client.capture("run ended", distinct_id="me", properties=PROPERTIES)
    assert client.flush(20.0, delivered=True)
    assert [len(request.events) for request in server.requests] == [2]


# ---- descriptors and threads


@needs_proc
def test_a_host_holds_two_descriptors_and_one_thread_from_its_first_event_until_the_last_is_answered(server):
    """A client without events holds nothing; a fed one two pipes' ends and the feeder; after a shutdown nothing."""
    code = """if True:
        import os, time
        from atotelemetry import TelemetryClient
        def held():
            return len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))
        def wait_for(what):
            ends_at = time.monotonic() + 30.0
            while not what():
                assert time.monotonic() < ends_at, (held(), bare, client.stats)
                time.sleep(0.002)
        bare = held()
        client = TelemetryClient('key', sys.argv[1])
        assert held() == bare
        for _ in range(200):
            client.capture('built', distinct_id='me', properties={'ok': True})
        wait_for(lambda: client.stats.handed_over == 200)
        assert held() == (bare[0] + 2, bare[1] + 1)
        assert client.flush(20.0, delivered=True)
        client.shutdown(20.0)
        wait_for(lambda: held() == bare)
    """
    loaded_by(code, server.url)
    assert len(server.events) == 200


@needs_proc
def test_a_sender_has_five_threads_and_seven_descriptors(server, new_client):
    """The threads: main, reader, SIGTERM's, lane, connection. The socket is open twice, to be cut at will."""
    client = new_client(server.url)
    client.capture("built", distinct_id="me", properties=PROPERTIES)
    assert server.wait_for_events(1)
    (sender,) = support_processes.senders()
    assert len(os.listdir(f"/proc/{sender}/task")) <= 5
    assert len(os.listdir(f"/proc/{sender}/fd")) <= 7


# ---- the work of one capture


def test_one_capture_is_a_few_calls(new_client):
    """The number of function calls that one capture makes, in Python and in C, stays what it is."""
    client = new_client()
    calls: list[str] = []

    def note(frame, event, function):
        if event == "call":
            calls.append(frame.f_code.co_name)
        elif event == "c_call" and function is not sys.setprofile:
            calls.append(function.__name__)

    client.capture("first", distinct_id="me", properties=TEN)
    sys.setprofile(note)
    client.capture("later", distinct_id="me", properties=TEN)
    sys.setprofile(None)
    # capture, uuid (time, next), now, encode, count, put (qsize, put), and setprofile itself; a copy of each of three
    # containers, and two looks at the size of the dicts; and the lengths of the line, the names and the texts.
    assert len(calls) <= 36, calls
    assert len([name for name in calls if name != "len"]) <= 21, calls


def test_a_queued_event_keeps_nothing_but_its_line(new_client, monkeypatch):
    """While it waits, an event is one block of memory, its encoded line; the values it was made of are let go."""
    client = new_client(queue_size=3000)
    client.capture("first", distinct_id="me", properties=TEN)
    with quiet_collector(), queued_up(monkeypatch):
        # Ends the feeder's thread, once its sender has ended: from here on everything waits.
        client.flush(20.0, delivered=True)
        client.shutdown(20.0)
        wait_until(client._feeder.is_over)
        client.disabled = False
        before = sys.getallocatedblocks()
        for _ in range(1000):
            client.capture("waiting", distinct_id="me", properties=TEN)
        kept = sys.getallocatedblocks() - before
    assert client.stats.queued == 1000
    # The interpreter keeps up to eighty dicts and as many lists that it has freed.
    assert kept < 1000 * 1.05 + 200, kept / 1000


def test_an_event_that_has_left_leaves_nothing_behind(new_client, monkeypatch):
    """Memory does not grow with the number of events that were handed over."""
    monkeypatch.setattr(stream.Stream, "network_pause", lambda _: 0.0)  # there is no server, for many senders in a row
    client = new_client(queue_size=1000, max_retries=0)

    def cycle() -> None:
        for _ in range(500):
            client.capture("passing", distinct_id="me", properties=TEN)
        assert client.flush(20.0), client.stats

    cycle()
    with quiet_collector():
        before = sys.getallocatedblocks()
        cycle()
        left = sys.getallocatedblocks() - before
    assert client.stats.handed_over == 1000
    # What a flush leaves for a while is its sender's record, until that is reaped; and see above.
    assert left < 500 * 0.2 + 200, left / 500


def test_an_event_on_the_wire_is_its_properties_and_little_more():
    """Names and fixed fields add at most 200 bytes to an event's properties and name."""
    event = wire.OutgoingEvent("0" * 36, "built", "1" * 36, "2026-01-01T00:00:00.000000Z", PROPERTIES)
    line = wire.encode(event)
    assert len(line) - len(json.dumps(PROPERTIES, separators=(",", ":"))) - len("built") <= 200


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """Keep the garbage collector from running in the middle of a count of blocks."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
