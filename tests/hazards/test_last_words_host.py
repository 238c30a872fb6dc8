"""A host with `report_crash` and `report_hang_after` lives, forks and dies exactly as it would without them."""

from __future__ import annotations

import signal

import pytest

from support_hosts import hosts_in, needs_proc
from support_processes import go_on, kill

pytestmark = [needs_proc, pytest.mark.posix("signals, forks, and dumps in a pipe")]

WATCHED = """
import ctypes, faulthandler
from atotelemetry import Telemetry

def new_telemetry(**settings):
    known = {"api_key": "phc_test", "notice": None, "report_crash": True, "report_hang_after": 60.0}
    known |= {"sender_deadline": 10.0, **settings}
    return Telemetry(app="host", app_version="1", host=os.environ["TEST_SERVER"], **known)

def open_files():
    names = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sorted(os.readlink(name) for name in names if os.path.lexists(name))  # but the listing's own

def segfault():
    ctypes.string_at(0)

"""

ENDS = {
    "segfault": ("segfault()", -signal.SIGSEGV),
    "segfault in a thread": ("t = threading.Thread(target=segfault); t.start(); t.join()", -signal.SIGSEGV),
    "abort": ("os.abort()", -signal.SIGABRT),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", -9),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "os._exit": ("os._exit(4)", 4),
    "sys.exit": ("sys.exit(3)", 3),
    "exec": ("os.execv('/bin/sh', ['sh', '-c', 'exit 5'])", 5),
    "its end": ("", 0),
}


@pytest.fixture
def watched(tmp_path):
    """Hosts with an installation id, which is written at the first event."""
    with hosts_in(tmp_path / "hosts", may_choose=True) as started:
        started.preamble += WATCHED
        yield started


@pytest.mark.parametrize(("end", "code"), ENDS.values(), ids=ENDS)
def test_a_host_ends_as_ever(watched, end, code):
    """The same signal or exit code, and not a word on its terminal."""
    watched.assert_runs(
        "telemetry = new_telemetry()\ntelemetry.capture_event('built')\ntelemetry.flush()\n" + end,
        returncode=code,
    )
    watched.server.wait_for_events(1)


@pytest.mark.parametrize("option", ["True", "False"])
def test_a_core_is_dumped_as_ever(watched, option):
    """Whatever the system does with cores, the kernel says so in the exit status."""
    watched.assert_runs(
        f"""
import resource
pid = os.fork()
if not pid:
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    telemetry = new_telemetry(report_crash={option})
    telemetry.capture_event("built")
    telemetry.flush()
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    segfault()
with_it = os.waitpid(pid, 0)[1]
pid = os.fork()
if not pid:
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
    segfault()
assert os.waitpid(pid, 0)[1] == with_it, with_it
for name in os.listdir("."):
    os.unlink(name)  # a core
"""
    )
    watched.server.wait_for_events(1)


def test_nothing_before_the_first_event(watched):
    """A run that captures nothing has no handler, no pipe and no thread of ours."""
    watched.assert_runs(
        """
before = open_files()
telemetry = new_telemetry()
assert telemetry.flush()
assert not faulthandler.is_enabled()
assert open_files() == before
assert len(os.listdir("/proc/self/task")) == 1
""",
        arrived=[],
    )


@pytest.mark.parametrize(
    ("environment", "settings"),
    [({"DO_NOT_TRACK": "1"}, ""), ({"CI": "1"}, ""), ({}, "sample_rate=0"), ({}, "api_key=''")],
    ids=["opted out", "in CI", "not in the sample", "no key"],
)
def test_a_no_enables_nothing(hosts, environment, settings):
    """Who is not measured has no handler, no pipe, no thread, and not even the module."""
    hosts.preamble += WATCHED
    hosts.assert_runs(
        f"""
before = open_files()
telemetry = new_telemetry({settings})
telemetry.capture_event("built")
assert telemetry.flush()
assert not faulthandler.is_enabled()
assert open_files() == before
assert len(os.listdir("/proc/self/task")) == 1
assert "atotelemetry.host.last_words" not in sys.modules
""",
        environment=environment,
        arrived=[],
    )


