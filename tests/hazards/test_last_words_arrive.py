"""Whatever ends a host, or holds it up, arrives as one report; a host that ends by itself leaves none."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter

import pytest

from support_hosts import hosts_in, needs_proc

pytestmark = [needs_proc, pytest.mark.posix("signals, and a kernel that tells how a process ended")]

TIMES = int(os.environ.get("LAST_WORDS_TIMES", "10"))
"""How often a kill is tried; each clean end almost half as often."""

WATCHED = """
import ctypes, faulthandler
import atotelemetry.host.transport as transport
from atotelemetry import Telemetry

def new_telemetry(**settings):
    known = {"api_key": "phc_test", "notice": None, "report_crash": True, "properties": {"edition": "free"}, **settings}
    return Telemetry(app="host", app_version="1.5", host=os.environ["TEST_SERVER"], **known)

def segfault():
    ctypes.string_at(0)

def delivered(count):
    wait_until(lambda: telemetry.stats.delivered == count)

telemetry = new_telemetry()
telemetry.capture_event("built")
wait_until(lambda: telemetry.stats.handed_over)
"""

# How it ends, as which type it is reported, and by which function of the host, if any.
CRASHES = {
    "SIGSEGV": ("segfault()", "SIGSEGV", "segfault"),
    "SIGSEGV in a thread": ("t = threading.Thread(target=segfault); t.start(); t.join()", "SIGSEGV", "segfault"),
    "SIGSEGV after a flush": ("assert telemetry.flush(); segfault()", "SIGSEGV", "segfault"),
    "SIGSEGV after a delivery": ("assert telemetry.flush(20, delivered=True); segfault()", "SIGSEGV", "segfault"),
    "SIGSEGV after idle time": (
        "transport.FEEDER_IDLE = 0.01; telemetry.capture_event('more'); delivered(2); segfault()",
        "SIGSEGV",
        "segfault",
    ),
    "abort": ("os.abort()", "SIGABRT", "<module>"),
    "SIGBUS": ("os.kill(os.getpid(), signal.SIGBUS)", "SIGBUS", "<module>"),
    "SIGFPE": ("os.kill(os.getpid(), signal.SIGFPE)", "SIGFPE", "<module>"),
    "SIGILL": ("os.kill(os.getpid(), signal.SIGILL)", "SIGILL", "<module>"),
    "stack overflow in C": ("faulthandler._stack_overflow()", "SIGSEGV", "<module>"),
    "a destructor": (
        "class Bad:\n    def __del__(self): segfault()\nbad = Bad()\ndel bad",
        "SIGSEGV",
        "segfault",
    ),
    "after a fork": ("pid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)\nsegfault()", "SIGSEGV", "segfault"),
}

# The ends of a host that nothing is to be said of.
QUIET_ENDS = {
    "its end": "",
    "sys.exit": "sys.exit(3)",
    "an exception": "sys.stderr = open(os.devnull, 'w'); raise ValueError",
    "Ctrl-C": "sys.stderr = open(os.devnull, 'w'); os.kill(os.getpid(), signal.SIGINT); hear()",
    "os._exit": "os._exit(3)",
    "os._exit after a flush": "telemetry.flush(); os._exit(3)",
    "exec": "telemetry.flush(); os.execv('/bin/sh', ['sh', '-c', 'exit 3'])",
    "shutdown": "telemetry.shutdown(); os.kill(os.getpid(), signal.SIGKILL)",
    "shutdown and a crash": "telemetry.shutdown(); segfault()",
    "a no": "telemetry.flush(20, delivered=True); telemetry.disabled = True; telemetry.flush(20); segfault()",
    "a no, and a kill in the same moment": (
        "telemetry.flush(20, delivered=True); telemetry.disabled = True; os.kill(os.getpid(), signal.SIGKILL)"
    ),
    "a fork": "pid = os.fork()\nif not pid: os._exit(0)\nos.waitpid(pid, 0)",
    "a fork, and a kill": "if not os.fork(): os._exit(0)\nos.wait()\nos.kill(os.getpid(), signal.SIGKILL)",
    "a child that is killed": "pid = os.fork()\nif not pid: os.kill(os.getpid(), signal.SIGKILL)\nos.waitpid(pid, 0)",
    "a child that crashes": "pid = os.fork()\nif not pid: segfault()\nos.waitpid(pid, 0)",
    "a daemon": "telemetry.flush()\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\nos._exit(0)",
    "multiprocessing": """
import multiprocessing
def work(): pass
children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(2)]
for child in children: child.start()
for child in children: child.join()
""",
    "a pool, which ends its workers by SIGTERM": """
import multiprocessing
def work(_):
    telemetry.capture_event("more")
    wait_until(lambda: telemetry.stats.handed_over)
with multiprocessing.get_context("fork").Pool(2) as pool:
    pool.map(work, range(2), 1)
""",
}


@pytest.fixture
def hosts(tmp_path):
    """Hosts that may create their installation's id."""
    with hosts_in(tmp_path / "hosts", may_choose=True) as started:
        yield started


