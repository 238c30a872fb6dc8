"""Consent: who is asked, in which order, what any YAML means, and that nobody's file is ever touched."""

from __future__ import annotations

import errno
import json
import logging
import os
import pwd
import stat
import subprocess
import sys
import uuid

import pytest

from atotelemetry.facts.text import environment_prefix
from atotelemetry.host import choice as choice_module
from atotelemetry.host import consent as consent_module
from atotelemetry.host import edit as edit_module
from atotelemetry.host import home as home_module
from atotelemetry.host.consent import TelemetryConfig, identity, read_choice, read_consent
from atotelemetry.host.edit import with_choice, write_choice
from atotelemetry.host.home import config_directory
from atotelemetry.ids import canonical, uuid4
from support_home import ID, files_below, fresh_home, store

CANONICAL = f"id: {ID}\ntelemetry: true\n"


@pytest.fixture
def file(monkeypatch, tmp_path):
    monkeypatch.setattr(consent_module, "_run_ids", {})
    return fresh_home(monkeypatch, tmp_path)


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


def test_the_xdg_directory_comes_first(file, monkeypatch, tmp_path):
    """$XDG_CONFIG_HOME/<app> holds the file when the variable is set."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "elsewhere"))
    assert config_directory("atopile") == str(tmp_path / "elsewhere" / "atopile")


@pytest.mark.parametrize("value", ["", "relative/path", "."])
def test_a_relative_xdg_directory_is_ignored(file, monkeypatch, value):
    """The specification has relative paths ignored: nothing depends on the working directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", value)
    assert config_directory("atopile") == str(file.parent)


@pytest.mark.parametrize("value", [None, "", "relative"])
def test_without_a_usable_home_variable_the_account_says_where_home_is(file, monkeypatch, tmp_path, value):
    """HOME unset, empty or relative: the home directory comes from the account database."""
    if value is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", value)
    account = pwd.struct_passwd(("me", "x", os.getuid(), os.getgid(), "", str(tmp_path / "account"), "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: account)
    assert config_directory("atopile") == str(tmp_path / "account" / ".config" / "atopile")


def test_a_user_without_any_home_has_an_id_for_one_run(file, monkeypatch, tmp_path):
    """No HOME and no account (a container under a bare number): on, a random id, no file, no error."""

    def no_account(_uid):
        raise KeyError("no such account")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", no_account)
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
        found = config_directory("atopile")
    assert found == str(tmp_path / "local" / "atopile" / "atopile")
    monkeypatch.setenv("LOCALAPPDATA", "")
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "me"))
    assert home_module._windows_directory("x") == str(tmp_path / "me" / "AppData" / "Local" / "x" / "x")
    monkeypatch.delenv("USERPROFILE")
    assert home_module._windows_directory("x") == ""


# What a file says

