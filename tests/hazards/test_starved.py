"""Hosts that ran out of something: events may be lost, but the host's own work, output and exit code stay as they were.

Each host here prints what it found out about itself, and ends with an exit code of its own.
"""

from __future__ import annotations

import functools
import itertools
import os
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import pytest

from support_hosts import needs_senders

if TYPE_CHECKING:
    from pathlib import Path

    from support_hosts import Finished, Hosts

pytestmark = needs_senders

EXIT_CODE = 5

# Whatever became of the events, the counts say so; then the host's own end.
OWN_END = """
stats = client.stats
assert stats.captured == stats.handed_over + stats.dropped and stats.queued == 0, stats
say("host done")
sys.exit(5)
"""

# The limit under test binds.
NO_THREAD = """
def assert_no_thread():
    try:
        threading.Thread(target=print).start()
    except RuntimeError:
        return
    sys.exit("a thread could be started")
"""


def assert_unaffected(done: Finished) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_CODE, "host done\n", "")


# ---- descriptors


@pytest.mark.posix("limits of a process")
@pytest.mark.parametrize("loaded", [False, True], ids=["first event", "later event"])
@pytest.mark.parametrize("spare", range(5))
def test_no_file_descriptors_left(hosts: Hosts, spare: int, loaded: bool) -> None:
    """The host has used up its file descriptors, all or all but a few; later it closes some, and telemetry works."""
    source = f"""
import resource
from atotelemetry.host import transport
transport.MAX_FAILURES = 1000  # on a busy machine the descriptors may be missing for longer than three attempts take
client = new_client()
if {loaded}:
    client.capture("earlier", distinct_id="me")
    assert client.flush(20)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
taken = []
try:
    while True:
        taken.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for _ in range({spare}):
    os.close(taken.pop())
client.capture("starved", distinct_id="me", properties={{"odd": object}})
client.flush(0.05)
for descriptor in taken:
    os.close(descriptor)
client.capture("fed again", distinct_id="me")
client.flush(20)
"""
    assert_unaffected(hosts.run(source + OWN_END, options=("-X", "dev", "-W", "error")))
    hosts.server.wait_for_events(1 + loaded)
    hosts.wait_until_no_sender()
    assert hosts.arrived()["fed again"] == 1


@pytest.mark.posix("limits of a process")
def test_no_file_descriptors_for_good(hosts: Hosts) -> None:
    """No descriptor for a pipe comes free again: events are dropped with the reason, at no cost to the host."""
    source = """
import resource
client = new_client()
client.capture("earlier", distinct_id="me")
assert client.flush(20)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
started = time.monotonic()
for _ in range(100):
    client.capture("starved", distinct_id="me")
assert time.monotonic() - started < 1
assert client.flush(delivered=True) is False
stats = client.stats
assert stats.dropped_by_reason == {"no sender": 100}, stats
assert not client.disabled
"""
    assert_unaffected(hosts.run(source + OWN_END))
    hosts.assert_arrived_once("earlier")


@pytest.mark.posix("limits of a process")
def test_descriptors_come_free_again_much_later(hosts: Hosts) -> None:
    """A shortage that outlasts every attempt ends nothing: with descriptors to be had, the next event arrives."""
    source = """
import resource
before = resource.getrlimit(resource.RLIMIT_NOFILE)
client = new_client()
client.capture("earlier", distinct_id="me")
assert client.flush(20)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
for number in range(3):
    client.capture("starved", distinct_id="me")
    assert client.flush() is False
resource.setrlimit(resource.RLIMIT_NOFILE, before)
client.capture("later", distinct_id="me")
assert client.flush(20)
assert client.stats.dropped_by_reason == {"no sender": 3}, client.stats
"""
    assert_unaffected(hosts.run(source + OWN_END))
    hosts.assert_arrived_once("earlier", "later")


@pytest.mark.posix("a shell closes descriptors")
@pytest.mark.parametrize("closed", [c for n in (1, 2, 3) for c in itertools.combinations((0, 1, 2), n)], ids=str)
def test_standard_streams_closed(hosts: Hosts, tmp_path: Path, closed: tuple[int, ...]) -> None:
    """A host without stdin, stdout or stderr: events arrive, and files that it opens in their place stay its own."""
    source = """
client = new_client()
client.capture("before", distinct_id="me")
handed_over(client, 1)
for descriptor in map(int, sys.argv[2:]):
    try:
        os.fstat(descriptor)
        sys.exit(f"{descriptor} is open: what somebody prints would end up there")
    except OSError:
        pass
own = [open(f"{sys.argv[1]}/own{number}", "w+b", buffering=0) for number in range(3)]
client.capture("between", distinct_id="me")
assert client.flush(20)
client.capture("after", distinct_id="me")
assert client.flush(20)
for number, file in enumerate(own):
    file.write(b"own %d" % number)
    file.seek(0)
    assert file.read() == b"own %d" % number
    file.close()
sys.exit(5)
"""
    own = tmp_path / "own"
    own.mkdir()
    closing = "".join(f" {descriptor}{'<' if descriptor == 0 else '>'}&-" for descriptor in closed)
    script = hosts.command(source, str(own), *map(str, closed), options=("-X", "dev"))
    command = ["/bin/sh", "-c", f'exec "$@"{closing}', "sh", *script]
    hosts.start_command(command).assert_ends(EXIT_CODE)
    hosts.assert_arrived_once("before", "between", "after")
    assert sorted(file.read_text() for file in own.iterdir()) == ["own 0", "own 1", "own 2"]


