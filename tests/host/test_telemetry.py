"""`Telemetry`: its other ways to capture, its settings, consent, and the log mode."""

from __future__ import annotations

import io
import json
import logging
import sys
import types
import uuid
from collections import UserDict

import pytest

from atotelemetry.host.telemetry import Telemetry
from atotelemetry.testing import CaptureServer
from support_home import ID, files_below, store
from support_telemetry import NOWHERE, Recorded, raise_it

pytestmark = pytest.mark.usefixtures("file")


class TestEvent:
    def test_a_single_event(self, recorded):
        """It has a uuid, the person, the run, the seconds since the telemetry was made, and the caller's properties."""
        made = recorded.telemetry.capture_event("cli:install", {"package": "widget"})
        event = recorded.only()
        assert uuid.UUID(made).version == 7
        assert (event["uuid"], event["event"], event["distinct_id"]) == (made, "cli:install", ID)
        assert set(event["properties"]) == {"duration", "run_id", "package"}
        assert 0 < event["properties"]["duration"] < 60

    def test_an_event_of_that_name_is_an_event(self, recorded):
        """`$exception` captured as an event goes out as it is, though no exception is being handled."""
        assert recorded.telemetry.capture_event("$exception", {"$exception_message": "by hand"})
        assert recorded.only()["properties"]["$exception_message"] == "by hand"
        assert "$exception_list" not in recorded.only()["properties"]

    def test_the_callers_properties_win(self, recorded):
        """Whatever the caller says stands, `duration` and `run_id` included, and the caller's dict stays as it was."""
        mine = {"duration": "long", "run_id": None, "$lib": "mine"}
        recorded.telemetry.capture_event("event", mine)
        assert recorded.only()["properties"] == mine == {"duration": "long", "run_id": None, "$lib": "mine"}

    @pytest.mark.parametrize(
        ("properties", "arrives"),
        [
            (None, {}),
            ({}, {}),
            (types.MappingProxyType({"a": 1}), {"a": 1}),
            (UserDict(a=1), {"a": 1}),
            (type("Odd", (dict,), {"keys": None})(a=1), {"a": 1}),
            ({1: "one", None: "none"}, {"1": "one", "null": "none"}),
            ([1, 2], {"value": [1, 2]}),
            ([("a", 1)], {"value": [["a", 1]]}),
            ("text", {"value": "text"}),
            (7, {"value": 7}),
        ],
    )
    def test_odd_properties(self, recorded, properties, arrives):
        """Properties that are no dict with texts for keys: the event arrives, with what could be made of them."""
        assert recorded.telemetry.capture_event("odd", properties)
        found = recorded.only()["properties"]
        assert {key: found[key] for key in found if key not in {"duration", "run_id"}} == arrives
        assert {"duration", "run_id"} <= set(found)

    def test_properties_that_cannot_be_read(self, recorded):
        """Properties whose every method raises cost themselves, not the event, and nothing comes out of the call."""

        class Broken(UserDict):
            def __bool__(self):
                raise RuntimeError("no truth")

            def __iter__(self):
                raise RuntimeError("no keys")

            def __len__(self):
                raise RuntimeError("no length")

        with recorded.telemetry.capture("start", "end", Broken()):
            pass
        assert recorded.names == ["start", "end"]

    def test_flush_hands_over(self, file):
        """With `flush=True` the event is in a sender's pipe when the call returns, and the sender then ends."""
        with CaptureServer() as server:
            telemetry = Telemetry(app="atopile", api_key="phc_test", host=server.url, run_properties=())
            telemetry.capture_event("urgent", flush=True)
            assert telemetry.client.stats.handed_over == 1
            (event,) = server.wait_for_events(1)
            assert event["event"] == "urgent"
            assert telemetry.client.flush(20, delivered=True)
            assert telemetry.client.shutdown()


class TestException:
    def test_the_current_one(self, recorded):
        """Without an argument, the exception that is being handled."""
        try:
            raise_it(ValueError("now"))
        except ValueError:
            made = recorded.telemetry.capture_exception()
        event = recorded.only()
        assert event["uuid"] == made
        assert event["properties"]["$exception_message"] == "now"
        assert event["properties"]["$exception_list"][0]["type"] == "ValueError"

    def test_none_at_all(self, recorded):
        """When nothing is being handled there is nothing to say."""
        assert recorded.telemetry.capture_exception() is None
        assert recorded.events == []

    def test_the_callers_properties_win(self, recorded):
        """Also over what is said about the exception."""
        recorded.telemetry.capture_exception(ValueError("secret"), {"$exception_message": "hidden", "duration": 1})
        properties = recorded.only()["properties"]
        assert (properties["$exception_message"], properties["duration"]) == ("hidden", 1)