NO = {
    "canonical": (f"id: {ID}\ntelemetry: false\n", "telemetry: false", 2),
    "other order": (f"telemetry: false\nid: {ID}\n", "telemetry: false", 1),
    "alone": ("telemetry: false", "telemetry: false", 1),
    "no": ("telemetry: no\n", "telemetry: no", 1),
    "off": ("telemetry: off\n", "telemetry: off", 1),
    "capital": ("telemetry: False\n", "telemetry: False", 1),
    "shouted": ("telemetry: NO\n", "telemetry: NO", 1),
    "zero": ("telemetry: 0\n", "telemetry: 0", 1),
    "letter": ("telemetry: n\n", "telemetry: n", 1),
    "word": ("telemetry: never\n", "telemetry: never", 1),
    "trailing comment": ("telemetry: False  # never\n", "telemetry: False", 1),
    "comments": ("# mine\n\n# telemetry: true\ntelemetry: no\n# telemetry: true\n", "telemetry: no", 4),
    "single quotes": ("telemetry: 'no'\n", "telemetry: no", 1),
    "double quotes": ('telemetry: "Off" # x\n', "telemetry: Off", 1),
    "quoted key": ('"telemetry": no\n', "telemetry: no", 1),
    "document marker": ("---\ntelemetry: no\n", "telemetry: no", 2),
    "document markers": ("%YAML 1.1\n---\ntelemetry: no\n...\n", "telemetry: no", 3),
    "closed with dashes": ("---\ntelemetry: no\n---\n", "telemetry: no", 2),
    "flow": ("{telemetry: no}", "telemetry: no", 1),
    "flow over lines": (f"{{\n  id: {ID},\n  telemetry: no,\n}}\n", "telemetry: no", 3),
    "json": (json.dumps({"id": ID, "telemetry": False}), "telemetry: false", 1),
    "windows lines": (f"id: {ID}\r\ntelemetry: no\r\n", "telemetry: no", 2),
    "old mac lines": (f"id: {ID}\rtelemetry: no\r", "telemetry: no", 2),
    "byte order mark": (b"\xef\xbb\xbftelemetry: no\n", "telemetry: no", 1),
    "utf-16": ("\ufefftelemetry: no\r\n".encode("utf-16-le"), "telemetry: no", 1),
    "utf-16 the other way": ("\ufefftelemetry: no\r\n".encode("utf-16-be"), "telemetry: no", 1),
    "accents": ("# für mich 😀\ntelemetry: no\n", "telemetry: no", 2),
    "indented": ("  telemetry: no\n", "telemetry: no", 1),
    "spaces": ("telemetry :   no   \n", "telemetry: no", 1),
    "explicit key": ("? telemetry\n: no\n", "telemetry: no", 1),
    "tag": ("telemetry: !!bool no\n", "telemetry: no", 1),
    "anchor": ("default: &d no\ntelemetry: *d\n", "telemetry: no", 2),
    "merged": ("base: &b {telemetry: no}\n<<: *b\n", "telemetry: no", 1),
    "merged list": (f"a: &a {{telemetry: no}}\nb: &b {{id: {ID}}}\n<<: [*b, *a]\n", "telemetry: no", 1),
    "block scalar": ("telemetry: |\n  no\n", "telemetry: no", 1),
    "next line": ("telemetry:\n  no\n", "telemetry: no", 1),
    "capital key": ("Telemetry: no\n", "Telemetry: no", 1),
    "other keys": ("theme: dark\ntelemetry: no\nlist:\n- 1\n", "telemetry: no", 2),
    "twice": ("telemetry: no\ntelemetry: yes\n", "telemetry: no", 1),
    "twice, the other way": ("telemetry: yes\ntelemetry: no\n", "telemetry: no", 2),
    "no, and a broken id": ("telemetry: no\nid: 12\n", "telemetry: no", 1),
}

YES = {
    "canonical": (CANONICAL, "telemetry: true", 2, ID),
    "yes": (f"telemetry: yes\nid: {ID}\n", "telemetry: yes", 1, ID),
    "on": (f"telemetry: On # of course\nid: {ID}\n", "telemetry: On", 1, ID),
    "flow": (f"{{telemetry: yes, id: {ID}}}", "telemetry: yes", 1, ID),
    "quoted": (f"telemetry: 'yes'\nid: '{ID}'\n", "telemetry: yes", 1, ID),
    "capital id": (f"telemetry: true\nid: {ID.upper()}\n", "telemetry: true", 1, ID),
    "id without dashes": (f"telemetry: true\nid: {ID.replace('-', '')}\n", "telemetry: true", 1, ID),
    "id as urn": (f"telemetry: true\nid: urn:uuid:{ID}\n", "telemetry: true", 1, ID),
    "id of digits only": (
        "telemetry: true\nid: 12345678123412341234123456789012\n",
        "telemetry: true",
        1,
        "12345678-1234-1234-1234-123456789012",
    ),
    "windows lines": (f"id: {ID}\r\ntelemetry: true\r\n", "telemetry: true", 2, ID),
    "own value wins over merged": (
        f"b: &b {{telemetry: no}}\n<<: *b\ntelemetry: yes\nid: {ID}\n",
        "telemetry: yes",
        3,
        ID,
    ),
    "empty id": ("telemetry: true\nid:\n", "telemetry: true", 1, None),
    "no id": ("telemetry: true\n", "telemetry: true", 1, None),
}