def reports(hosts):
    """Wait until all senders have ended; return the reports that arrived, beside the host's own events."""
    hosts.wait_until_no_sender()
    return [event for event in hosts.server.events if event["event"] not in ("built", "more")]


@pytest.mark.parametrize(("end", "kind", "function"), CRASHES.values(), ids=CRASHES)
def test_a_crash_arrives_with_its_stack(hosts, end, kind, function):
    """One report, of the person and the run of the events before it, and nothing on the terminal."""
    hosts.assert_runs(WATCHED + end, returncode=-signal.Signals[kind])
    (report,) = reports(hosts)
    (built,) = (event for event in hosts.server.events if event["event"] == "built")
    told, known = report["properties"], built["properties"]
    assert report["event"] == "$exception"
    assert report["distinct_id"] == built["distinct_id"]
    for name in ("run_id", "app_version", "edition", "$os"):
        assert told[name] == known[name]
    assert (told["$exception_type"], told["$exception_level"]) == (kind, "fatal")
    (described,) = told["$exception_list"]
    assert described["mechanism"]["handled"] is False
    assert described["stacktrace"]["frames"][-1]["function"] in (function, "string_at")
    assert function in [frame["function"] for frame in described["stacktrace"]["frames"]]


@pytest.mark.parametrize(
    "quiet",
    [
        "transport.FEEDER_IDLE = 0.01; telemetry.capture_event('more'); delivered(2)",
        "telemetry.flush(20, delivered=True)",
    ],
    ids=["idle time", "a flush"],
)
def test_a_kill_after_quiet_time_arrives(hosts, quiet):
    """Neither ends the sender."""
    host = hosts.start(WATCHED + quiet + "\nsay('quiet')\nhear()\n")
    assert host.hear() == "quiet"
    with pytest.raises(subprocess.TimeoutExpired):
        host.process.wait(0.2)  # a sender that has ended would be gone by then
    host.process.kill()
    host.finish()
    (report,) = reports(hosts)
    assert (report["event"], report["properties"]["outcome"]) == ("run_vanished", "killed")


@pytest.mark.parametrize("end", ["telemetry.shutdown()", "del telemetry"])
def test_the_next_one_has_the_dumps_after_the_first_has_ended(hosts, end):
    """A program may make one `Telemetry` after the other."""
    hosts.assert_runs(
        WATCHED
        + f"""
{end}
wait_until(lambda: not faulthandler.is_enabled())
telemetry = new_telemetry()
telemetry.capture_event("more")
wait_until(lambda: telemetry.stats.handed_over)
segfault()
""",
        returncode=-signal.SIGSEGV,
    )
    (report,) = reports(hosts)
    assert report["properties"]["$exception_type"] == "SIGSEGV"


def test_a_fatal_error_of_the_interpreter_arrives(hosts):
    """Its text and stack are on stderr as ever; `faulthandler` is taken away before the abort, so the kernel tells."""
    done = hosts.run(
        WATCHED
        + """
class Bad:
    def __del__(self):
        ctypes.pythonapi.Py_FatalError(b"a bad destructor")
bad = Bad()
del bad
"""
    )
    assert done.returncode == -signal.SIGABRT
    assert "Fatal Python error" in done.stderr
    (report,) = reports(hosts)
    assert report["properties"]["$exception_type"] == "Fatal Python error"


def test_a_crash_while_the_interpreter_shuts_down_arrives(hosts):
    """After the host has said goodbye, its modules and their finalizers still go."""
    done = hosts.run(
        WATCHED
        + """
class Bad:
    def __del__(self, crash=ctypes.string_at):
        crash(0)
sys.modules["kept"] = Bad()
"""
    )
    assert done.returncode == -signal.SIGSEGV
    (report,) = reports(hosts)
    assert report["properties"]["$exception_type"] == "SIGSEGV"


@pytest.mark.parametrize("attempt", range(TIMES))
def test_a_kill_at_any_moment_arrives_once(hosts, attempt):
    """`run_vanished` says that a signal ended the run, how long it lasted, and whose it was."""
    host = hosts.start(
        WATCHED
        + """
telemetry.flush()
say("ready")
while True:
    telemetry.capture_event("more")
    time.sleep(0.001)
"""
    )
    assert host.hear() == "ready"
    time.sleep(random.Random(attempt).random() * 0.2)
    host.process.kill()
    assert host.finish().returncode == -signal.SIGKILL
    (report,) = reports(hosts)
    told = report["properties"]
    assert (report["event"], told["outcome"]) == ("run_vanished", "killed")
    assert 0 < told["duration"] < 60
    assert told["run_id"] == hosts.server.events[0]["properties"]["run_id"]