@pytest.mark.parametrize("moment", ["while a sender runs", "flush", "exit"])
def test_host_that_closes_every_descriptor(hosts: Hosts, tmp_path: Path, moment: str) -> None:
    """A host that closes all descriptors, as daemons do, and opens files: no event and no close ends up in those."""
    source = f"""
client = new_client()
client.capture("before", distinct_id="me")
handed_over(client, 1)
os.closerange(3, 64)
own = [open(f"{{sys.argv[1]}}/own{{number}}", "w+b", buffering=0) for number in range(20)]
if {moment!r} == "while a sender runs":
    client.capture("after", distinct_id="me")
    handed_over(client, 2)
if {moment!r} == "flush":
    assert client.flush(20)
if {moment!r} == "exit":
    assert client.shutdown(20)
for number, file in enumerate(own):
    file.write(b"own")
    file.seek(0)
    assert file.read() == b"own", number
    file.close()
"""
    own = tmp_path / "own"
    own.mkdir()
    assert_unaffected(hosts.run(source + OWN_END, str(own)))
    hosts.assert_arrived_once("before", *["after"] * (moment == "while a sender runs"))


def test_no_null_device(hosts: Hosts) -> None:
    """A container without /dev/null, /dev/urandom and the like."""
    source = """
assert not os.path.exists("/dev/null")
client = new_client()
client.capture("one", distinct_id="me")
handed_over(client, 1)
client.capture("two", distinct_id="me", properties={"odd": object})
assert client.flush(20, delivered=True)
"""
    inside = 'mount -t tmpfs tmpfs /dev && exec "$@"'
    done = hosts.run_command([*UNSHARE, "/bin/sh", "-c", inside, "sh", *hosts.command(source + OWN_END)])
    assert_unaffected(done)
    hosts.assert_arrived_once("one", "two")


UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


@functools.cache
def can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], check=False, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


test_no_null_device = pytest.mark.skipif("not can_unshare()", reason="mount namespaces are not allowed here")(
    test_no_null_device
)


# ---- processes, threads, memory

# A root's limit of processes does not bind. So become somebody who has no other process, who may still read what
# belongs to root: the interpreter may be in its home.
SETPRIV = ("setpriv", "--clear-groups", "--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override")
SOMEBODY = (*SETPRIV, "--reuid", str(1_000_000_000 + os.getpid())) if os.name == "posix" and os.getuid() == 0 else ()


@functools.cache
def limit_binds() -> bool:
    """Whether we are somebody whom the process limit binds, or can be: not where root is root of a container only."""
    try:
        return not SOMEBODY or subprocess.run([*SOMEBODY, "true"], check=False).returncode == 0
    except OSError:
        return False


needs_process_limit = pytest.mark.skipif("not limit_binds()", reason="the process limit does not bind root")


@pytest.mark.posix("limits of a process")
@needs_process_limit
@pytest.mark.parametrize("moment", ["before the first event", "after the first event"])
def test_process_limit_reached(hosts: Hosts, moment: str) -> None:
    """RLIMIT_NPROC is reached: no thread and no process can be started, and the host goes on."""
    source = f"""
import resource
client = new_client()
if {moment!r} == "after the first event":
    client.capture("earlier", distinct_id="me")
    assert client.flush(20, delivered=True)
resource.setrlimit(resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
assert_no_thread()
for _ in range(10):
    client.capture("starved", distinct_id="me")
assert client.flush(2) is False
assert client.flush(2, delivered=True) is False
"""
    done = hosts.run_command([*SOMEBODY, *hosts.command(NO_THREAD + source + OWN_END)])
    assert_unaffected(done)
    if moment == "after the first event":
        hosts.assert_arrived_once("earlier")


@pytest.mark.posix("a stack that is too large")
def test_no_memory_for_a_thread(hosts: Hosts) -> None:
    """No thread can be started: the events wait for a flush, or for the end, and arrive."""
    source = """
threading.stack_size(1 << 46)
client = new_client()
for name in ("one", "two"):
    assert client.capture(name, distinct_id="me")
assert client.stats.queued == 2
assert client.flush() is True
client.capture("three", distinct_id="me")
threading.stack_size(0)
"""
    end = OWN_END.replace("stats.queued == 0", "stats.queued <= 1").replace("stats.dropped", "stats.queued")
    assert_unaffected(hosts.run(source + end, options=("-X", "dev", "-W", "error")))
    hosts.assert_arrived_once("one", "two", "three")