DAMAGED = {
    "no in other words": "enabled: false\n",
    "no in other words, beside an id": f"id: {ID}\nopt_out: true\n",
    "misspelt": f"telemtry: false\nid: {ID}\n",
    "a heading": "settings:\n  telemetry: false\n",
    "look-alike letters": "t\u0435lemetry: false\n",
    "another program's yes": "analytics: true\n",
    "an id and more": f"id: {ID}\ntheme: dark\n",
    "empty": "",
    "blank": "\n\n  \n",
    "only comments": "# telemetry: true\n",
    "only a marker": "---\n",
    "null": "null\n",
    "a word": "telemetry\n",
    "no space after the colon": "telemetry:false\n",
    "an ini file": "telemetry=false\n",
    "a list": "- telemetry: true\n",
    "a number": "1\n",
    "not yaml": "telemetry: true\n{[",
    "unclosed quote": 'telemetry: "true\n',
    "unclosed flow": f"{{telemetry: true, id: {ID}",
    "two documents": "telemetry: true\n---\ntelemetry: false\n",
    "unclear choice": f"id: {ID}\ntelemetry: maybe\n",
    "choice cut off": f"id: {ID}\ntelemetry: tr",
    "no choice": f"id: {ID}\ntelemetry:\n",
    "null choice": f"id: {ID}\ntelemetry: null\n",
    "null choice, short": f"id: {ID}\ntelemetry: ~\n",
    "key without colon": f"{{telemetry, id: {ID}}}",
    "choice is a list": "telemetry: [true]\n",
    "choice is a mapping": "telemetry: {enabled: true}\n",
    "key without space": "{telemetry:false}",
    "key without space, after another": f"{{id: {ID}, telemetry:false}}",
    "equals sign": f"{{id: {ID}, telemetry=false}}",
    "dash before the key": f"id: {ID}\n-telemetry: false\n",
    "colon in the key": f"id: {ID}\n'telemetry:': false\n",
    "quotes around all": f'id: {ID}\n"telemetry: false":\n',
    "invisible character in the key": f"id: {ID}\ntelemetry\u200b: false\n",
    "plural": f"id: {ID}\nTelemetrys: false\n",
    "unclear once of twice": "telemetry: yes\ntelemetry: perhaps\n",
    "id cut off": "telemetry: true\nid: 0b6c1f3e-5a51-4d\n",
    "id alone, cut off": "id: 0b6c1f3e-5a51",
    "id is a mapping": f"telemetry: true\nid: {{{ID}}}\n",
    "not text": b"telemetry: true\n# f\xfcr mich\n",
    "zero bytes": b"\0" * 64,
    "half of utf-16": "\ufefftelemetry: true".encode("utf-16-le")[:-1],
    "utf-32": "\ufefftelemetry: true\n".encode("utf-32-le"),
    "control characters": "telemetry: true\n# \x1b[31m\n",
    "too large": "telemetry: true\n" + "#" * 70_000,
    "a bomb of brackets": "[" * 60_000,
    "a bomb of dashes": "- " * 30_000,
    "a bomb below a key": "telemetry: true\nx: " + "{a: " * 10_000,
    "anchor to itself": "&a [*a]\n",
    "unknown alias": "telemetry: *nothing\n",
}


@pytest.mark.parametrize("name", NO)
def test_every_way_to_write_no_is_understood(file, name):
    """What a person can have written to opt out opts out, names the line, and stays as it is."""
    content, shown, line = NO[name]
    raw = store(file, content)
    consent = read_consent()
    assert (consent.enabled, consent.mode) == (False, "off")
    assert consent.reason == f"{shown} in {file}, line {line}"
    assert file.read_bytes() == raw


@pytest.mark.parametrize("name", YES)
def test_every_way_to_write_yes_is_understood(file, name):
    """What a person can have written to opt in opts in under the file's id, and stays as it is."""
    content, shown, line, found_id = YES[name]
    raw = store(file, content)
    consent = read_consent()
    assert (consent.mode, consent.id) == ("on", found_id)
    assert consent.reason == f"{shown} in {file}, line {line}"
    identity(consent=consent)
    assert file.read_bytes() == raw