def test_one_sender_listens_from_the_first_event_to_the_end(watched):
    """Flushes do not end it, `delivered` has its answers all the same, and the exit lets it go."""
    host = watched.start(
        """
telemetry = new_telemetry()
files = []
for number in range(3):
    telemetry.capture_event(f"event {number}")
    assert telemetry.flush(20, delivered=True), telemetry.stats
    assert telemetry.stats.delivered == number + 1
    files.append(open_files())
assert files[0] == files[1] == files[2], files
say("flushed")
hear()
"""
    )
    assert host.hear() == "flushed"
    assert len(watched.senders()) == 1
    host.assert_ends()
    watched.assert_arrived_once("event 0", "event 1", "event 2")


def test_a_sender_that_is_killed_leaves_its_place_to_another(watched):
    """The next event starts one; the host has no more files open than before."""
    host = watched.start(
        """
telemetry = new_telemetry()
files = []
for number in range(4):
    telemetry.capture_event(f"event {number}")
    while not telemetry.flush(20, delivered=True):  # the pipe of a dying process may still have taken the event
        telemetry.capture_event(f"event {number}")
    files.append(len(open_files()))
    say("delivered")
    hear()
assert len(set(files)) == 1, files
"""
    )
    for _ in range(4):
        assert host.hear() == "delivered"
        (sender,) = watched.senders()
        kill(sender)
        watched.wait_until_no_sender()
        host.tell()
    host.assert_ends()
    assert sum(watched.arrived().values()) == 4


def test_a_dead_sender_does_not_change_how_the_host_dies(watched):
    """Also where SIGPIPE is not ignored: the dump of a crash has no reader then."""
    host = watched.start(
        """
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
telemetry = new_telemetry()
telemetry.capture_event("built")
assert telemetry.flush(20, delivered=True)
say("delivered")
hear()
segfault()
"""
    )
    assert host.hear() == "delivered"
    (sender,) = watched.senders()
    kill(sender)
    watched.wait_until_no_sender()
    host.assert_ends(-signal.SIGSEGV)


def test_a_full_pipe_does_not_hold_up_a_dying_host(watched):
    """Its sender is stopped, and the stacks of many signals fill the pipe; then it crashes, at once."""
    host = watched.start(
        """
telemetry = new_telemetry()
telemetry.capture_event("built")
assert telemetry.flush()
say("ready")
hear()
for _ in range(2000):
    os.kill(os.getpid(), signal.SIGURG)
segfault()
"""
    )
    sender = watched.stop_the_sender(host)
    host.assert_ends(-signal.SIGSEGV)
    go_on(sender)


def test_a_host_without_descriptors_has_no_dumps(watched):
    """Where the pipe cannot be replaced, nobody gets a dump who is not to; events go their way."""
    watched.assert_runs(
        """
import resource
telemetry = new_telemetry()
telemetry.capture_event("built")
telemetry.flush(20, delivered=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        os.dup(0)
except OSError:
    pass
telemetry.disabled = True
telemetry.flush(20)
assert not faulthandler.is_enabled()
segfault()
""",
        returncode=-signal.SIGSEGV,
        arrived=["built"],
    )


# A host that uses faulthandler, or the signal, itself


def test_a_host_that_enabled_faulthandler_before_keeps_it(watched):
    """Its file has the dump, and ours says at DEBUG why it stays off."""
    done = watched.run(
        """
import logging
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(message)s")
faulthandler.enable()
telemetry = new_telemetry()
telemetry.capture_event("built")
telemetry.flush()
segfault()
"""
    )
    assert done.returncode == -signal.SIGSEGV
    assert "a crash will leave no dump: the host has enabled faulthandler itself" in done.stdout
    assert done.stderr.startswith("Fatal Python error: Segmentation fault")
    watched.server.wait_for_events(1)


