"""The public interface: its names, its numbers, and what two places that may not import each other must agree on."""

from __future__ import annotations

import importlib.metadata
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import atotelemetry
from atotelemetry import wire
from atotelemetry.host import client, default, telemetry, transport
from support_processes import run_python

SENDER = Path(atotelemetry.__file__).parent / "sender"

PUBLIC = [
    "DEFAULT_QUEUE_SIZE",
    "FLUSH_TIMEOUT",
    "PH_API_ENDPOINT",
    "PH_API_HOST",
    "RUN_PROPERTIES",
    "WORKER_WAKE_INTERVAL",
    "CaptureArgs",
    "PropertyLoaders",
    "Stats",
    "Telemetry",
    "TelemetryClient",
    "TelemetryConfig",
    "TelemetryProperties",
    "ThinProperties",
    "capture",
    "capture_event",
    "capture_exception",
    "client",
]

MODULES = {
    "atotelemetry.testing": ["Answer", "AnswerSource", "CaptureServer", "RecordedRequest", "captured"],
    "atotelemetry.wire": [
        "MAX_ANSWER_BYTES",
        "MAX_EVENT_BYTES",
        "PROTOCOL_VERSION",
        "Answer",
        "AnswerDecoder",
        "CorruptLine",
        "End",
        "Event",
        "Forked",
        "Hello",
        "LineDecoder",
        "LineError",
        "LineTooLong",
        "Message",
        "NotAnEvent",
        "Outcome",
        "OutgoingEvent",
        "Ready",
        "Watch",
        "decode_json",
        "decode_msgpack",
        "encode",
    ],
    "atotelemetry.host.client": ["DEFAULT_QUEUE_SIZE", "FLUSH_TIMEOUT", "TelemetryClient"],
    "atotelemetry.host.arguments": ["CaptureArgs"],
}


def defaults(function: object) -> dict[str, object]:
    """Return the default value of each parameter that has one."""
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return {item.name: item.default for item in parameters if item.default is not inspect.Parameter.empty}


def of_the_sender(constant: str) -> object:
    """Return the one value that a constant has in the sender's modules, wherever among them it lives."""
    modules = [import_module(f"atotelemetry.sender.{path.stem}") for path in SENDER.glob("[!_]*.py")]
    (value,) = {getattr(module, constant) for module in modules if hasattr(module, constant)}
    return value


def test_the_public_names_are_these():
    """A name that appears or disappears is a decision, not an accident."""
    assert atotelemetry.__all__ == PUBLIC


@pytest.mark.parametrize("module", MODULES)
def test_the_names_of_a_public_module_are_these(module):
    """As above, for the modules that users and tests import by name."""
    assert import_module(module).__all__ == MODULES[module]


def test_every_public_name_has_a_home():
    """What `__all__` promises is found, lazily, in the module that defines it."""
    program = """
import atotelemetry
for name in atotelemetry.__all__:
    assert name not in vars(atotelemetry), name
    value = getattr(atotelemetry, name)
    assert getattr(atotelemetry, name) is value, "a second look finds the same"
    home = getattr(value, "__module__", None)
    print(name, home)
"""
    homes = dict(line.split() for line in run_python(program).splitlines())
    assert homes["TelemetryClient"] == "atotelemetry.host.client"
    assert homes["Stats"] == "atotelemetry.host.stats"
    assert homes["TelemetryConfig"] == "atotelemetry.host.consent"
    assert homes["PropertyLoaders"] == "atotelemetry.host.properties"
    assert homes["capture"] == "atotelemetry.host.default"


def test_everything_can_be_imported_with_a_star():
    """As atopile's `telemetry.py` does."""
    program = """
from atotelemetry import *
import atotelemetry
print(sorted(name for name in dir() if not name.startswith("_") and name != "atotelemetry"))
print(client is atotelemetry.client, client.disabled, callable(capture))
"""
    names, facts = run_python(program).splitlines()
    assert names == str(sorted(PUBLIC))
    assert facts == "True True True"


def test_dir_shows_the_public_names_only():
    """A person who explores the package in a shell sees what there is before it is loaded, and no import of ours."""
    assert dir(atotelemetry) == sorted([*PUBLIC, "__version__"])


@pytest.mark.parametrize("module", [atotelemetry, default])
def test_another_name_is_an_ordinary_attribute_error(module):
    """So that `hasattr`, `getattr` with a default and `from … import` behave as everywhere."""
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'no_such_name'"):
        _ = module.no_such_name
    assert not hasattr(module, "no_such_name")
    assert not hasattr(module, "__path_hooks__")