@pytest.mark.parametrize("content", [f"id: {ID}\n", f"{{id: {ID}}}", f"id: '{ID}'\n", f"ID: {ID}  # me\n"])
def test_a_file_that_holds_only_an_id_is_no_choice(file, content):
    """A file in which `telemetry` is missing leaves it on, under the file's id."""
    raw = store(file, content)
    consent = read_consent()
    assert (consent.mode, consent.id) == ("on", ID)
    assert consent.reason == f"on by default: no telemetry key in {file}"
    assert identity() == ID
    assert file.read_bytes() == raw


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_means_off(file, caplog, name):
    """What cannot be understood opts out with a DEBUG reason, and is neither repaired nor replaced."""
    caplog.set_level(logging.DEBUG, "atotelemetry")
    raw = store(file, DAMAGED[name])
    consent = read_consent()
    assert (consent.enabled, consent.mode) == (False, "off")
    assert consent.reason.startswith(f"damaged: {file}")
    assert consent.reason in caplog.text
    assert len(consent.reason) < len(str(file)) + 200
    assert TelemetryConfig.load().telemetry is False
    assert file.read_bytes() == raw
    assert files_below(file.parent) == ["telemetry.yaml"]


def test_damage_names_its_line(file):
    """The reason tells a person where to look."""
    store(file, f"# mine\nid: {ID}\ntelemetry: maybe\n")
    assert read_consent().reason == f"damaged: {file}, line 3: `telemetry: maybe` is neither yes nor no"
    store(file, "id: 1\ntelemetry: 'true\n")
    assert read_consent().reason.startswith(f"damaged: {file}, line ")


def test_a_directory_in_place_of_the_file_opts_out(file):
    """Something else under the file's name is damage, not absence."""
    file.mkdir(parents=True)
    assert read_consent().reason == f"damaged: {file}: not a regular file"


def test_a_named_pipe_in_place_of_the_file_keeps_nobody_waiting(file):
    """A pipe without a writer opts out at once instead of blocking the host."""
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    assert read_consent().reason == f"damaged: {file}: not a regular file"


def test_a_link_to_the_null_device_opts_out(file):
    """The well-known way to make a program forget its settings is a no."""
    file.parent.mkdir(parents=True)
    file.symlink_to(os.devnull)
    assert read_consent().mode == "off"


def test_a_file_that_may_not_be_read_opts_out(file, monkeypatch):
    """A choice exists, and we cannot see it: that is no yes."""
    store(file, CANONICAL)

    def refuse(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)
    assert read_consent().reason == f"damaged: {file}: Permission denied"


def test_a_link_is_followed_and_a_link_to_nothing_opts_out(file, tmp_path):
    """Dotfile managers link the file; while its target is away, so is the consent."""
    target = tmp_path / "dotfiles" / "telemetry.yaml"
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    assert read_consent().mode == "off"
    assert "symbolic link" in read_consent().reason
    store(target, CANONICAL)
    assert read_consent().id == ID


@pytest.mark.parametrize("link", ["atopile", ".config"])
def test_a_directory_that_is_a_link_to_nothing_opts_out(file, tmp_path, link):
    """The same where a directory on the way is the link; and no id is made meanwhile."""
    place = file.parent if link == "atopile" else file.parent.parent
    target = tmp_path / "not mounted"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)
    assert read_consent().reason == f"damaged: {file}: the target of the symbolic link {place} does not exist"
    assert (place.is_symlink(), target.exists()) == (True, False)
    target.mkdir()
    assert read_consent().reason == "no file yet: on by default"
    store(file, CANONICAL)
    assert read_consent().id == ID


def test_a_broken_yaml_library_opts_out(file, monkeypatch):
    """Whatever PyYAML does, nothing reaches the host and nobody is opted in."""
    store(file, f"{{telemetry: yes, id: {ID}}}")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert read_consent().mode == "off"


