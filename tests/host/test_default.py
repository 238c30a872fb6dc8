"""The default instance behind the module-level names that atopile imports."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from atotelemetry.host import default as module
from atotelemetry.host import telemetry as telemetry_module
from atotelemetry.host.telemetry import Telemetry
from atotelemetry.testing import CaptureServer
from support_home import files_below
from support_hosts import children, needs_proc
from support_telemetry import NOWHERE, Recorded, raise_it

pytestmark = pytest.mark.usefixtures("file")


class TestDefaultInstance:
    def test_made_once_and_shared(self, monkeypatch):
        """The module's functions and its client are one instance, made at the first use, also by threads at once."""
        made = []
        together = threading.Barrier(4)

        class Slow(Telemetry):
            def __init__(self, *, app):
                together.wait(10)
                made.append(self)
                super().__init__(app=app, api_key="phc_test", host=NOWHERE)

        monkeypatch.setattr(module, "Telemetry", Slow)
        clients = []
        threads = [threading.Thread(target=lambda: clients.append(module.client)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 4
        assert {id(client) for client in clients} == {id(module._get_telemetry_client())}
        assert len(made) == 4

    def test_the_functions(self, monkeypatch):
        """`capture`, `capture_event` and `capture_exception` of the module are the default instance's."""
        monkeypatch.setenv("ATO_TELEMETRY_API_KEY", "phc_test")
        recorded = Recorded(module._get_telemetry())
        with module.capture("start", "end", {"a": 1}):
            assert module.capture_event("event", {"a": 1}, flush=True)
        assert module.capture_exception(ValueError("x"), {"a": 1})
        module.capture("f", "g")(len)("abc")
        assert recorded.names == ["start", "event", "end", "$exception", "f", "g"]
        assert [event["properties"].get("a") for event in recorded.events] == [1, 1, 1, 1, None, None]

    def test_any_failure_gives_a_disabled_client(self, monkeypatch, caplog):
        """If the instance cannot be made, the client is a disabled one and every function does nothing, quietly."""
        caplog.set_level(logging.DEBUG, "atotelemetry")

        def broken(app, **_rules):
            raise MemoryError(app)

        monkeypatch.setattr(telemetry_module, "read_consent", broken)
        client = module._get_telemetry_client()
        assert client.disabled
        assert "telemetry is off: MemoryError('atopile')" in caplog.messages
        assert module.client is client
        with module.capture("start", "end"):
            assert module.capture_event("event", flush=True) is None
        with pytest.raises(ValueError, match="mine"), module.capture("start", "end"):
            raise_it(ValueError("mine"))
        assert module.capture_exception(ValueError()) is None
        assert client.capture("event") is None
        module._flush_telemetry_on_exit()

    def test_flush_on_exit(self, monkeypatch):
        """`_flush_telemetry_on_exit` hands over what was captured, then disables the client."""
        module._flush_telemetry_on_exit()  # makes none: it would be off
        with CaptureServer() as server:
            monkeypatch.setenv("ATO_TELEMETRY_API_KEY", "phc_test")
            monkeypatch.setenv("ATO_SERVICES_TELEMETRY_URL", server.url)
            module.capture_event("last words")
            module._flush_telemetry_on_exit()
            assert module.client.disabled
            assert module.client.stats.handed_over == 1
            assert module.capture_event("too late") is None
            server.wait_for_events(1)
            assert module.client.flush(20, delivered=True)
            assert module.client.shutdown()
            assert [event["event"] for event in server.events] == ["last words"]

    def test_no_other_name(self):
        """A name that is not there is an AttributeError, as in any module."""
        with pytest.raises(AttributeError, match="clients"):
            _ = module.clients


# What atopile's `telemetry.py` becomes, and a `conftest.py` beside it.
STAR = "from atotelemetry import *\n"


SILENT = "import telemetry\ntelemetry.client.disabled = True\n"


CALLER = """
import sys, threading
sys.path.insert(0, sys.argv[1])
{first}
import telemetry
from telemetry import capture

@capture("cli:build_start", "cli:build_end")
def build():
    telemetry.capture_event("cli:step", {{"n": 1}})

build()
try:
    raise ValueError("x")
except ValueError as error:
    telemetry.capture_exception(error)
print(telemetry.client.disabled, len(telemetry.TelemetryConfig().to_dict()["id"]), flush=True)
"""


@needs_proc
class TestRealProcesses:
    def module(self, hosts, **files):
        """Write modules beside the home directory; return their folder."""
        folder = hosts.directory / "modules"
        folder.mkdir()
        for name, source in files.items():
            (folder / f"{name}.py").write_text(source)
        return str(folder)

    def keys(self, hosts):
        return {"ATO_SERVICES_TELEMETRY_URL": hosts.server.url, "ATO_TELEMETRY_API_KEY": "phc_test"}

    def test_a_star_import_replaces_atopiles_module(self, hosts):
        """A module named `telemetry` that only star-imports the package serves callers written for the old one."""
        folder = self.module(hosts, telemetry=STAR)
        more = {"preamble": False, "environment": self.keys(hosts)}
        arrived = ["cli:build_start", "cli:step", "cli:build_end", "$exception"]
        hosts.assert_runs(CALLER.format(first=""), folder, stdout="False 36\n", arrived=arrived, **more)

    def test_a_conftest_switches_it_off(self, hosts):
        """`telemetry.client.disabled = True` before the first event: no event, and no file."""
        folder = self.module(hosts, telemetry=STAR, conftest=SILENT)
        more = {"preamble": False, "environment": self.keys(hosts)}
        hosts.assert_runs(CALLER.format(first="import conftest"), folder, stdout="True 36\n", **more)
        assert hosts.server.connection_count == 0
        assert files_below(hosts.home) == []

    @pytest.mark.parametrize(
        "said_no",
        [{"DO_NOT_TRACK": "1"}, {"ATO_TELEMETRY": "off"}, {"ATO_TELEMETRY_API_KEY": ""}, {"ATO_TELEMETRY": "log"}],
        ids=["DO_NOT_TRACK", "off", "no key", "log"],
    )
    def test_nothing_for_who_opted_out(self, hosts, said_no):
        """Opted out, without a key, or only logging: no thread, no child, no file, no connection, no descriptor."""
        host = hosts.start(
            """
before = sorted(os.listdir("/proc/self/fd"))
from atotelemetry import *
with capture("start", "end"):
    capture_event("event", flush=True)
capture_exception(ValueError("x"))
client.flush()
say(len(os.listdir("/proc/self/task")), sorted(os.listdir("/proc/self/fd")) == before, "msgspec" in sys.modules)
hear()
""",
            environment={**self.keys(hosts), **said_no},
        )
        shown = said_no.get("ATO_TELEMETRY") == "log"
        assert host.hear() == f"1 True {shown}"
        assert children(host.pid) == {}
        done = host.finish()
        assert done.returncode == 0
        lines = [json.loads(line)["event"] for line in done.stderr.splitlines()]
        assert lines == (["start", "event", "end", "$exception"] if shown else [])
        assert files_below(hosts.home) == []
        assert hosts.server.connection_count == 0

    def test_a_fork_belongs_to_the_same_run(self, hosts):
        """Parent and forked child send their own events, with one `run_id` and one person."""
        hosts.assert_runs(
            """
from atotelemetry import *
capture_event("parent")
pid = os.fork()
if not pid:
    capture_event("child", flush=True)
    os._exit(0)
os.waitpid(pid, 0)
""",
            options=["-W", "always"],
            environment=self.keys(hosts),
            stdout=None,
        )
        hosts.assert_arrived_once("parent", "child")
        assert len({event["properties"]["run_id"] for event in hosts.server.events}) == 1
        assert len({event["distinct_id"] for event in hosts.server.events}) == 1

    def test_every_run_is_a_run_of_its_own(self, hosts):
        """Two runs have two `run_id`s and, from the file, one person."""
        for _ in range(2):
            hosts.assert_runs("atotelemetry.capture_event('ran')", environment=self.keys(hosts), stdout=None)
        hosts.server.wait_for_events(2)
        assert len({event["properties"]["run_id"] for event in hosts.server.events}) == 2
        assert len({event["distinct_id"] for event in hosts.server.events}) == 1

    def test_what_it_costs_to_import(self, hosts):
        """The star import loads no HTTP stack, no encoder and no `subprocess`; a whole run still no HTTP stack."""
        done = hosts.assert_runs(
            """
import sys
bare = set(sys.modules)
import atotelemetry.host.telemetry
print(*sorted(name for name in set(sys.modules) - bare if not name.startswith("atotelemetry")))
from atotelemetry import *
print(*sorted({"asyncio", "httpx", "logging", "msgspec", "ssl", "subprocess", "yaml"} & set(sys.modules) - bare))
with capture("start", "end"):
    pass
print(*sorted({"asyncio", "httpx", "logging", "ssl", "subprocess", "yaml"} & set(sys.modules) - bare))
""",
            preamble=False,
            environment=self.keys(hosts),
            stdout=None,
        )
        first, second, third = done.stdout.split("\n")[:3]
        assert set(first.split()) <= {"__future__", "_queue", "_weakref", "atexit", "errno", "itertools", "time"}
        assert (second, third) == ("", "")
        hosts.assert_arrived_once("start", "end")
