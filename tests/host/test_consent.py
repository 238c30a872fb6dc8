"""Consent: who is asked, in which order, where the file is, whose id it is, and what the host pays."""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import uuid

import pytest

from atotelemetry.facts.text import environment_prefix
from atotelemetry.host import choice as choice_module
from atotelemetry.host import consent as consent_module
from atotelemetry.host.choice import config_directory
from atotelemetry.host.consent import TelemetryConfig, read_choice, read_consent
from atotelemetry.ids import canonical, uuid4
from support_choice import CANONICAL, identity
from support_home import ID, files_below, store
from support_processes import run_at_once, run_python

# The order of those who are asked


def test_a_new_user_is_on_by_default_and_asking_writes_nothing(file, tmp_path):
    """Without any variable or file telemetry is on, and reading that creates neither file nor directory."""
    consent = read_consent()
    assert (consent.enabled, consent.mode, consent.id, consent.path) == (True, "on", None, str(file))
    assert consent.reason == "no file yet: on by default"
    assert files_below(tmp_path) == []
    assert not (tmp_path / "home" / ".config").exists()


@pytest.mark.parametrize("value", ["1", "true", "yes", "on", "please", " 1 ", "2", "TRUE"])
def test_do_not_track_is_obeyed_before_everything_else(file, monkeypatch, value):
    """Any value of DO_NOT_TRACK that does not take it back opts out, whatever variable and file say."""
    store(file, CANONICAL)
    monkeypatch.setenv("DO_NOT_TRACK", value)
    monkeypatch.setenv("ATO_TELEMETRY", "on")
    consent = read_consent()
    assert (consent.enabled, consent.mode, consent.reason) == (False, "off", f"DO_NOT_TRACK={value}")


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "OFF", " No "])
def test_do_not_track_can_be_taken_back(file, monkeypatch, value):
    """Empty, 0, false, no and off, in any case, leave the decision to those asked later."""
    monkeypatch.setenv("DO_NOT_TRACK", value)
    assert read_consent().mode == "on"


@pytest.mark.parametrize("value", ["off", "OFF", "0", "false", "no", " Off ", "disabled"])
def test_the_variable_says_no_to_a_file_that_says_yes(file, monkeypatch, value):
    """ATO_TELEMETRY=off and its synonyms opt out before the file is asked."""
    store(file, CANONICAL)
    monkeypatch.setenv("ATO_TELEMETRY", value)
    consent = read_consent()
    assert (consent.mode, consent.reason) == ("off", f"ATO_TELEMETRY={value}")


@pytest.mark.parametrize(
    ("value", "mode"), [("on", "on"), ("1", "on"), ("True", "on"), ("yes", "on"), ("log", "log"), ("LOG", "log")]
)
@pytest.mark.parametrize("content", [f"id: {ID}\ntelemetry: false\n", f"{{telemetry: no, id: {ID}}}"])
def test_the_variable_overrides_a_file_that_says_no(file, monkeypatch, value, mode, content):
    """ATO_TELEMETRY=on and =log decide before the file, whose id still counts."""
    store(file, content)
    monkeypatch.setenv("ATO_TELEMETRY", value)
    consent = read_consent()
    assert (consent.enabled, consent.mode, consent.id) == (True, mode, ID)


@pytest.mark.parametrize("value", ["of", "nope", "telemetry=off", "nein", "2"])
def test_a_variable_that_is_not_understood_opts_out_and_says_so(file, monkeypatch, caplog, value):
    """A misspelt ATO_TELEMETRY counts as no, with a reason for the person and at DEBUG."""
    caplog.set_level(logging.DEBUG, "atotelemetry")
    monkeypatch.setenv("ATO_TELEMETRY", value)
    consent = read_consent()
    assert consent.mode == "off"
    assert consent.reason == f"ATO_TELEMETRY={value} is none of off, on and log"
    assert consent.reason in caplog.text


@pytest.mark.parametrize("value", ["", "   "])
def test_an_empty_variable_is_an_unset_one(file, monkeypatch, value):
    """ATO_TELEMETRY= leaves the decision to the file."""
    store(file, f"id: {ID}\ntelemetry: false\n")
    monkeypatch.setenv("ATO_TELEMETRY", value)
    assert read_consent().reason == f"telemetry: false in {file}, line 2"


def test_a_strange_value_can_be_shown_on_one_line(file, monkeypatch):
    """A reason stays short and printable, whatever bytes the variable holds."""
    monkeypatch.setenv("ATO_TELEMETRY", "a\nb\udce9" + "x" * 500)
    reason = read_consent().reason
    assert reason.isprintable()
    assert len(reason) < 120