def test_an_unexpected_error_opts_out(file, monkeypatch):
    """A mistake of ours inside the decision is a no, not a traceback."""

    def fail(_path):
        raise RuntimeError("unexpected")

    monkeypatch.setattr(consent_module, "read_choice", fail)
    assert read_consent().mode == "off"


@pytest.mark.parametrize(
    "content", [NO[name][0] for name in ("canonical", "comments", "trailing comment", "letter")] + [CANONICAL]
)
def test_the_fast_reader_agrees_with_yaml(content):
    """What is understood without PyYAML means the same with it."""
    from atotelemetry.host.choice_yaml import interpret

    fast, slow = choice_module.read_plain(content.encode()), interpret(content.encode())
    assert fast is not None
    assert repr(fast) == repr(slow)


@pytest.mark.parametrize(
    "content",
    [
        "telemetry: no\n more\n",
        "telemetry: true\n  # x\n",
        "telemetry: true\ntelemetry: true\n",
        "x: |\n# y\n",
        "telemetry: 'no'",
        "telemetry:\ttrue",
        "",
        "#",
    ],
)
def test_the_fast_reader_leaves_alone_what_it_cannot_be_sure_of(content):
    """Continued lines, indentation, duplicates, other keys, quotes and tabs all go to PyYAML."""
    assert choice_module.read_plain(content.encode()) is None