def test_a_name_that_is_not_there_cannot_be_imported():
    """`from atotelemetry import …` says so as for any package."""
    with pytest.raises(ImportError, match="cannot import name"):
        from atotelemetry import no_such_name  # type: ignore[attr-defined]  # noqa: F401


def test_the_version_is_the_projects():
    """One version, in the package and in its metadata."""
    assert atotelemetry.__version__ == importlib.metadata.version("atotelemetry")


def test_the_package_says_that_it_is_typed():
    """PEP 561: without the marker a user's type checker ignores our types."""
    assert (Path(atotelemetry.__file__).parent / "py.typed").is_file()


def test_a_hello_has_the_clients_defaults():
    """A hello leaves out what is default: reader and writer must mean the same by it."""
    of_client = defaults(client.TelemetryClient)
    hello = wire.Hello(protocol=1, api_key="", host="")
    for name in wire.Hello.__struct_fields__:
        if name in of_client and name not in ("properties", "protocol"):
            assert getattr(hello, name) == of_client[name], name
    # A hello's `protocol` is the pipe's own.
    assert hello.capture_protocol == of_client["protocol"]
    shared = set(wire.Hello.__struct_fields__) & set(of_client)
    assert shared == {
        *("app", "app_version", "endpoint", "compression", "max_retries", "request_timeout", "sender_deadline"),
        *("properties", "run_properties", "scrub", "protocol", "disable_geoip", "historical_migration", "patient"),
    }


# The design's table of numbers


def test_the_numbers_are_those_of_the_design():
    """DESIGN.md, section 8."""
    of_client = defaults(client.TelemetryClient)
    assert client.DEFAULT_QUEUE_SIZE == of_client["queue_size"] == 256
    assert atotelemetry.DEFAULT_QUEUE_SIZE == 256
    assert atotelemetry.WORKER_WAKE_INTERVAL == 0.1
    assert client.FLUSH_TIMEOUT == atotelemetry.FLUSH_TIMEOUT == 2.0
    assert of_client["request_timeout"] == 5.0
    assert of_the_sender("RETRY_DELAY") == 0.5
    assert of_client["max_retries"] == 1
    assert of_client["sender_deadline"] == 15.0
    assert (of_the_sender("SENDER_IDLE"), transport.FEEDER_IDLE) == (60.0, 10.0)
    assert wire.MAX_EVENT_BYTES == 900 * 1024
    assert of_the_sender("MAX_REQUEST_EVENTS") == 1000
    assert of_the_sender("MAX_REQUEST_BYTES") == 4 * 1024 * 1024
    assert of_the_sender("BUFFER_BYTES") == 8 * 1024 * 1024


def test_flush_and_shutdown_wait_no_longer_than_the_exit_may_cost():
    """Their default timeout is FLUSH_TIMEOUT, and a flush does not wait for the delivery."""
    assert defaults(client.TelemetryClient.flush) == {"timeout": 2.0, "delivered": False}
    assert defaults(client.TelemetryClient.shutdown) == {"timeout": 2.0}


def test_every_option_is_spelled_out():
    """`Telemetry` takes by keyword whatever the client takes, with the same defaults, and explains each."""
    parameters = inspect.signature(telemetry.Telemetry).parameters
    assert {item.kind for item in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    of_telemetry, of_client = defaults(telemetry.Telemetry), defaults(client.TelemetryClient)
    ours = {"app", "api_key", "host", "run_properties"}
    assert {name: value for name, value in of_client.items() if name not in ours}.items() <= of_telemetry.items()
    for name in parameters:
        assert f"        {name}: " in inspect.getdoc(telemetry.Telemetry).replace("\n    ", "\n        "), name


def test_capture_takes_what_posthogs_capture_takes():
    """Everything but the event's name by keyword only, and nothing required."""
    for method in (client.TelemetryClient.capture, client.TelemetryClient.capture_exception):
        ours = ("handled", "options")  # PostHog has the latter as properties
        parameters = [item for item in inspect.signature(method).parameters.values() if item.name not in ours][2:]
        assert [item.name for item in parameters] == ["distinct_id", "properties", "timestamp", "context", "uuid"]
        assert {item.kind for item in parameters} == {inspect.Parameter.KEYWORD_ONLY}
        assert {item.default for item in parameters} == {None}


def test_capture_args_names_the_keywords_of_capture():
    """The type that a wrapper of `capture` annotates its keywords with."""
    from atotelemetry import CaptureArgs

    parameters = inspect.signature(client.TelemetryClient.capture).parameters
    assert set(CaptureArgs.__annotations__) == {
        name for name, item in parameters.items() if item.kind is inspect.Parameter.KEYWORD_ONLY
    }
    assert CaptureArgs.__total__ is False
