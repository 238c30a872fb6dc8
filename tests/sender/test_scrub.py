"""What is masked in the description of an exception, and that nothing else is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import msgspec
import pytest

from atotelemetry.sender.scrub import Scrubber, masked
from atotelemetry.testing import CaptureServer
from atotelemetry.wire import Event
from support_sender import END, hello, run_sender, to

HOMES = ["/boss", "/data/people/bob/", r"D:\People\Bob"]
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N"
KEY_BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('File "/boss/project/a.py", line 3', 'File "~/project/a.py", line 3'),
        ("/boss", "~"),
        ("[Errno 2] No such file: '/data/people/bob/x'", "[Errno 2] No such file: '~/x'"),
        ("file:///boss/x and (/boss/y), PATH=/bin:/boss/bin", "file://~/x and (~/y), PATH=/bin:~/bin"),
        (r"D:\People\Bob\x and 'D:\\People\\Bob\\y'", r"~\x and '~\\y'"),
        (
            "/mnt/boss/x /bossfs /boss.bak /data/people/bobby ./boss",
            "/mnt/boss/x /bossfs /boss.bak /data/people/bobby ./boss",
        ),
        ("/home/alice/p.py, /Users/eve: and /mnt/c/Users/zed/x", "~/p.py, ~: and ~/x"),
        (r"C:\Users\Bob Smith\x 'c:\\Users\\bob\\y' C:/Users/bob/z", r"~\x '~\\y' ~/z"),
        (r"C:\Users\bob is missing", "~ is missing"),
        ("/srv/home/alice/p.py home/alice", "/srv/home/alice/p.py home/alice"),
    ],
)
def test_homes(text, expected):
    """A home directory becomes `~` where a path begins with it, and a user's name where it stands below /home."""
    assert Scrubber(homes=HOMES).text(text) == expected