@pytest.mark.posix("the places of the XDG specification")
def test_every_program_has_variables_and_a_file_of_its_own(file, monkeypatch, tmp_path):
    """Another application's name gives another prefix and another directory, and atopile's are not looked at."""
    store(file, f"id: {ID}\ntelemetry: false\n")
    assert environment_prefix("atopile") == "ATO"
    assert environment_prefix("my-tool 2.x") == "MY_TOOL_2_X"
    other = read_consent("my-tool")
    assert (other.mode, other.path) == ("on", str(tmp_path / "home" / ".config" / "my-tool" / "telemetry.yaml"))
    monkeypatch.setenv("MY_TOOL_TELEMETRY", "off")
    assert read_consent("my-tool").reason == "MY_TOOL_TELEMETRY=off"
    monkeypatch.setenv("ATO_TELEMETRY", "on")
    assert read_consent("my-tool").mode == "off"


# Where the file is


@pytest.mark.posix("the places of the XDG specification")
def test_the_xdg_directory_comes_first(file, monkeypatch, tmp_path):
    """$XDG_CONFIG_HOME/<app> holds the file when the variable is set."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert config_directory("atopile") == str(tmp_path / "elsewhere" / "atopile")


@pytest.mark.parametrize("value", ["", "relative/path", "."])
def test_a_relative_xdg_directory_is_ignored(file, monkeypatch, value):
    """The specification has relative paths ignored: nothing depends on the working directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", value)
    assert config_directory("atopile") == str(file.parent)


@pytest.mark.posix("accounts of a passwd database")
@pytest.mark.parametrize("value", [None, "", "relative"])
def test_without_a_usable_home_variable_the_account_says_where_home_is(file, monkeypatch, tmp_path, value):
    """HOME unset, empty or relative: the home directory comes from the account database."""
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    import pwd

    account = pwd.struct_passwd(("me", "x", os.getuid(), os.getgid(), "", str(tmp_path / "account"), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: account)
    assert config_directory("atopile") == str(tmp_path / "account" / ".config" / "atopile")


@pytest.mark.posix("accounts of a passwd database")
def test_a_user_without_any_home_has_an_id_for_one_run(file, monkeypatch, tmp_path):
    """No HOME and no account (a container under a bare number): on, a random id, no file, no error."""

    def no_account(_uid):
        raise KeyError("no such account")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_account)
    monkeypatch.chdir(tmp_path)
    consent = read_consent()
    assert (consent.mode, consent.path) == ("on", "")
    assert identity() == identity() == str(TelemetryConfig.load().id)
    assert files_below(tmp_path) == []


def test_on_windows_the_file_is_where_platformdirs_points(file, monkeypatch, tmp_path):
    r"""%LOCALAPPDATA%\<app>\<app>, else the same below %USERPROFILE%, never below the working directory."""
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        found = [config_directory("atopile")]
        patch.setenv("LOCALAPPDATA", "")
        patch.setenv("USERPROFILE", str(tmp_path / "me"))
        found.append(config_directory("x"))
        patch.delenv("USERPROFILE")
        found.append(config_directory("x"))
    local = tmp_path / "me" / "AppData" / "Local"
    assert found == [str(tmp_path / "local" / "atopile" / "atopile"), str(local / "x" / "x"), ""]


# The id


@pytest.mark.posix("permission bits")
def test_the_first_run_creates_the_file_that_atopile_would_read(file):
    """The first id is a random UUID, stored with the choice, for its owner only, and used from then on."""
    first = identity()
    assert uuid.UUID(first).version == 4
    assert file.read_text() == f"id: {first}\ntelemetry: true\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert identity() == first
    assert read_consent().id == first
    assert files_below(file.parent) == ["telemetry.yaml"]


def test_ids_are_random_version_4_uuids():
    """Made without the uuid module, ids are what it would make."""
    made = [uuid4() for _ in range(200)]
    assert len(set(made)) == 200
    assert {(uuid.UUID(text).version, uuid.UUID(text).variant, str(uuid.UUID(text)) == text) for text in made} == {
        (4, uuid.RFC_4122, True)
    }


@pytest.mark.parametrize("text", ["", "x", ID[:-1], ID + "0", ID.replace("0", "g"), "-" * 36, "None"])
def test_what_is_no_uuid_is_no_id(text):
    """Only 128 bits in hexadecimal are an id."""
    assert canonical(text) is None


FIRST_RUN = """
from atotelemetry.host.consent import TelemetryConfig
meet()
sys.stdout.write(str(TelemetryConfig.load().id))
"""


