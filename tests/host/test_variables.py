"""The variables by which a person, a team or a build server decides, and the order in which they are asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from atotelemetry.host.choice import choice_path
from atotelemetry.host.consent import TelemetryConfig, read_consent
from support_home import ID, fresh_home, store
from support_processes import run_python


@pytest.fixture
def file(monkeypatch, tmp_path):
    return fresh_home(monkeypatch, tmp_path)


def told(name):
    """Return how a reason names a variable: Windows has all names in upper case."""
    return name.upper() if sys.platform == "win32" else name


SWITCHES = {
    "mytool": (
        "MYTOOL_TELEMETRY_DISABLED",
        "MYTOOL_TELEMETRY_OPTOUT",
        "MYTOOL_NO_TELEMETRY",
        "MYTOOL_DISABLE_TELEMETRY",
    ),
    "my-tool": ("MY_TOOL_TELEMETRY_DISABLED", "MY_TOOL_NO_TELEMETRY"),
    "atopile": (
        *("ATO_TELEMETRY_DISABLED", "ATO_TELEMETRY_OPTOUT", "ATO_NO_TELEMETRY", "ATO_DISABLE_TELEMETRY"),
        *(
            "ATOPILE_TELEMETRY_DISABLED",
            "ATOPILE_TELEMETRY_OPTOUT",
            "ATOPILE_NO_TELEMETRY",
            "ATOPILE_DISABLE_TELEMETRY",
        ),
    ),
}


@pytest.mark.parametrize(("app", "name"), [(app, name) for app, names in SWITCHES.items() for name in names])
def test_a_switch_that_is_on_says_no(file, monkeypatch, app, name):
    """Any value but empty, 0, false, no and off turns telemetry off, also against an explicit on."""
    monkeypatch.setenv("MYTOOL_TELEMETRY", "on")
    monkeypatch.setenv("ATO_TELEMETRY", "on")
    for value in ("1", "true", "YES", "on", "please"):
        monkeypatch.setenv(name, value)
        assert (read_consent(app).mode, read_consent(app).reason) == ("off", f"{told(name)}={value}")
    for value in ("", "0", "False", "no", "OFF"):
        monkeypatch.setenv(name, value)
        assert read_consent(app).mode == "on"


@pytest.mark.parametrize(
    ("app", "name"),
    [
        ("atopile", "ATO_TELEMETRY"),
        ("atopile", "ATOPILE_TELEMETRY"),
        ("atopile", "FBRK_TELEMETRY"),
        ("atopile", "Ato_Telemetry"),
        ("mytool", "MYTOOL_TELEMETRY"),
        ("my-tool", "my_tool_telemetry"),
    ],
)
def test_a_choice_in_a_variable(file, monkeypatch, app, name):
    """Off in any word, case of letters and spelling of the name; and on, which wins over the file."""
    store(Path(choice_path(app)), f"id: {ID}\ntelemetry: false\n")
    for value in ("0", "false", "No", "n", "OFF", "disabled"):
        monkeypatch.setenv(name, value)
        assert (read_consent(app).mode, read_consent(app).reason) == ("off", f"{told(name)}={value}")
    for value in ("1", "true", "Yes", "y", "ON"):
        monkeypatch.setenv(name, value)
        consent = read_consent(app)
        assert (consent.mode, consent.reason, consent.id) == ("on", f"{told(name)}={value}", ID)
    monkeypatch.setenv(name, "log")
    assert read_consent(app).mode == "log"
    monkeypatch.setenv(name, "perhaps")
    assert read_consent(app).mode == "off"


@pytest.mark.parametrize("other", ["ATO_TELEMETRY", "ATOPILE_TELEMETRY", "FBRK_TELEMETRY"])
@pytest.mark.parametrize("yes", ["on", "log"])
def test_of_two_variables_that_disagree_no_wins(file, monkeypatch, other, yes):
    """Whichever of atopile's variables says no, the others cannot take it back."""
    for name in ("ATO_TELEMETRY", "ATOPILE_TELEMETRY", "FBRK_TELEMETRY"):
        monkeypatch.setenv(name, yes)
    assert read_consent().mode == yes
    monkeypatch.setenv(other, "off")
    assert read_consent().reason == f"{other}=off"


def test_log_and_on_together_send_nothing(file, monkeypatch):
    """Of two kinds of yes the one that sends nothing holds."""
    monkeypatch.setenv("ATO_TELEMETRY", "on")
    monkeypatch.setenv("ATOPILE_TELEMETRY", "log")
    assert read_consent().mode == "log"


