"""Exceptions as real libraries raise them: all of it is listed, in frames that PostHog takes."""

from __future__ import annotations

import ast
import asyncio
import base64
import concurrent.futures
import configparser
import contextlib
import csv
import ctypes
import datetime
import decimal
import email.errors
import email.policy
import functools
import importlib
import io
import ipaddress
import json
import pathlib
import pickle
import random
import re
import shlex
import socket
import sqlite3
import string
import struct
import subprocess
import sys
import tomllib
import traceback
import urllib.request
import uuid
import zipfile
import zlib
import zoneinfo
from xml.etree import ElementTree

import attrs
import click
import httpx
import msgspec
import pydantic
import pytest
import typer
from typer.testing import CliRunner

from atotelemetry.host.exceptions import exception_properties
from atotelemetry.host.values import Walk
from support_posthog_rules import check_exception_properties, fingerprint, in_app


class Model(pydantic.BaseModel):
    number: int

    @pydantic.field_validator("number", mode="after")
    @classmethod
    def check(cls, value):
        """Refuse one value with an error of its own."""
        return 1 // (value - 13)


@attrs.define
class Point:
    x: int = attrs.field(validator=attrs.validators.instance_of(int))


class Record(msgspec.Struct):
    x: int


def typer_bug():
    app = typer.Typer()

    @app.command()
    def build(name: str):
        raise ValueError(name)

    raise CliRunner().invoke(app, ["x"]).exception


async def tasks():
    async def fail(number):
        await asyncio.sleep(0)
        try:
            raise OSError(number)  # noqa: TRY301 - as programs do
        except OSError as error:
            raise LookupError(number) from error

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(fail(number))


def in_thread():
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(int, "x").result()


def many_contexts():
    with contextlib.ExitStack() as stack:
        for what in (ValueError, KeyError, OSError):
            stack.callback(lambda what=what: (_ for _ in ()).throw(what("closing")))
        raise RuntimeError("inside")


def broken_config():
    parser = configparser.ConfigParser()
    parser.read_string("[a]\nx = %(missing)s\n")
    parser.get("a", "x")


def sqlite_error():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("select * from nothing")


def recursive_repr():
    value = []
    for _ in range(100_000):
        value = [value]
    json.dumps(value)


REAL = {
    "pydantic": lambda: Model(number="x"),
    "pydantic's validator": lambda: Model(number=13),
    "pydantic's json": lambda: Model.model_validate_json("{"),
    "typer": typer_bug,
    "typer's parameter": lambda: typer.main.get_command(typer.Typer()),
    "click": lambda: click.Command("c", params=[click.Option(["--n"], type=int)]).main(
        ["--n", "x"], standalone_mode=False
    ),
    "click's file": lambda: click.File()("/nonexistent/file", None, None),
    "httpx": lambda: httpx.get("http://127.0.0.1:1/", trust_env=False),
    "httpx's url": lambda: httpx.get("http://[::1", trust_env=False),
    "httpx's status": lambda: httpx.Response(500, request=httpx.Request("GET", "http://a/")).raise_for_status(),
    "attrs": lambda: Point(x="no"),
    "msgspec": lambda: msgspec.json.decode(b'{"x": "y"}', type=Record),
    "json": lambda: json.loads("{'a': 1}"),
    "json's recursion": recursive_repr,
    "task group": lambda: asyncio.run(tasks()),
    "timeout": lambda: asyncio.run(asyncio.wait_for(asyncio.Event().wait(), 0.001)),
    "thread": in_thread,
    "exit stack": many_contexts,
    "subprocess": lambda: subprocess.run([sys.executable, "-c", "1 / 0"], check=True, capture_output=True),
    "no program": lambda: subprocess.run(["/nonexistent/program"], check=True),
    "urllib": lambda: urllib.request.urlopen("http://127.0.0.1:1/"),
    "urllib's scheme": lambda: urllib.request.urlopen("nothing://x"),
    "xml": lambda: ElementTree.fromstring("<a>"),
    "sqlite": sqlite_error,
    "toml": lambda: tomllib.loads("a = "),
    "zip": lambda: zipfile.ZipFile(io.BytesIO(b"nothing")),
    "zlib": lambda: zlib.decompress(b"nothing"),
    "decimal": lambda: decimal.Decimal("x"),
    "struct": lambda: struct.unpack("I", b"1"),
    "pickle": lambda: pickle.dumps(lambda: None),
    "re": lambda: re.compile("(" + "a" * 10),
    "ast": lambda: ast.parse("def f(:\n"),
    "ast's literal": lambda: ast.literal_eval("f()"),
    "csv": lambda: list(csv.reader(["\0", 5])),
    "configparser": broken_config,
    "import": lambda: importlib.import_module("xml.nothing.at.all"),
    "ctypes": lambda: ctypes.CDLL("nothing.so"),
    "socket": lambda: socket.create_connection(("127.0.0.1", 1), timeout=1),
    "datetime": lambda: datetime.datetime.fromisoformat("never"),
    "uuid": lambda: uuid.UUID("x"),
    "ipaddress": lambda: ipaddress.ip_address("x"),
    "zoneinfo": lambda: zoneinfo.ZoneInfo("No/Where"),
    "pathlib": lambda: pathlib.Path("/nonexistent").read_text(),
    "shlex": lambda: shlex.split("'"),
    "template": lambda: string.Template("$x").substitute(),
    "base64": lambda: base64.b64decode("x", validate=True),
    "random": lambda: random.choice([]),
    "partial": lambda: functools.partial(int, base=1)("x"),
    "unicode": b"\xff".decode,
    "email": lambda: email.policy.strict.handle_defect(None, email.errors.StartBoundaryNotFoundDefect()),
}


def caught(name):
    try:
        REAL[name]()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def expected_entries(error):
    """Count what the standard library would print."""
    waiting, count = [traceback.TracebackException.from_exception(error)], 0
    while waiting:
        node = waiting.pop()
        count += 1
        context = None if node.__suppress_context__ or node.__cause__ else node.__context__
        waiting += [other for other in (node.__cause__, context, *(node.exceptions or ())) if other is not None]
    return count


@pytest.mark.parametrize("name", REAL)
def test_a_real_exception(name):
    """All of it is listed, in frames that PostHog takes; ours are in app by its rules, and the libraries' are not."""
    error = caught(name)
    properties = exception_properties(error, Walk(), distinct_id="me", own=[__name__])
    check_exception_properties(properties)
    entries = properties["$exception_list"]
    assert len(entries) == expected_entries(error)
    for entry in entries:
        for frame in entry.get("stacktrace", {"frames": []})["frames"]:
            is_generated = frame["filename"].startswith("<")  # by attrs, for instance
            assert in_app(frame) is (frame["module"] == __name__ and not is_generated), frame
            assert not frame["filename"].startswith(("/", "~"))
            assert frame["abs_path"] is None
    assert entries[0]["stacktrace"]["frames"][0]["function"] == "caught"
    assert properties["$exception_stack_trace"].endswith("\n")


def test_types_are_told_apart():
    """Each is a function of one module, so the type is what differs: there are as many issues as types, at least."""
    assert len(REAL) >= 40
    errors = [caught(name) for name in REAL]
    told = {fingerprint(exception_properties(error, Walk(), distinct_id="me", own=[__name__])) for error in errors}
    assert len(told) >= len({type(error) for error in errors})
