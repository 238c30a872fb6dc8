"""What Python 3.14 and 3.15 changed for us, met by real hosts. `test_fork.py` has the warnings about threads."""

from __future__ import annotations

import sys

import pytest

from atotelemetry.testing import Answer
from support_hosts import needs_senders
from support_processes import PATIENCE, describe, environment_of

pytestmark = needs_senders

since_3_14 = pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")


def test_the_default_start_method(hosts):
    """`multiprocessing` as it comes: since 3.14 a forkserver, whose children inherit no client and no hook of ours."""
    done = hosts.run(
        """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

def work(name):
    client = new_client()
    client.capture(name, distinct_id="me")

if __name__ == "__main__":
    client = new_client()
    client.capture("parent", distinct_id="me")
    process = multiprocessing.Process(target=work, args=("process",))
    process.start()
    process.join()
    with ProcessPoolExecutor(1) as pool:
        pool.submit(work, "pool").result()
    client.capture("later", distinct_id="me")
    print(multiprocessing.get_start_method())
""",
        # Up to 3.13 it forks, and 3.12 warns of the pool's own thread.
        options=("-W", "error") if sys.version_info >= (3, 14) else (),
    )
    method = "spawn" if sys.platform == "win32" else "forkserver" if sys.version_info >= (3, 14) else "fork"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{method}\n", "")
    hosts.assert_arrived_once("parent", "process", "pool", "later")


@since_3_14
def test_annotations_are_not_evaluated(hosts):
    """PEP 649: decorating a function or capturing an object evaluates no annotation: it may name what is not there."""
    hosts.assert_runs(
        """
import annotationlib, dataclasses, inspect

evaluated = []
telemetry = atotelemetry.Telemetry(app="host", api_key="phc_test", host=os.environ["TEST_SERVER"], notice=None)

def note():
    evaluated.append(1)
    return int

@telemetry.capture("start", "end")
def build(board: Board, count: note() = 2) -> Missing:
    return count

@dataclasses.dataclass
class Settings:
    layers: int
    board: Board = None

assert build(None) == 2
telemetry.capture_event("settings", {"settings": Settings(4)})
assert evaluated == []
names = annotationlib.get_annotations(build, format=annotationlib.Format.STRING)
assert names == {"board": "Board", "count": "note()", "return": "Missing"}, names
signature = inspect.signature(build, annotation_format=annotationlib.Format.FORWARDREF)
assert list(signature.parameters) == ["board", "count"]
class Board: ...
class Missing: ...
assert inspect.get_annotations(build) == {"board": Board, "count": int, "return": Missing}
assert evaluated
""",
        environment={"HOST_TELEMETRY": "on"},
        arrived=["start", "end", "settings"],
    )
    (event,) = [event for event in hosts.server.events if event["event"] == "settings"]
    assert event["properties"]["settings"] == {"layers": 4, "board": None}
    (hosts.home / ".config" / "host" / "telemetry.yaml").unlink()
    (hosts.home / ".config" / "host").rmdir()
    (hosts.home / ".config").rmdir()


# Everything that the manual of 3.15 lists, but for what only says where Python is.
VARIABLES = """
    PYTHONASYNCIODEBUG PYTHONBREAKPOINT PYTHONCASEOK PYTHONCOERCECLOCALE PYTHONDEBUG PYTHONDEVMODE PYTHONDUMPREFS
    PYTHONEXECUTABLE PYTHONFAULTHANDLER PYTHONHASHSEED PYTHONINSPECT PYTHONINTMAXSTRDIGITS PYTHONIOENCODING
    PYTHONLEGACYWINDOWSFSENCODING PYTHONLEGACYWINDOWSSTDIO PYTHONMALLOC PYTHONMALLOCSTATS PYTHONNODEBUGRANGES
    PYTHONNOUSERSITE PYTHONOPTIMIZE PYTHONPERFSUPPORT PYTHONPROFILEIMPORTTIME PYTHONSAFEPATH PYTHONSTARTUP
    PYTHONTRACEMALLOC PYTHONUNBUFFERED PYTHONUSERBASE PYTHONUTF8 PYTHONVERBOSE PYTHONWARNDEFAULTENCODING
    PYTHONWARNINGS PYTHON_BASIC_REPL PYTHON_COLORS PYTHON_CONTEXT_AWARE_WARNINGS PYTHON_CPU_COUNT
    PYTHON_DISABLE_REMOTE_DEBUG PYTHON_FROZEN_MODULES PYTHON_GIL PYTHON_HISTORY PYTHON_JIT PYTHON_LAZY_IMPORTS
    PYTHON_PERF_JIT_SUPPORT PYTHON_PRESITE PYTHON_THREAD_INHERIT_CONTEXT PYTHON_TLBC
"""