@pytest.mark.parametrize("name", ["do_not_track", "Do_Not_Track", "DO_NOT_TRACK"])
def test_do_not_track_in_any_case(file, monkeypatch, name):
    """The spelling of the name does not matter either."""
    monkeypatch.setenv(name, "1")
    assert read_consent("mytool").reason == f"{told(name)}=1"


@pytest.mark.parametrize("name", ["ATO_TELEMETRY", "ATOPILE_TELEMETRY", "FBRK_TELEMETRY", "OTHER_TELEMETRY"])
def test_other_programs_variables_say_nothing(file, monkeypatch, name):
    """Each program has variables of its own."""
    monkeypatch.setenv(name, "off")
    assert read_consent("mytool").mode == "on"


# CI


@pytest.mark.parametrize("value", ["1", "true", "0", "false", "woodpecker"])
def test_atopile_sends_nothing_in_ci(file, monkeypatch, value):
    """Any value of CI turns atopile's telemetry off, as its own releases do; also against a file that says yes."""
    store(file, f"id: {ID}\ntelemetry: true\n")
    monkeypatch.setenv("CI", value)
    assert (read_consent().mode, read_consent().reason) == ("off", f"CI={value}: not in CI, unless ATO_TELEMETRY=on")
    assert TelemetryConfig.load() == TelemetryConfig(False, ID)


@pytest.mark.parametrize("name", ["ATO_TELEMETRY", "ATOPILE_TELEMETRY", "FBRK_TELEMETRY"])
def test_a_variable_overrides_ci(file, monkeypatch, name):
    """Whoever asks for telemetry on a build server gets it."""
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv(name, "1")
    assert read_consent().mode == "on"


@pytest.mark.parametrize(("value", "mode"), [("true", "off"), ("1", "off"), ("", "on"), ("0", "on"), ("False", "on")])
def test_other_programs_choose_for_ci(file, monkeypatch, value, mode):
    """By default nothing is sent there either, and an application may decide otherwise; 0 and false are unset."""
    monkeypatch.setenv("CI", value)
    assert read_consent("mytool").mode == mode
    assert read_consent("mytool", in_ci=True).mode == "on"


def test_in_ci_a_no_is_named_before_ci(file, monkeypatch):
    """The person's own words are the reason to show, where there are any."""
    store(file, f"id: {ID}\ntelemetry: false\n")
    monkeypatch.setenv("CI", "1")
    assert read_consent().reason == f"telemetry: false in {file}, line 2"


# Names


@pytest.mark.parametrize("app", ["../x", "a/b", "", "..", ".", "-x", "_x", "a b", "a\0", "zoë", "a\\b", None, 3])
def test_what_is_no_name_is_no_application(file, app):
    """A name that could lead elsewhere is off, and no file is looked at."""
    assert read_consent(app).mode == "off"
    assert read_consent(app).path == ""


# No look at a home


OPENED = """
import os, sys
seen = []
def look(event, arguments):
    if event in ("open", "os.listdir", "os.scandir", "pwd.getpwuid"):
        seen.append((event, str(arguments[0])))
from atotelemetry.host.consent import read_consent
os.environ["HOME"], os.environ["XDG_CONFIG_HOME"] = "/secret-home", "/secret-home/.config"
sys.addaudithook(look)
real = os.stat, os.lstat, os.access
for name in ("stat", "lstat", "access"):
    def record(path, *rest, _real=getattr(os, name), **named):
        seen.append((name, str(path)))
        return _real(path, *rest, **named)
    setattr(os, name, record)
mode = read_consent(sys.argv[1]).mode
print(mode, any("secret-home" in path for _, path in seen))
"""


@pytest.mark.posix("the places of the XDG specification")
@pytest.mark.parametrize(
    ("variable", "expected"),
    [("DO_NOT_TRACK=1", "off False"), ("ATO_TELEMETRY=off", "off False"), ("ATO_TELEMETRY=on", "on True")],
)
def test_no_home_is_looked_at_when_a_variable_has_said_no(tmp_path, variable, expected):
    """A no in the environment is answered from the environment; the last row shows that the test would see a look."""
    name, value = variable.split("=")
    said = run_python(OPENED, "atopile", env={**os.environ, name: value}, cwd=tmp_path)
    assert said.strip() == expected