class TestNamesThatAreFunctions:
    def test_called_on_entering(self, recorded):
        """A name may be a function; both are called on entering, again at each entering."""
        asked = []

        def name(part):
            asked.append(part)
            return f"{part} {len(asked)}"

        block = recorded.telemetry.capture(lambda: name("start"), lambda: name("end"))
        assert asked == []
        with block:
            assert asked == ["start", "end"]
        with block:
            pass
        assert recorded.names == ["start 1", "end 2", "start 3", "end 4"]

    def test_of_a_decorated_function(self, recorded):
        """They are called for each call of a decorated function, not when it is decorated."""
        names = iter(["a", "b", "c", "d"])

        @recorded.telemetry.capture(lambda: next(names), lambda: next(names))
        def work():
            return 1

        assert (work(), work()) == (1, 1)
        assert recorded.names == ["a", "b", "c", "d"]

    def test_one_that_fails(self, recorded, caplog):
        """A function that fails costs its event, which is counted, and neither the other one nor the block."""
        caplog.set_level(logging.DEBUG, "atotelemetry")
        with recorded.telemetry.capture(lambda: 1 // 0, lambda: "end"):
            pass
        assert recorded.names == ["end"]
        assert recorded.telemetry.client.stats.dropped == 1
        assert "an event has no name: ZeroDivisionError" in caplog.text


class TestSettings:
    def test_environment_over_arguments(self, monkeypatch):
        """The application's two variables win over what it has built in."""
        monkeypatch.setenv("ATO_TELEMETRY_API_KEY", "phc_mine")
        monkeypatch.setenv("ATO_SERVICES_TELEMETRY_URL", "http://127.0.0.1:1")
        client = Telemetry(app="atopile", api_key="phc_built_in", host="https://built-in.example").client
        assert (client.api_key, client.host, client.disabled) == ("phc_mine", "http://127.0.0.1:1", False)

    def test_empty_variables_are_none(self, monkeypatch):
        """An empty variable changes nothing."""
        for name in ("ATO_TELEMETRY_API_KEY", "ATO_SERVICES_TELEMETRY_URL", "ATO_TELEMETRY", "DO_NOT_TRACK"):
            monkeypatch.setenv(name, "")
        client = Telemetry(app="atopile", api_key="phc_built_in", host="https://built-in.example").client
        assert (client.api_key, client.host, client.disabled) == ("phc_built_in", "https://built-in.example", False)

    def test_atopiles_server_but_nobodys_key(self):
        """The default application has a server; without a key nothing is ever sent by accident."""
        client = Telemetry(app="atopile").client
        assert (client.host, client.api_key, client.disabled) == ("https://telemetry.atopileapi.com", "", True)
        assert Telemetry(app="atopile").capture_event("nothing") is None

    @pytest.mark.posix("the places of the XDG specification")
    def test_another_application(self, monkeypatch, tmp_path):
        """Another CLI has its own variables, its own file, and no server but the one it names."""
        monkeypatch.setenv("ATO_TELEMETRY", "off")
        monkeypatch.setenv("ATO_TELEMETRY_API_KEY", "phc_atopile")
        assert Telemetry(app="my-tool", api_key="phc_tool").client.disabled
        monkeypatch.setenv("MY_TOOL_TELEMETRY_API_KEY", "phc_mine")
        monkeypatch.setenv("MY_TOOL_SERVICES_TELEMETRY_URL", NOWHERE)
        recorded = Recorded(app="my-tool", api_key="", host="", notice=None)
        client = recorded.telemetry.client
        assert (client.api_key, client.host, client.app) == ("phc_mine", NOWHERE, "my-tool")
        recorded.telemetry.capture_event("hello")
        assert files_below(tmp_path) == ["home/.config/my-tool/telemetry.yaml"]
        monkeypatch.setenv("MY_TOOL_TELEMETRY", "no")
        assert Telemetry(app="my-tool").client.disabled

    def test_a_wrong_argument_is_the_hosts_mistake(self):
        """A misspelt setting is an error at once, while it is developed, and not silence for ever."""
        with pytest.raises(ValueError, match="endpoint"):
            Telemetry(app="atopile", api_key="phc_test", host=NOWHERE, endpoint="post")

    def test_what_the_sender_adds_can_be_cut_and_overruled(self):
        """`run_properties` names what the sender works out, and the caller's properties win over it, too."""
        with CaptureServer() as server:
            telemetry = Telemetry(
                app="atopile", api_key="phc_test", host=server.url, run_properties=("ci_provider", "email")
            )
            telemetry.capture_event("cut", {"email": "nobody", "$lib": "mine", "$os": None})
            assert telemetry.client.flush(20, delivered=True)
            properties = server.events[0]["properties"]
            assert telemetry.client.shutdown()
        assert (properties["email"], properties["$lib"], properties["$os"]) == ("nobody", "mine", None)
        assert {name for name in properties if not name.startswith("$")} == {
            "ci_provider", "email", "duration", "run_id",
        }  # fmt: skip


class TestConsent:
    @pytest.mark.parametrize(
        ("content", "variables", "enabled"),
        [
            (None, {}, True),
            (f"id: {ID}\ntelemetry: true\n", {}, True),
            (f"id: {ID}\ntelemetry: false\n", {}, False),
            (f"{{id: {ID}, telemetry: 'Off'}}  # never\n", {}, False),
            ("telemetry: [", {}, False),
            (None, {"DO_NOT_TRACK": "1"}, False),
            (None, {"DO_NOT_TRACK": "0"}, True),
            (None, {"ATO_TELEMETRY": "off"}, False),
            (None, {"ATO_TELEMETRY": "perhaps"}, False),
            (f"id: {ID}\ntelemetry: false\n", {"ATO_TELEMETRY": "on"}, True),
            (f"id: {ID}\ntelemetry: true\n", {"ATO_TELEMETRY": "on", "DO_NOT_TRACK": "true"}, False),
            (None, {"ATO_TELEMETRY": "log", "DO_NOT_TRACK": "true"}, False),
        ],
    )
    def test_who_is_asked(self, file, monkeypatch, tmp_path, content, variables, enabled):
        """Variables and file decide as `atotelemetry status` says; a no means a disabled client and untouched files."""
        if content:
            store(file, content)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        before = files_below(tmp_path)
        telemetry = Telemetry(app="atopile", api_key="phc_test", host=NOWHERE)
        assert telemetry.client.disabled is not enabled
        if not enabled:
            with telemetry.capture("start", "end"):
                assert telemetry.capture_event("event", flush=True) is None
                assert telemetry.capture_exception(ValueError()) is None
            assert telemetry.client.stats.captured == 0
        assert files_below(tmp_path) == before
        assert content is None or file.read_text() == content

    def test_the_reason_is_logged(self, file, caplog):
        """Who looks at the log at DEBUG reads which file and line said no."""
        caplog.set_level(logging.DEBUG, "atotelemetry")
        store(file, f"id: {ID}\ntelemetry: off\n")
        Telemetry(app="atopile", api_key="phc_test", host=NOWHERE)
        assert f"telemetry is off: telemetry: off in {file}, line 2" in caplog.messages

    def test_disabled_later(self, recorded):
        """`client.disabled = True` holds from that moment on."""
        with recorded.telemetry.capture("start", "end"):
            recorded.telemetry.client.disabled = True
        assert recorded.names == ["start"]


class TestOwnFailures:
    def test_they_are_counted(self, recorded, monkeypatch):
        """An event that is lost in this layer is a dropped one, as if it were lost below."""

        def fail():
            raise RuntimeError("bug")

        monkeypatch.setattr("atotelemetry.host.telemetry.run_id", fail)
        properties = {"x": 1}
        telemetry = recorded.telemetry
        assert telemetry.capture_event("event", properties) is None
        assert telemetry.capture_exception(ValueError(), properties) is None
        with telemetry.capture("start", "end", properties):
            pass
        stats = telemetry.client.stats
        assert (stats.captured, stats.dropped, stats.dropped_by_reason) == (4, 4, {"error": 4})


class TestOddProperties:
    """Those of a caller are merged with ours only when they are known to be harmless, or plain."""

    def test_a_key_that_lies(self, recorded):
        """Next to ours its comparison would raise."""

        class Key(str):
            __slots__ = ()

            def __hash__(self):
                return hash("duration")

            def __eq__(self, other):
                raise RuntimeError("never equal")

        telemetry = recorded.telemetry
        assert telemetry.capture_event("event", {Key("x"): 1, "run_id": "mine"})
        with telemetry.capture("start", "end", {Key("x"): 1}):
            pass
        assert telemetry.capture_exception(ValueError(), {Key("x"): 1})
        assert [event["properties"]["x"] for event in recorded.events] == [1] * 4
        assert recorded.events[0]["properties"]["run_id"] == "mine"
        assert all("duration" in event["properties"] for event in recorded.events)

    def test_a_mapping_and_a_large_dict(self, recorded):
        """The caller's win over ours all the same."""
        for properties in (types.MappingProxyType({"duration": 7}), {"duration": 7, **dict.fromkeys(range(1000))}):
            recorded.telemetry.capture_event("event", properties)
        assert [event["properties"]["duration"] for event in recorded.events] == [7, 7]
        assert all("run_id" in event["properties"] for event in recorded.events)

    def test_an_interruption_is_counted_once(self, recorded):
        """Ctrl-C in a value of the host's comes out, and the event is one dropped one."""

        class Interrupts:
            def __repr__(self):
                raise KeyboardInterrupt

        telemetry = recorded.telemetry
        with pytest.raises(KeyboardInterrupt):
            telemetry.capture_event("event", {"value": Interrupts()})
        stats = telemetry.stats
        assert (stats.captured, stats.dropped_by_reason) == (1, {"interrupted": 1})


class TestLogMode:
    @pytest.fixture(autouse=True)
    def log_mode(self, file, monkeypatch):
        monkeypatch.setenv("ATO_TELEMETRY", "log")

    def test_an_event_cannot_steer_the_terminal(self, monkeypatch, capsys):
        """Control and bidirectional characters and DEL are escapes, and the line is the same JSON."""
        monkeypatch.setenv("ATO_TELEMETRY", "log")
        Telemetry(app="atopile").capture_event("a\x7f\x9b2J\u202eb", {"\u2066": "\x1b[2J"})
        line = capsys.readouterr().err
        assert line.rstrip("\n").isprintable()
        event = json.loads(line)
        assert (event["event"], event["properties"]["\u2066"]) == ("a\x7f\x9b2J\u202eb", "\x1b[2J")

    def test_each_event_is_a_line_of_json(self, capsys, tmp_path):
        """Events are shown on stderr, without a key, and no file is made for the id."""
        telemetry = Telemetry(app="atopile")
        with telemetry.capture("start", "end", {"name": "zoë"}):
            pass
        output = capsys.readouterr()
        events = [json.loads(line) for line in output.err.splitlines()]
        assert output.out == ""
        assert [(event["event"], event["properties"]["name"]) for event in events] == [("start", "zoë"), ("end", "zoë")]
        assert events[0]["distinct_id"] == events[1]["distinct_id"]
        assert telemetry.client.stats.handed_over == 2
        assert telemetry.client.flush(delivered=True)
        assert files_below(tmp_path) == []

    @pytest.mark.parametrize("before_send", [None, lambda event: event], ids=["", "before_send"])
    def test_what_every_event_has(self, capsys, before_send):
        """What the sender would be told once for all events is on each; an event's own wins."""
        telemetry = Telemetry(
            app="atopile", properties={"plan": "pro", "tier": 1, "path": uuid.UUID(ID)}, before_send=before_send
        )
        telemetry.capture_event("seen", {"tier": 2})
        properties = json.loads(capsys.readouterr().err)["properties"]
        assert (properties["plan"], properties["tier"], properties["path"]) == ("pro", 2, ID)

    def test_the_id_of_the_file(self, file, capsys):
        """Somebody who has an id sees it."""
        store(file, f"id: {ID}\ntelemetry: false\n")
        Telemetry(app="atopile").capture_event("seen")
        assert json.loads(capsys.readouterr().err)["distinct_id"] == ID

    @pytest.mark.parametrize("stream", [None, io.StringIO()], ids=["none", "closed"])
    def test_no_stderr(self, monkeypatch, stream):
        """A program without a stderr loses the line and nothing else."""
        if stream is not None:
            stream.close()
        monkeypatch.setattr(sys, "stderr", stream)
        telemetry = Telemetry(app="atopile")
        assert telemetry.capture_event("unseen") is None
        assert telemetry.client.capture("unseen", distinct_id="me") is None
        assert telemetry.client.stats.dropped == 2

    def test_a_dropped_event(self, capsys):
        """An event that `before_send` drops is not shown."""
        telemetry = Telemetry(app="atopile", before_send=lambda event: None if event["event"] == "secret" else event)
        assert telemetry.capture_event("secret") is None
        assert telemetry.capture_event("") is None
        assert telemetry.capture_event("open")
        assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["open"]