# The id


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
import sys
from atotelemetry.host.consent import identity
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
sys.stdout.write(identity())
"""


def test_twelve_first_runs_at_once_share_one_id(file):
    """Whoever is quickest names the id, and the eleven others use it and leave nothing behind."""
    runs = [
        subprocess.Popen([sys.executable, "-c", FIRST_RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(12)
    ]
    try:
        for run in runs:
            assert run.stdout.readline() == "ready\n"
        for run in runs:
            run.stdin.write("go\n")
            run.stdin.flush()
        ids = [run.communicate(timeout=30)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.communicate()
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
            choice_module.create_in_place(str(file), b"x")
    assert files_below(file.parent) == []


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


# Editing somebody's file

EDITS = {
    "canonical": (f"id: {ID}\ntelemetry: true\n", f"id: {ID}\ntelemetry: false\n"),
    "comments and order": (
        f"# mine\ntelemetry: yes   # why not\n\nid: {ID} # me\ntheme: dark\n",
        f"# mine\ntelemetry: false   # why not\n\nid: {ID} # me\ntheme: dark\n",
    ),
    "flow": (f"{{telemetry: yes, id: {ID}}}", f"{{telemetry: false, id: {ID}}}"),
    "flow over lines": (
        f"{{\n  id: {ID},  # me\n  telemetry: 'on',\n}}",
        f"{{\n  id: {ID},  # me\n  telemetry: false,\n}}",
    ),
    "json": (f'{{"id": "{ID}", "telemetry": true}}', f'{{"id": "{ID}", "telemetry": false}}'),
    "quotes": (f"'telemetry': \"yes\"\nid: '{ID}'\n", f"'telemetry': false\nid: '{ID}'\n"),
    "document markers": (
        f"%YAML 1.1\n---\ntelemetry: on\nid: {ID}\n...\n",
        f"%YAML 1.1\n---\ntelemetry: false\nid: {ID}\n...\n",
    ),
    "windows lines": (f"id: {ID}\r\ntelemetry: true # x\r\n", f"id: {ID}\r\ntelemetry: false # x\r\n"),
    "accents before": (
        f"# für 😀\nname: Zoë\ntelemetry: true\nid: {ID}",
        f"# für 😀\nname: Zoë\ntelemetry: false\nid: {ID}",
    ),
    "byte order mark": (f"\ufefftelemetry: true\nid: {ID}\n", f"\ufefftelemetry: false\nid: {ID}\n"),
    "missing key": (f"# mine\nid: {ID}\n", f"# mine\ntelemetry: false\nid: {ID}\n"),
    "missing key, windows lines": (f"id: {ID}\r\n", f"telemetry: false\r\nid: {ID}\r\n"),
    "missing key, indented": (f"  id: {ID}\n  a: b\n", f"  telemetry: false\n  id: {ID}\n  a: b\n"),
    "missing key, flow": (f"{{id: {ID}}}", f"{{telemetry: false, id: {ID}}}"),
    "missing key, nothing else": ("{}\n", "{telemetry: false}\n"),
    "missing key, merged": (
        f"b: &b {{telemetry: yes}}\n<<: *b\nid: {ID}\n",
        f"telemetry: false\nb: &b {{telemetry: yes}}\n<<: *b\nid: {ID}\n",
    ),
    "unclear": (f"id: {ID}\ntelemetry: maybe # ?\n", f"id: {ID}\ntelemetry: false # ?\n"),
    "no value": (f"telemetry:\nid: {ID}\n", f"telemetry: false\nid: {ID}\n"),
    "no value, flow": (f"{{telemetry: , id: {ID}}}", f"{{telemetry: false , id: {ID}}}"),
    "no colon, flow": (f"{{telemetry, id: {ID}}}", f"{{telemetry: false, id: {ID}}}"),
    "alias": (
        f"d: &d yes\ntelemetry: *d  # x\nid: {ID}\ne: *d\n",
        f"d: &d yes\ntelemetry: false  # x\nid: {ID}\ne: *d\n",
    ),
    "twice": (f"telemetry: yes\nid: {ID}\ntelemetry: yes\n", f"telemetry: false\nid: {ID}\ntelemetry: false\n"),
    "explicit key": (f"? telemetry\n: yes\n? id\n: {ID}\n", f"? telemetry\n: false\n? id\n: {ID}\n"),
    "capital key": (f"Telemetry: Yes\nid: {ID}\n", f"Telemetry: false\nid: {ID}\n"),
    "next line": (f"telemetry:\n  yes\nid: {ID}\n", f"telemetry:\n  false\nid: {ID}\n"),
}


@pytest.mark.parametrize("name", EDITS)
def test_disabling_changes_one_value_and_no_other_byte(file, name):
    """Comments, order, quotes, line ends and other keys survive; only the value of `telemetry` changes."""
    before, after = EDITS[name]
    store(file, before)
    said = write_choice("atopile", enabled=False)
    assert file.read_bytes() == after.encode()
    assert f"telemetry: false in {file}, line ".lower() in said.lower()
    assert files_below(file.parent) == ["telemetry.yaml"]
    assert read_consent().mode == "off"


@pytest.mark.parametrize("name", EDITS)
def test_enabling_again_says_yes_and_touches_nothing_else(file, name):
    """After `disable`, `enable` gives back the same file but for the spelling of yes."""
    disabled = EDITS[name][1]
    store(file, disabled)
    write_choice("atopile", enabled=True)
    expected = disabled.replace("telemetry: false", "telemetry: true").replace("Telemetry: false", "Telemetry: true")
    expected = expected.replace("'telemetry': false", "'telemetry': true").replace(
        '"telemetry": false', '"telemetry": true'
    )
    expected = expected.replace("telemetry:\n  false", "telemetry:\n  true").replace(
        "telemetry\n: false", "telemetry\n: true"
    )
    assert file.read_bytes() == expected.encode()
    assert read_consent().mode == "on"


def test_utf_16_stays_utf_16(file):
    """A file as PowerShell writes it is edited in its own encoding."""
    store(file, f"\ufefftelemetry: yes # ä\r\nid: {ID}\r\n".encode("utf-16-le"))
    write_choice("atopile", enabled=False)
    assert file.read_bytes() == f"\ufefftelemetry: false # ä\r\nid: {ID}\r\n".encode("utf-16-le")


@pytest.mark.parametrize("content", ["telemetry: no # never\n", "{telemetry: 'off'}", "Telemetry: 0"])
def test_a_file_that_says_so_already_is_left_alone(file, content):
    """Saying no twice keeps the person's own words, and their time stamp."""
    raw = store(file, content)
    before = file.stat()
    assert write_choice("atopile", enabled=False).startswith("nothing to change: ")
    assert file.read_bytes() == raw
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("enabled", [True, False])
def test_a_choice_before_the_first_run_creates_the_file(file, enabled):
    """Enable and disable create a complete file, with an id, when there is none."""
    said = write_choice("atopile", enabled=enabled)
    choice = read_choice(str(file))
    assert choice.state == ("on" if enabled else "off")
    assert choice.id is not None
    assert said == f"created {file} with telemetry: {'true' if enabled else 'false'}"


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "empty",
        "not yaml",
        "a list",
        "two documents",
        "not text",
        "too large",
        "choice is a mapping",
        "a bomb of brackets",
    ],
)
def test_a_damaged_file_is_kept_under_another_name(file, name, enabled):
    """A choice can be made although the file is beyond repair, and what was in it is not lost."""
    raw = store(file, DAMAGED[name])
    said = write_choice("atopile", enabled=enabled)
    assert read_consent().mode == ("on" if enabled else "off")
    assert (file.parent / "telemetry.yaml.bak").read_bytes() == raw
    assert f"could not be understood and is now {file}.bak; wrote a new one: telemetry: " in said