def test_twelve_first_runs_at_once_share_one_id(file):
    """Whoever is quickest names the id, and the eleven others use it and leave nothing behind."""
    ids = run_at_once(FIRST_RUN, *[()] * 12)
    assert len(set(ids)) == 1
    assert read_choice(str(file)).id == ids[0]
    assert files_below(file.parent) == ["telemetry.yaml"]


def test_a_file_that_appears_after_consent_was_read_names_the_id(file):
    """Two first runs a moment apart: the second one asked for consent when there was no file yet."""
    consent = read_consent()
    theirs = store(file, CANONICAL)
    assert identity(consent=consent) == ID
    assert file.read_bytes() == theirs


def test_who_comes_second_uses_the_id_of_who_came_first(file, monkeypatch):
    """A file that appears between looking and creating is used, and not overwritten."""
    theirs = store(file, CANONICAL)
    monkeypatch.setattr(os.path, "lexists", lambda _path: False)
    consent = consent_module.Consent("on", "no file yet: on by default", str(file))
    assert identity(consent=consent) == ID
    assert file.read_bytes() == theirs
    assert files_below(file.parent) == ["telemetry.yaml"]


def test_without_hard_links_the_file_is_still_created_once(file, monkeypatch):
    """A file system that cannot link (FAT, network, phones) keeps the id as well."""

    def refuse(*_args, **_kwargs):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", refuse)
    first = identity()
    assert read_choice(str(file)).id == first
    assert choice_module.create(str(file), b"other") is False
    assert identity() == first
    assert files_below(file.parent) == ["telemetry.yaml"]


@pytest.mark.posix("POSIX's words for a full disk")
def test_a_disk_that_fills_up_leaves_no_half_file(file, monkeypatch):
    """An id that could not be written completely leaves nothing that would count as damaged ever after."""

    def full(*_args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        assert uuid.UUID(identity())
    assert files_below(file.parent) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="space"):
            choice_module.write_new(str(file), b"x")
    assert files_below(file.parent) == []


@pytest.mark.posix("the places of the XDG specification")
def test_where_nothing_can_be_written_the_id_lasts_one_run(file, tmp_path):
    """A file where the directory should be: on, a random id, the same one within the process, nothing written."""
    blocker = tmp_path / "home" / ".config"
    blocker.write_text("mine")
    assert read_consent().mode == "on"
    first = identity()
    assert uuid.UUID(first).version == 4
    assert identity() == first
    assert str(TelemetryConfig.load().id) == first
    assert blocker.read_text() == "mine"
    assert files_below(tmp_path / "home") == [".config"]


def test_a_directory_that_may_not_be_written_gives_an_id_for_one_run(file, monkeypatch):
    """A read-only home is no reason to fail or to complain."""

    def refuse(*_args, **_kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "makedirs", refuse)
    assert identity() == identity()
    assert not file.parent.exists()


def test_a_valid_file_without_an_id_gives_an_id_for_one_run(file):
    """A valid file is never rewritten, not even to add an id."""
    raw = store(file, "telemetry: true\n")
    assert identity() == identity()
    assert file.read_bytes() == raw


@pytest.mark.parametrize("name", ["DO_NOT_TRACK", "ATO_TELEMETRY"])
def test_opted_out_by_a_variable_leaves_no_file(file, monkeypatch, tmp_path, name):
    """Somebody who said no at the first run has nothing in the home directory afterwards."""
    monkeypatch.setenv(name, "1" if name == "DO_NOT_TRACK" else "off")
    assert TelemetryConfig.load().telemetry is False
    assert uuid.UUID(identity())
    assert files_below(tmp_path) == []


def test_looking_at_events_leaves_no_file(file, monkeypatch, tmp_path):
    """ATO_TELEMETRY=log sends nothing, so it needs no lasting id."""
    monkeypatch.setenv("ATO_TELEMETRY", "log")
    assert identity() == identity()
    assert TelemetryConfig.load().telemetry is True
    assert files_below(tmp_path) == []


def test_a_damaged_file_is_not_replaced_when_a_variable_says_yes(file, monkeypatch):
    """ATO_TELEMETRY=on with a file that cannot be understood: on, an id for this run, the file untouched."""
    raw = store(file, "telemetry: maybe\n")
    monkeypatch.setenv("ATO_TELEMETRY", "on")
    assert read_consent().mode == "on"
    assert identity() == identity()
    assert file.read_bytes() == raw


# TelemetryConfig, as atopile has it


def test_the_config_has_atopiles_defaults():
    """Neither value given: telemetry is on, under a new random id each time."""
    one, two = TelemetryConfig(), TelemetryConfig(telemetry=None, id=None)
    assert (one.telemetry, two.telemetry) == (True, True)
    assert isinstance(one.id, uuid.UUID)
    assert one.id != two.id
    assert one != two


