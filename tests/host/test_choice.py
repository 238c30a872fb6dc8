"""What a file says, in any YAML: yes, no, or damaged, which means no."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys

import pytest

from atotelemetry.host import choice as choice_module
from atotelemetry.host import consent as consent_module
from atotelemetry.host.consent import TelemetryConfig, read_consent
from support_choice import CANONICAL, DAMAGED, identity
from support_home import ID, files_below, store

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


@pytest.mark.posix("opening a directory")
def test_a_directory_in_place_of_the_file_opts_out(file):
    """Something else under the file's name is damage, not absence."""
    file.mkdir(parents=True)
    assert read_consent().reason == f"damaged: {file}: not a regular file"


@pytest.mark.posix("named pipes in a directory")
def test_a_named_pipe_in_place_of_the_file_keeps_nobody_waiting(file):
    """A pipe without a writer opts out at once instead of blocking the host."""
    file.parent.mkdir(parents=True)
    os.mkfifo(file)
    assert read_consent().reason == f"damaged: {file}: not a regular file"


@pytest.mark.posix("symbolic links")
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


@pytest.mark.posix("symbolic links")
def test_a_link_is_followed_and_a_link_to_nothing_opts_out(file, tmp_path):
    """Dotfile managers link the file; while its target is away, so is the consent."""
    target = tmp_path / "dotfiles" / "telemetry.yaml"
    file.parent.mkdir(parents=True)
    file.symlink_to(target)
    assert read_consent().mode == "off"
    assert "symbolic link" in read_consent().reason
    store(target, CANONICAL)
    assert read_consent().id == ID


@pytest.mark.posix("symbolic links")
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
    assert [getattr(fast, name) for name in fast.__slots__] == [getattr(slow, name) for name in fast.__slots__]


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