def test_an_older_copy_is_not_overwritten(file):
    """A second damaged file gets a name of its own."""
    store(file.with_name("telemetry.yaml.bak"), "older")
    store(file, "")
    assert f"is now {file}.bak2;" in write_choice("atopile", enabled=False)
    assert file.with_name("telemetry.yaml.bak").read_text() == "older"


@pytest.mark.parametrize(
    "content",
    [f"id: {ID}\ntelemetry: |\n  yes\n", f"--- &top\nid: {ID}\n", f"id: {ID}\ntelemetry: &t yes\nother: *t\n"],
)
def test_what_cannot_be_edited_safely_is_replaced_under_the_same_id(file, content):
    """Where one value cannot be changed on its own, the old file is kept beside the new one."""
    raw = store(file, content)
    said = write_choice("atopile", enabled=False)
    assert "could not be edited safely" in said
    assert read_choice(str(file)).id == ID
    assert read_consent().mode == "off"
    assert file.with_name("telemetry.yaml.bak").read_bytes() == raw


def test_enabling_replaces_an_id_that_is_none(file):
    """A yes needs an id that can be read."""
    store(file, "telemetry: true\nid: 0b6c\n")
    write_choice("atopile", enabled=True)
    assert read_consent().mode == "on"
    assert uuid.UUID(read_consent().id)


def test_mode_bits_survive(file):
    """A file that others may read stays so, and a private one stays private."""
    store(file, CANONICAL)
    for mode in (0o644, 0o640, 0o600):
        file.chmod(mode)
        write_choice("atopile", enabled=read_consent().mode != "on")
        assert stat.S_IMODE(file.stat().st_mode) == mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_a_file_edited_by_root_stays_its_owners(file):
    """After `sudo … disable` the next run of the user can still read the file."""
    store(file, CANONICAL)
    os.chown(file, 12345, 12345)
    write_choice("atopile", enabled=False)
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 12345)


def test_a_link_stays_a_link_when_edited(file, tmp_path):
    """The edit goes to the file behind a symbolic link, also when that does not exist yet."""
    target = tmp_path / "dotfiles" / "telemetry.yaml"
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    write_choice("atopile", enabled=False)
    assert file.is_symlink()
    assert read_choice(str(target)).state == "off"
    write_choice("atopile", enabled=True)
    assert file.is_symlink()
    assert read_choice(str(target)).state == "on"


def test_nothing_but_a_regular_file_is_ever_replaced(file, tmp_path):
    """What a link leads to is reported, not replaced, when it is no file (a device, say, and root is asking)."""
    # A directory of the test's own stands for the device: if the guard were missing, nobody's machine would suffer.
    target = tmp_path / "not-a-file"
    target.mkdir()
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    with pytest.raises(ValueError, match="not a regular file"):
        write_choice("atopile", enabled=False)
    assert target.is_dir()
    assert sorted(os.listdir(tmp_path)) == ["home", "not-a-file"]
    assert os.listdir(file.parent) == ["telemetry.yaml"]