@pytest.mark.parametrize("home", ["/", "//", "", "relative/home", "~", ".", "C:\\"])
def test_a_home_that_is_none(home):
    """The root, or what is no absolute path, is nobody's home: paths would be lost."""
    text = "/usr/lib/x / relative/home/x ~/x"
    assert Scrubber(homes=[home]).text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://user:pa@ss@host/db", "postgres://user:***@host/db"),
        ("redis://:secret@host", "redis://:***@host"),
        ("https://host:8080/a@b", "https://host:8080/a@b"),
        ("Authorization: Basic Zm9vOmJhcg==", "Authorization: Basic ***"),
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("{'Authorization': 'Basic Zm9vOmJhcg=='}", "{'Authorization': ***}"),
        ("password=hunter2&user=me", "password=***&user=me"),
        ("api_key: abc, apiKey=def; API-KEY=ghi", "api_key: ***, apiKey=***; API-KEY=***"),
        ("""{"token": "a b", 'secret': 'c'}""", """{"token": ***, 'secret': ***}"""),
        (r"{\"password\": \"abc\"}", r"{\"password\": ***}"),
        ("DB_PASSWORD='s 3' AWS_SECRET_ACCESS_KEY=a/b+c", "DB_PASSWORD=*** AWS_SECRET_ACCESS_KEY=***"),
        ("--password hunter2 --api-token=x --verbose", "--password *** --api-token=*** --verbose"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        ("ghp_" + "a1" * 18, "***"),
        ("github_pat_" + "a1" * 20, "***"),
        ("glpat-" + "a1" * 10, "***"),
        ("xoxb-123456789-abcdef", "***"),
        ("https://hooks.slack.com/services/T00/B00/XXXX", "https://hooks.slack.com/services/***"),
        ("sk_live_" + "a1" * 12, "***"),
        ("AIza" + "a" * 35, "***"),
        (f"<{JWT}>", "<***>"),
        (f"key = '''{KEY_BLOCK}'''", "key = '''***\n\n\n'''"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut", "***\n"),
    ],
)
def test_secrets(text, expected):
    """Each kind in the documented list is masked."""
    assert Scrubber(homes=[]).text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "def login(token: str, password=None) -> None:",
        "token = tokens[0]",
        "secret = load(name)",
        "if token == other and password != x:",
        "KeyError: 'token'",
        "the password of bob@example.com was wrong",
        "12:30:45 https://example.com:443/a?b=c",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "01a215f5-a892-7832-9fc3-799540729657",
        "a ~/project/file.py b",
    ],
)
def test_what_is_no_secret(text):
    """Code, addresses and ids stay readable."""
    assert Scrubber(homes=HOMES).text(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("a", "-", " ", "'", ":", "://", "--a-", " -", "/home/", "C:\\Users\\", "eyJ", ".eyJ", "eyJ.eyJ", "Bearer "),
        *("password=", "password='", "token ", "password  ", "-----BEGIN PRIVATE KEY-----", "xoxb-", "pypi-", "/root"),
    ],
)
def test_time_is_linear(text):
    """No text, however odd, takes much longer than its length asks for."""
    scrubber = Scrubber(homes=HOMES)
    long = text * (200_000 // len(text))
    best = min(_seconds(scrubber, long) for _ in range(2))
    assert best < 3.0  # a quadratic pattern takes minutes


def _seconds(scrubber, text):
    start = time.process_time()
    scrubber.text(text)
    return time.process_time() - start


def clean(properties, scrub=True, common=None, event="$exception"):
    raw = msgspec.Raw(json.dumps(properties).encode())
    known = {name: msgspec.Raw(json.dumps(value).encode()) for name, value in (common or {}).items()}
    done, common = masked(Event(event=event, properties=raw), known, scrub)
    return {**{name: json.loads(bytes(value)) for name, value in common.items()}, **json.loads(bytes(done.properties))}


class TestProperties:
    SECRET = "password=hunter2"
    CLEAN = "password=***"

    def test_everything_about_the_exception(self):
        """Every property named `$exception…` is masked, in depth; the others are not."""
        known = {
            "$exception_message": self.SECRET,
            "$exception_list": [{"value": self.SECRET, "n": 1, "none": None, "stacktrace": {"frames": [self.SECRET]}}],
            "$exception_mine": {self.SECRET: [self.SECRET]},
            "argv": [self.SECRET],
            "number": 1.5,
        }
        assert clean(known) == {
            "$exception_message": self.CLEAN,
            "$exception_list": [{"value": self.CLEAN, "n": 1, "none": None, "stacktrace": {"frames": [self.CLEAN]}}],
            "$exception_mine": {self.CLEAN: [self.CLEAN]},
            "argv": [self.SECRET],
            "number": 1.5,
        }

    def test_further_names(self):
        """Other properties are masked by name, whether they are the event's own or common to the run."""
        known = {
            "argv": ["tool", "--password", "hunter2", "--token=x"],
            "env": {"DB_PASSWORD": "x", "TOKEN": 5, "A": 5},
        }
        expected = {
            "argv": ["tool", "--password", "***", "--token=***"],
            "env": {"DB_PASSWORD": "***", "TOKEN": "***", "A": 5},
        }
        assert clean(known, ("argv", "env")) == expected
        assert clean({}, ("argv", "env"), common=known) == expected
        assert clean({}, common=known) == known

    def test_turned_off(self):
        """False masks nothing."""
        known = {"$exception_message": self.SECRET}
        assert clean(known, scrub=False) == known

    def test_other_events(self):
        """The bytes of any other event stay as they are."""
        raw = msgspec.Raw(b'{"$exception_message":  "password=x", "argv": 1e400}')
        event = Event(event="cli:end", properties=raw)
        assert masked(event, {}, ("argv",))[0] is event

    def test_the_person_stays(self):
        """The person's id has to be the event's distinct_id."""
        assert clean({"$exception_person": "xoxb-123456789"})["$exception_person"] == "xoxb-123456789"

    @pytest.mark.parametrize("properties", [b"", b"null"])
    def test_no_properties(self, properties):
        """An event without any stays so."""
        event = Event(event="$exception", properties=msgspec.Raw(properties))
        assert bytes(masked(event, {}, True)[0].properties) == properties

    def test_a_key_in_the_source(self):
        """A private key that goes over the lines of a frame is masked as one; the lines stay as many."""
        lines = f"KEY = '''\n{KEY_BLOCK}\n'''".split("\n")
        frame = {"pre_context": lines[:3], "context_line": lines[3], "post_context": lines[4:], "lineno": 4}
        assert clean({"$exception_list": [frame]})["$exception_list"] == [
            {"pre_context": ["KEY = '''", "***", ""], "context_line": "", "post_context": ["", "'''"], "lineno": 4}
        ]

    def test_numbers_stay(self):
        """Integers and floats of the caller's keep their digits."""
        known = {"$exception_numbers": [2**63, -(2**63), 0.1, 1e300]}
        assert clean(known) == known


def test_a_line_written_by_hand_is_masked():
    """Also what a person pipes into a sender."""
    line = json.dumps({"event": "$exception", "properties": {"$exception_message": f"{os.path.expanduser('~')}/x"}})
    with CaptureServer() as server:
        run_sender(line.encode(), arguments=to(server.url))
        assert server.events[0]["properties"]["$exception_message"] == "~/x"


def test_the_hello_says_what_to_mask():
    """The host's setting reaches the sender."""
    line = json.dumps({"event": "$exception", "properties": {"$exception_message": "password=x", "argv": "password=x"}})
    for scrub, expected in ((["argv"], ["password=***"] * 2), (False, ["password=x"] * 2)):
        with CaptureServer() as server:
            run_sender(hello(server.url, scrub=scrub) + line.encode() + b"\n" + END)
            properties = server.events[0]["properties"]
            assert [properties["$exception_message"], properties["argv"]] == expected


PROGRAM = """
import os, sys
from atotelemetry import Telemetry
telemetry = Telemetry(app="mytool", api_key="phc_test", host=sys.argv[1], **eval(sys.argv[2]))
try:
    open(os.path.expanduser("~/no/such/file"))
except OSError as error:
    error.add_note("password=hunter2")
    telemetry.capture_exception(error, {"argv": ["--token", "abc"]})
"""


@pytest.mark.posix("paths with slashes")
@pytest.mark.parametrize(
    ("options", "home_is_masked", "argv"),
    [
        ("{}", True, "abc"),
        ("{'scrub': ('argv',)}", True, "***"),
        ("{'scrub': False, 'source_lines': False}", False, "abc"),
    ],
)
def test_from_a_real_program(tmp_path, options, home_is_masked, argv):
    """An exception arrives without the home directory in any of its texts, unless the application says so."""
    home = tmp_path / "somebody"
    home.mkdir()
    program = home / "tool.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "HOME": str(home), "MYTOOL_TELEMETRY": "on"}
    for name in ("DO_NOT_TRACK", "XDG_CONFIG_HOME"):
        environment.pop(name, None)
    with CaptureServer() as server:
        subprocess.run([sys.executable, program, server.url, options], env=environment, check=True, timeout=60)
        (event,) = server.wait_for_events(1)
    properties = event["properties"]
    text = json.dumps({name: value for name, value in properties.items() if name.startswith("$exception")})
    assert (str(home) in text) is not home_is_masked
    assert ("hunter2" in text) is not home_is_masked
    assert ("~/no/such/file" in text) is home_is_masked
    assert ('File \\"~/tool.py\\", line 6' in text) is home_is_masked
    assert ("telemetry.capture_exception(error" in text) is home_is_masked  # a line of source
    assert properties["argv"] == ["--token", argv]


@pytest.mark.posix("paths with slashes")
def test_log_mode_says_that_it_is_unmasked(tmp_path):
    """What a person reads on stderr is as it was captured, and says so."""
    program = tmp_path / "tool.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "HOME": str(tmp_path), "MYTOOL_TELEMETRY": "log"}
    environment.pop("XDG_CONFIG_HOME", None)
    for options, says_so in (("{}", True), ("{'scrub': False}", False)):
        done = subprocess.run(
            [sys.executable, program, "http://127.0.0.1:9", options],
            env=environment, check=True, timeout=60, capture_output=True, text=True,
        )  # fmt: skip
        event = json.loads(done.stderr)
        assert f"{tmp_path}/no/such/file" in event["properties"]["$exception_message"]
        assert event.get("note", "").startswith("shown unmasked") is says_so


def test_show_is_as_sent(tmp_path):
    """`show --exception` masks as a sender does."""
    environment = {**os.environ, "HOME": str(tmp_path), "ATO_TELEMETRY": "on"}
    for name in ("DO_NOT_TRACK", "XDG_CONFIG_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-m", "atotelemetry", "show", "--exception", "--json"],
        env=environment, timeout=60, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (event,) = [event for event in json.loads(done.stdout)["batch"] if event["event"] == "$exception"]
    assert "~/project" in event["properties"]["$exception_message"]
    assert str(tmp_path) not in json.dumps(event["properties"]["$exception_list"])