def start_with_a_live_sender(hosts, *options, environment=None):
    """Start a host whose sender waits for its server's answer; return the host and the sender's process id."""
    hosts.server.respond(Answer(hang=True))
    host = hosts.start(
        """
# Only now: most of them would change how this very host runs.
os.environ.update(dict.fromkeys(os.environ.get("TEST_VARIABLES", "").split(), "1"))
client = new_client()
client.capture("built", distinct_id="me")
say("captured")
wait_until(lambda: os.path.exists(os.path.join(os.environ["TEST_END"], "end")))
os._exit(0)
""",
        options=options,
        environment={"TEST_END": str(hosts.directory), **(environment or {})},
    )
    assert host.hear() == "captured"
    hosts.server.wait_for_requests(1, timeout=PATIENCE)
    (sender,) = hosts.wait_for_senders()
    return host, sender


def end(hosts, host):
    (hosts.directory / "end").touch()
    assert host.finish().returncode == 0


def test_options_and_variables_of_the_interpreter(hosts):
    """A sender runs without the host's `-X` options and PYTHON variables, whatever version brought them."""
    options = ("-X", "dev", "-X", "utf8", "-X", "no_debug_ranges", "-X", "frozen_modules=off", "-O")
    host, sender = start_with_a_live_sender(hosts, *options, environment={"TEST_VARIABLES": VARIABLES})
    assert " -P -S -m atotelemetry.sender" in describe(sender).replace('"', "")
    variables = [item.partition(b"=")[0] for item in environment_of(sender)]
    assert [name for name in variables if name.startswith(b"PYTHON")] == [b"PYTHONPATH"]
    end(hosts, host)


@since_3_14
@pytest.mark.parametrize("way", ["option", "variable"])
def test_no_remote_debugging_of_the_sender_either(hosts, tmp_path, way):
    """A host that lets no debugger in (PEP 768) has a sender that lets none in."""
    options = ("-X", "disable-remote-debug") if way == "option" else ()
    environment = {"PYTHON_DISABLE_REMOTE_DEBUG": "1"} if way == "variable" else {}
    host, sender = start_with_a_live_sender(hosts, *options, environment=environment)
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit\n")
    for pid in (host.pid, sender):
        with pytest.raises(RuntimeError, match="not enabled"):
            sys.remote_exec(pid, str(script))
    end(hosts, host)


@since_3_14
def test_an_event_that_a_debugger_captures(hosts, tmp_path):
    """What `sys.remote_exec` runs inside a host may capture events, as anything there may."""
    host = hosts.start(
        """
client = new_client()
client.capture("built", distinct_id="me")
say("captured")
wait_until(lambda: client.stats.captured == 2)
"""
    )
    assert host.hear() == "captured"
    script = tmp_path / "script.py"
    script.write_text("import __main__\n__main__.client.capture('injected', distinct_id='me')\n")
    try:
        sys.remote_exec(host.pid, str(script))
    except PermissionError:
        host.process.kill()
        pytest.skip("no debugging of other processes here")
    assert host.finish().returncode == 0
    hosts.assert_arrived_once("built", "injected")


@pytest.mark.skipif(getattr(sys, "_is_gil_enabled", lambda: True)(), reason="needs a free-threaded build")
def test_without_the_interpreter_lock(hosts):
    """On a free-threaded build nothing of ours brings the lock back, and the events of many threads arrive once."""
    hosts.assert_runs(
        """
client = new_client(queue_size=5000)
start = threading.Barrier(8)
def work(number):
    start.wait()
    for count in range(100):
        client.capture(f"{number} {count}", distinct_id="me", properties={"list": [1, 2]})
in_threads(8, work)
assert client.flush(20)
assert not sys._is_gil_enabled()
""",
        arrived=[f"{number} {count}" for number in range(8) for count in range(100)],
    )