@pytest.mark.posix("limits of a process")
def test_address_space_exhausted(hosts: Hosts) -> None:
    """The host is at the limit of its address space (`ulimit -v`): a thread's stack does not fit any more."""
    source = """
import datetime, resource
import msgspec, atotelemetry.wire
client = new_client()
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 20), hard))
assert_no_thread()
for number in range(3):
    assert client.capture("starved", distinct_id="me", properties={"odd": object, "number": number})
assert client.stats.queued == 3
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
assert client.flush(20)
"""
    assert_unaffected(hosts.run(NO_THREAD + source + OWN_END, options=("-X", "dev", "-W", "error")))
    hosts.assert_arrived_once(*["starved"] * 3)


# ---- files and directories

PLAIN = """
client = new_client()
client.capture("arrived", distinct_id="me", properties={"odd": object})
assert client.flush(20)
"""


PLACES = ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "TMPDIR")
PLACES = (*PLACES, "USERPROFILE", "APPDATA", "LOCALAPPDATA", "TEMP", "TMP")  # Windows'
NOT_ON_WINDOWS = pytest.mark.posix("names that Windows does not allow")


@pytest.mark.parametrize("place", ["missing", "a file", "unset", "not writable"])
def test_no_home_and_no_temp_directory(hosts: Hosts, tmp_path: Path, place: str) -> None:
    """HOME, XDG_CONFIG_HOME and TMPDIR are missing, unset, no directories, or nothing can be written there."""
    (tmp_path / "file").touch()
    path = {"missing": str(tmp_path / "nowhere"), "a file": str(tmp_path / "file")}
    path["not writable"] = "/proc/self" if os.path.isdir("/proc/self") else "Q:\\nowhere"
    if place == "unset":
        for name in (*PLACES, "PATH"):
            hosts.environment.pop(name, None)
    else:
        hosts.environment |= dict.fromkeys(PLACES, path[place])
    assert_unaffected(hosts.run(PLAIN + OWN_END))
    if place == "unset":  # the account's own home would be found
        hosts.assert_arrived_once("arrived")
        return
    assert_unaffected(hosts.run(APPLICATION + OWN_END))
    hosts.assert_arrived_once("arrived", "application")
    (sent,) = (event for event in hosts.server.events if event["event"] == "application")
    assert uuid.UUID(sent["distinct_id"])


APPLICATION = """
from atotelemetry import Telemetry
telemetry = Telemetry(app="host", notice=None, api_key="phc_test", host=os.environ["TEST_SERVER"], run_properties=())
telemetry.capture_event("application")
client = telemetry.client
assert client.flush(20)
"""


@pytest.mark.parametrize("log", ["/dev/full", "/nowhere/log", "/proc/self/log", "/"])
def test_log_that_cannot_be_written(hosts: Hosts, log: str) -> None:
    """ATO_TELEMETRY_LOG names a full disk, or no place for a file: events arrive, and nobody hears of it."""
    assert_unaffected(hosts.run(PLAIN + OWN_END, environment={"ATO_TELEMETRY_LOG": log}))
    hosts.assert_arrived_once("arrived")


@pytest.mark.posix("limits of a process")
def test_disk_full(hosts: Hosts) -> None:
    """No byte can be written to any file (RLIMIT_FSIZE): pipes and sockets are none."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    assert_unaffected(hosts.run(limit + PLAIN + OWN_END))
    hosts.assert_arrived_once("arrived")


@pytest.mark.parametrize(
    "name",
    [
        "äöü ☃".encode(),
        *(pytest.param(name, marks=NOT_ON_WINDOWS) for name in (b"\xff\xfe", b"a:b", b"new\nline", b"quote\"'")),
    ],
    ids=repr,
)
def test_working_directory_with_an_odd_name(hosts: Hosts, tmp_path: Path, name: bytes) -> None:
    """The host works in a directory whose name is no UTF-8, or full of what other programs trip over."""
    directory = os.path.join(os.fsencode(tmp_path), name)
    os.mkdir(directory)
    command = hosts.command(PLAIN.replace("new_client()", "new_client(run_properties=('project_id',))") + OWN_END)
    assert_unaffected(hosts.run_command(command, cwd=os.fsdecode(directory)))
    hosts.assert_arrived_once("arrived")


@pytest.mark.posix("environments in bytes")
def test_empty_environment(hosts: Hosts) -> None:
    """A host that is started with nothing in its environment, as by cron or `env -i`, and that adds odd things."""
    source = "os.environb[b'\\xff'] = b'\\xff\\xfe'\nos.environ['EMPTY'] = ''\n" + PLAIN + OWN_END
    for name in list(hosts.environment):
        if not name.startswith(("TEST_", "ATO_HAZARD_")) and (name != "PYTHONPATH"):
            del hosts.environment[name]
    assert_unaffected(hosts.run_command([sys.executable, *hosts.command(source)[1:]]))
    hosts.assert_arrived_once("arrived")