def test_a_host_that_enables_faulthandler_later_keeps_it(watched):
    """Through flushes, new senders and forks its file has the dump, in the child, too."""
    done = watched.run(
        """
telemetry = new_telemetry()
telemetry.capture_event("built")
telemetry.flush()
faulthandler.enable()
telemetry.disabled = True
telemetry.disabled = False
telemetry.capture_event("again")
telemetry.flush()
pid = os.fork()
if not pid:
    segfault()
os.waitpid(pid, 0)
print("parent", file=sys.stderr, flush=True)
segfault()
"""
    )
    assert done.returncode == -signal.SIGSEGV
    child, parent = done.stderr.split("parent\n")
    assert child.startswith("Fatal Python error: Segmentation fault")
    assert parent.startswith("Fatal Python error: Segmentation fault")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_host_with_a_handler_for_sigurg_keeps_it(watched, when):
    """Whether it was there before the first event or came later; also in a forked child."""
    lines = ["signal.signal(signal.SIGURG, lambda *_: say('mine'))\n", "telemetry.capture_event('built')\n"]
    watched.assert_runs(
        "telemetry = new_telemetry()\n"
        + "".join(lines if when == "before" else lines[::-1])
        + """
telemetry.flush()
os.kill(os.getpid(), signal.SIGURG)
pid = os.fork()
if not pid:
    os.kill(os.getpid(), signal.SIGURG)
    os._exit(0)
os.waitpid(pid, 0)
""",
        stdout="mine\nmine\n",
        arrived=["built"],
    )


# Forks


def test_a_child_has_nothing_of_it(watched):
    """No handler, and no pipe: a file that it opens under that number gets no dump."""
    watched.assert_runs(
        """
before = open_files()
telemetry = new_telemetry()
telemetry.capture_event("built")
pid = os.fork()
if not pid:
    assert not faulthandler.is_enabled()
    assert open_files() == before, open_files()
    mine = [os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND) for _ in range(20)]
    os.kill(os.getpid(), signal.SIGURG)
    segfault()
assert os.waitpid(pid, 0)[1] == signal.SIGSEGV, "and the core flag"
assert faulthandler.is_enabled()
assert not os.stat(sys.argv[1]).st_size
os.unlink(sys.argv[1])
""",
        str(watched.directory / "file"),
        arrived=["built"],
    )


def test_a_child_has_its_own_from_its_first_event(watched):
    """A daemon's last process is watched like any other; it and its parent have a pipe each."""
    watched.assert_runs(
        """
telemetry = new_telemetry()
telemetry.capture_event("parent")
pid = os.fork()
if not pid:
    telemetry.capture_event("child")
    assert faulthandler.is_enabled()
    assert telemetry.flush(20, delivered=True)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
""",
        arrived=["parent", "child"],
    )


@pytest.mark.parametrize(
    ("end", "after", "names"),
    [
        (100, "telemetry.capture_event('after')\nassert telemetry.flush(20)", ["before", "after"]),
        (4096, "", ["before"]),
    ],
    ids=["after another event", "at once"],
)
def test_a_dump_never_ends_up_in_a_file_of_the_host(watched, end, after, names):
    """What a host opens under our numbers stays as it is; the next event goes on through a new sender."""
    watched.assert_runs(
        f"""
telemetry = new_telemetry()
telemetry.capture_event("before")
assert telemetry.flush(20, delivered=True)
os.closerange(3, {end})
mine = [os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_APPEND) for _ in range(20)]
{after}
segfault()
""",
        str(watched.directory / "file"),
        returncode=-signal.SIGSEGV,
    )
    assert (watched.directory / "file").read_bytes() == b""
    watched.wait_until_no_sender()
    assert [watched.arrived()[name] for name in names] == [1] * len(names)


def test_the_first_of_two_has_the_dumps(watched):
    """`faulthandler` is one for the process; the other one's events arrive as ever."""
    watched.assert_runs(
        """
one, two = new_telemetry(), new_telemetry()
one.capture_event("one")
two.capture_event("two")
assert two.flush(20, delivered=True)
assert one.flush(20, delivered=True)
""",
        arrived=["one", "two"],
    )