@pytest.mark.parametrize("end", QUIET_ENDS.values(), ids=QUIET_ENDS)
def test_a_host_that_ends_by_itself_leaves_no_report(hosts, end):
    """Time after time; its events arrive as ever."""
    for _ in range(TIMES // 5):
        for host in [hosts.start(WATCHED + end) for _ in range(2)]:
            assert host.finish().stderr == ""
        hosts.wait_until_no_sender()
    assert reports(hosts) == []
    assert hosts.arrived()["built"] == TIMES // 5 * 2


def test_a_no_that_another_process_says_is_a_no_to_the_report(hosts):
    """The person says it in another terminal; the host captures nothing more, and crashes."""
    hosts.assert_runs(
        WATCHED
        + """
telemetry.flush(20, delivered=True)
code = "from atotelemetry import Telemetry; Telemetry(app='host', api_key='x', host='http://127.0.0.1:1').disable()"
import subprocess
subprocess.run([sys.executable, "-c", code], check=True)
segfault()
""",
        returncode=-signal.SIGSEGV,
    )
    assert reports(hosts) == []


def test_a_host_that_handles_such_signals_itself_keeps_its_handler(hosts):
    """As virtual machines have, for faults that they mend: no other handler hears of those, and nothing is reported."""
    hosts.assert_runs(
        WATCHED[: WATCHED.index("telemetry = ")]
        + """
handler_type = ctypes.CFUNCTYPE(None, ctypes.c_int)
handled = []
handler = handler_type(handled.append)
libc = ctypes.CDLL(None)
libc.signal.argtypes = [ctypes.c_int, handler_type]
libc.signal(signal.SIGSEGV, handler)
telemetry = new_telemetry()
telemetry.capture_event("built")
wait_until(lambda: telemetry.stats.handed_over)
libc["raise"](signal.SIGSEGV)
assert handled == [signal.SIGSEGV]
"""
    )
    assert reports(hosts) == []


def test_the_last_process_of_a_daemon_is_watched(hosts):
    """The two that fork and leave before it are no news."""
    hosts.assert_runs(
        WATCHED
        + """
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
telemetry.capture_event("more")
telemetry.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    hosts.server.wait_for_events(3)
    (report,) = reports(hosts)
    assert (report["event"], report["properties"]["signal"]) == ("run_vanished", "SIGKILL")


# Hangs

HANGS = {
    "time.sleep": "time.sleep(60)",
    "a lock": "threading.Lock().acquire() and None; l = threading.Lock(); l.acquire(); l.acquire()",
    "a busy loop": "while True: pass",
    "a read": "os.read(os.pipe()[0], 1)",
    "C that holds the interpreter's lock": "import itertools; sum(itertools.repeat(1))",
}


@pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)
def test_a_hang_arrives_once_with_every_stack(hosts, hang):
    """A second of silence is one report, however long it lasts; the host is left alone."""
    host = hosts.start(
        WATCHED.replace("**settings}", '"report_hang_after": 0.3, **settings}')
        + f"""
def stuck():
    {hang}
other = threading.Thread(target=time.sleep, args=(60,), daemon=True)
other.start()
say("ready")
stuck()
"""
    )
    assert host.hear() == "ready"
    report = next(event for event in hosts.server.wait_for_events(2) if event["event"] == "$exception")
    told = report["properties"]
    assert told["$exception_type"] == "Hang"
    functions = [frame["function"] for frame in told["$exception_list"][0]["stacktrace"]["frames"]]
    assert "stuck" in functions
    assert any("bootstrap" in line for thread in told["$exception_threads"] for line in thread["stack"])
    with pytest.raises(subprocess.TimeoutExpired):  # left alone, and by now silent for as long again
        host.process.wait(0.3)
    host.process.kill()
    host.finish()
    names = Counter(event["event"] for event in reports(hosts))
    assert names == {"$exception": 1, "run_vanished": 1}


def test_a_host_whose_threads_work_in_silence_is_not_asked_for_their_stacks(hosts):
    """`faulthandler` would read the frames of a running thread, and may crash the host (Python 3.12 and 3.13)."""
    host = hosts.start(
        WATCHED.replace("**settings}", '"report_hang_after": 0.3, **settings}')
        + """
def work():
    while True: pass
worker = threading.Thread(target=work, daemon=True)
worker.start()
worker.join()
"""
    )
    report = next(event for event in hosts.server.wait_for_events(2) if event["event"] == "$exception")
    told = report["properties"]
    assert told["$exception_type"] == "Hang"
    assert told["$exception_stack_trace"] == "its threads are at work\n"
    assert "stacktrace" not in told["$exception_list"][0]
    assert host.process.poll() is None
    host.process.kill()
    host.finish()
    reports(hosts)


def test_a_host_that_goes_on_may_hang_again(hosts):
    """Each silence is one report. The host's end is none, where only hangs are reported."""
    host = hosts.start(
        WATCHED.replace("**settings}", '"report_hang_after": 0.2, "report_crash": False, **settings}')
        + """
hear()
telemetry.capture_event("more")
hear()
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    hosts.server.wait_for_events(2)
    host.tell()
    hosts.server.wait_for_events(4)
    host.tell()
    host.assert_ends(-signal.SIGKILL)
    assert [event["properties"]["$exception_type"] for event in reports(hosts)] == ["Hang", "Hang"]