def test_the_config_takes_an_id_as_text_or_object():
    """Both forms of an id give the same, equal, printable config."""
    text, made = TelemetryConfig(False, ID.upper()), TelemetryConfig(telemetry=False, id=uuid.UUID(ID))
    assert text == made
    assert text.id == uuid.UUID(ID)
    assert text.to_dict() == {"id": ID, "telemetry": False}
    assert repr(text) == f"TelemetryConfig(telemetry=False, id='{ID}')"
    assert text != "something else"
    with pytest.raises(TypeError):
        hash(text)


def test_the_config_can_be_changed():
    """Both attributes can be set, as on atopile's."""
    config = TelemetryConfig()
    config.telemetry = False
    config.id = uuid.UUID(ID)
    assert config.to_dict() == {"id": ID, "telemetry": False}


@pytest.mark.parametrize(
    ("value", "expected"), [("no", False), ("yes", True), ("perhaps", False), (0, False), (1, True)]
)
def test_the_config_understands_what_the_file_understands(value, expected):
    """What is not understood is no yes here either."""
    assert TelemetryConfig(telemetry=value).telemetry is expected


def test_the_config_refuses_an_id_that_is_none():
    """A text that is no UUID raises ValueError, as uuid.UUID does."""
    with pytest.raises(ValueError, match="not a UUID: 'me'"):
        TelemetryConfig(id="me")


def test_loading_the_config_is_a_first_run(file):
    """load() creates the file once and reads it from then on."""
    first = TelemetryConfig.load()
    assert first.telemetry is True
    assert file.read_text() == f"id: {first.id}\ntelemetry: true\n"
    assert TelemetryConfig.load() == first


def test_loading_the_config_of_somebody_who_said_no(file, monkeypatch):
    """The file's id is reported, the choice is False, whether file or variable says no, and nothing is written."""
    raw = store(file, f"id: {ID}\ntelemetry: no\n")
    assert TelemetryConfig.load() == TelemetryConfig(False, ID)
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    assert TelemetryConfig.load() == TelemetryConfig(False, ID)
    assert file.read_bytes() == raw


# What the host pays


IMPORTED = """
import sys
before = set(sys.modules)
from atotelemetry.host import consent
imported = set(sys.modules) - before
decided = consent.read_consent()
consent.take_identity("atopile", decided)
print(*sorted(imported), "|", *sorted(set(sys.modules) - before - imported), "|", decided.mode)
"""


# What only a person's own YAML, a project file, a notice or a command needs.
NOT_FOR_A_RUN = {f"atotelemetry.host.{name}" for name in ("choice_yaml", "edit", "notice", "project", "status")}


def modules_of_a_run():
    # Isolated and without site, so that nothing else has imported anything before; the package's place is handed over.
    place = os.path.dirname(os.path.dirname(os.path.dirname(consent_module.__file__)))
    said = run_python(f"import sys; sys.path.insert(0, {place!r}){IMPORTED}", options=("-S", "-E"))
    imported, later, mode = said.split("|")
    return set(imported.split()), set(later.split()), mode.strip()


@pytest.mark.posix("modules that posix loads")
@pytest.mark.parametrize("content", [None, CANONICAL, f"telemetry: no # never\nid: {ID}\n"])
def test_a_plain_file_costs_the_host_no_import(file, content):
    """First run, ordinary run and opted-out run import nothing beyond what a bare interpreter has."""
    if content is not None:
        store(file, content)
    imported, later, mode = modules_of_a_run()
    bare = {
        "os",
        "os.path",
        "stat",
        "errno",  # `posixpath` takes it along on 3.14
        "time",  # built in; before 3.14 the start of the interpreter had taken it along
        "_stat",
        "posixpath",
        "genericpath",
        "_collections_abc",
        "abc",
        "_abc",
        "__future__",
        "atexit",
        "itertools",
    }
    ours = {name for name in imported if name.partition(".")[0] == "atotelemetry"}
    assert imported - ours - bare == set()
    assert not ours & NOT_FOR_A_RUN
    assert later == set()
    assert mode == ("off" if content and " no " in content else "on")


def test_only_a_file_edited_by_hand_costs_a_yaml_parser(file):
    """The counter-check: flow style is read by PyYAML, so the test above can fail."""
    store(file, f"{{telemetry: yes, id: {ID}}}")
    program = (
        "import sys; from atotelemetry.host.consent import read_consent as r; print(r().id, 'yaml' in sys.modules)"
    )
    assert run_python(program) == f"{ID} True\n"