def test_an_interrupted_edit_leaves_the_old_file(file, monkeypatch):
    """When the new file cannot take its place, the old one is complete and nothing else is left."""
    raw = store(file, CANONICAL)

    def refuse(*_args, **_kwargs):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="busy"):
        write_choice("atopile", enabled=False)
    assert file.read_bytes() == raw
    assert files_below(file.parent) == ["telemetry.yaml"]


def test_a_choice_that_cannot_be_read_back_is_an_error(file, monkeypatch):
    """The command never claims a choice that the next run would not see."""
    store(file, CANONICAL)
    monkeypatch.setattr(edit_module._Place, "replace", lambda *_args: None)
    with pytest.raises(OSError, match="what can be read now is: telemetry: true in"):
        write_choice("atopile", enabled=False)


def test_a_choice_needs_a_place(file, monkeypatch, tmp_path):
    """Without a home directory, or with a file in the place of the directory, the error says what is wrong."""
    (tmp_path / "home" / ".config").write_text("")
    with pytest.raises(OSError, match=r"\.config"):
        write_choice("atopile", enabled=False)
    monkeypatch.setattr(edit_module, "choice_path", lambda _app: "")
    with pytest.raises(OSError, match="no home directory"):
        write_choice("atopile", enabled=False)


def test_an_edit_that_would_change_something_else_is_refused():
    """The edited text is parsed again: an anchor that others refer to is not removed."""
    with pytest.raises(ValueError):
        with_choice(b"telemetry: &t yes\nother: *t\n", enabled=False)


RACE = """
import sys
from atotelemetry.host.consent import identity, read_choice
from atotelemetry.host.edit import write_choice
what, path = sys.argv[1:]
sys.stdout.write("ready\\n"); sys.stdout.flush()
sys.stdin.readline()
if what == "run":
    identity("atopile")
else:
    try:
        write_choice("atopile", enabled=what == "enable")
    except OSError:
        pass  # it says so when another choice came right after its own
sys.stdout.write(f"{read_choice(path).state} ")
"""


@pytest.mark.parametrize("first", ["missing", "on"])
def test_a_no_against_first_runs_and_a_yes(file, first):
    """Whoever comes first, the file is whole, and no run undoes a no that was written after the last yes."""
    if first == "on":
        store(file, CANONICAL)
    for _ in range(3):
        words = ["run", "disable", "run", "enable", "run", "disable"]
        started = [
            subprocess.Popen(
                [sys.executable, "-c", RACE, word, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for word in words
        ]
        try:
            for process in started:
                assert process.stdout.readline() == "ready\n"
            for process in started:
                process.stdin.write("go\n")
                process.stdin.flush()
            ended = [process.communicate(timeout=60)[0].split() for process in started]
        finally:
            for process in started:
                process.kill()
                process.communicate()
        assert all(states and set(states) <= {"on", "off"} for states in ended), ended
        assert read_choice(str(file)).id is not None
        assert files_below(file.parent) == ["telemetry.yaml"]
        write_choice("atopile", enabled=False)
        assert identity() and read_consent().mode == "off"  # noqa: PT018 - a run, and what it left
        file.unlink()


# What the host pays

IMPORTED = """
import sys
before = set(sys.modules)
from atotelemetry.host import consent
imported = set(sys.modules) - before
decided = consent.read_consent()
consent.identity(consent=decided)
print(*sorted(imported), "|", *sorted(set(sys.modules) - before - imported), "|", decided.mode)
"""
# What only a person's own YAML, a project file, a notice or a command needs.
NOT_FOR_A_RUN = {f"atotelemetry.host.{name}" for name in ("choice_yaml", "edit", "notice", "project", "status")}


def modules_of_a_run():
    # Isolated and without site, so that nothing else has imported anything before; the package's place is handed over.
    place = os.path.dirname(os.path.dirname(os.path.dirname(consent_module.__file__)))
    run = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import sys; sys.path.insert(0, {place!r}){IMPORTED}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert run.stderr == ""
    imported, later, mode = run.stdout.split("|")
    return set(imported.split()), set(later.split()), mode.strip()


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
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert run.stdout == f"{ID} True\n"
