"""The import of msgspec: its core alone, and nobody can tell.

Each test is a fresh interpreter, because a process imports msgspec once.
"""

from __future__ import annotations

import os

import pytest

import atotelemetry
from support_processes import run_python

pytest.importorskip("typing_extensions", reason="nothing to leave out")

# A program that uses msgspec in every way that has to do with type hints.
USES_MSGSPEC = """
import datetime, decimal, typing, uuid
import typing_extensions
import msgspec, msgspec.inspect

class Movie(typing_extensions.TypedDict, total=False):
    name: typing_extensions.Required[str]
    year: typing_extensions.Annotated[int, msgspec.Meta(ge=1900)]

class Pair(typing_extensions.NamedTuple):
    left: "typing_extensions.Optional[int]" = None
    right: typing_extensions.Literal["a", "b"] = "a"

class Part(msgspec.Struct):
    id: uuid.UUID
    price: decimal.Decimal
    movies: list[Movie]
    pair: Pair
    when: "datetime.datetime | None" = None

T = typing_extensions.TypeVar("T")

class Box(msgspec.Struct, typing.Generic[T]):
    inside: T

text = b'{"id": "8d6b2d1c-7b1e-4d0e-9f0a-000000000000", "price": "1.10", "movies": [{"name": "x", "year": 1999}],'
text += b'"pair": [1, "b"]}'
print(msgspec.json.decode(text, type=Part), msgspec.json.decode(b'{"inside": 1}', type=Box[int]))
for wrong in (b'[{"year": 1999}]', b'[{"name": "x", "year": 1}]'):
    try:
        msgspec.json.decode(wrong, type=list[Movie])
    except msgspec.ValidationError as error:
        print(error)
print(msgspec.inspect.type_info(Part))
print(msgspec.json.schema(list[Movie]), msgspec.inspect.is_struct_type(Part))
print(msgspec._utils.__name__, msgspec._utils.__file__, msgspec._utils.__spec__.name)
import msgspec._utils as once_more
print(once_more is msgspec._utils is sys.modules["msgspec._utils"])
"""

LEAN = """
from atotelemetry.host.lazy import load
load("msgspec")
"""


def run(source: str) -> str:
    """Run `source` in a fresh interpreter; return what it printed."""
    return run_python("import sys\n" + source, options=("-W", "error"))


@pytest.mark.parametrize("loaded", ["pass", "import typing_extensions"])
def test_it_takes_nothing_along(loaded):
    """An event, also one with odd values, loads the core of msgspec, and no schemas, no other formats, no `inspect`."""
    source = f"""
{loaded}
before = set(sys.modules)
import atotelemetry
client = atotelemetry.TelemetryClient("k", "http://127.0.0.1:9")
client.capture("a", properties={{"odd": object(), "rows": [{{"a": 1}}] * 20}})
client.disabled = True
new = sorted(set(sys.modules) - before)
print([name for name in new if name in ("typing_extensions", "inspect") or "msgspec." in name])
"""
    assert run(source) == "['msgspec._core', 'msgspec._utils']\n"


@pytest.mark.parametrize("loaded", ["pass", "import typing_extensions", "import msgspec"])
def test_a_host_that_uses_msgspec_sees_no_difference(loaded):
    """Types, hints, errors and schemas are what they are after an ordinary import, whatever was loaded before."""
    assert run(f"{loaded}\n" + LEAN + USES_MSGSPEC) == run(USES_MSGSPEC)


@pytest.mark.parametrize(
    "use",
    [
        "from msgspec import *\nprint(sorted(set(globals()) & set(dir(__import__('msgspec')))))",
        "import msgspec.json\nprint(msgspec.json.encode([1]), msgspec.json.schema(int))",
        "from msgspec import json, field, __version__\nprint(json.decode(b'1'), field(default=1).default, __version__)",
        "import msgspec\nprint(hasattr(msgspec, 'nothing'), 'json' in dir(msgspec), msgspec.yaml.__name__)",
        "import msgspec\ntry: msgspec.nothing\nexcept AttributeError as error: print(error)",
        "import importlib, msgspec\nprint(importlib.reload(msgspec) is msgspec, msgspec.Struct.__name__)",
    ],
)
def test_every_way_to_its_names_leads_there(use):
    """What the core lacks is loaded when somebody asks for it."""
    assert run(LEAN + use) == run(use) != ""


def test_uuid_is_what_it_always_is():
    """It loads `platform` up to Python 3.12, to ask for one word; nobody sees that it did not."""
    source = """
import uuid
print({name: value for name, value in sorted(vars(uuid).items()) if isinstance(value, (str, int, bytes, uuid.UUID))})
print(sorted(vars(uuid)), uuid.UUID(int=7), uuid.uuid1().node == uuid.getnode(), uuid.uuid5(uuid.NAMESPACE_DNS, "x"))
import platform, pickle
print(platform.system(), platform.machine(), pickle.loads(pickle.dumps(uuid.UUID(int=7))))
"""
    assert run(LEAN + source) == run(source)
    assert run(LEAN + "print('platform' in sys.modules)") == "False\n"


def test_threads_that_ask_at_once_all_get_it():
    """There is no moment at which a name is missing."""
    source = """
import threading
errors, gate = [], threading.Barrier(8)
def work():
    gate.wait()
    try:
        import msgspec
        assert msgspec.json.schema(int) and msgspec.inspect.type_info(int) and msgspec.toml and msgspec.field
    except BaseException as error:
        errors.append(error)
threads = [threading.Thread(target=work) for _ in range(8)]
sys.setswitchinterval(1e-6)
for thread in threads: thread.start()
for thread in threads: thread.join()
print(errors)
"""
    assert run(LEAN + source) == "[]\n"


def test_a_core_that_lacks_a_name_is_no_obstacle():
    """Another version of msgspec may call its encoder differently; then the public names serve."""
    source = """
import msgspec._core
del msgspec._core.JSONEncoder, msgspec._core.msgpack_decode
from atotelemetry import wire
import msgspec
print(wire.encode({"a": 1}), wire.Encoder is msgspec.json.Encoder)
"""
    assert run("import msgspec\n" + source) == "b'{\"a\":1}' True\n"


def test_what_msgspec_takes_from_there_is_what_typing_has():
    """The reason why it can be left out; a version that takes more would show here."""
    source = """
import typing, typing_extensions, msgspec._utils as asks
print(asks.Required is typing.Required, asks.NotRequired is typing.NotRequired)
class Hinted:
    a: "typing.Annotated[int, 1]"
    b: "typing.Optional[str]" = None
    c: "typing.ClassVar[int]" = 1
theirs, ours = (module.get_type_hints(Hinted, include_extras=True) for module in (typing_extensions, typing))
print(theirs == ours)
of_theirs = [name for name, value in vars(asks).items() if getattr(value, "__module__", "") == "typing_extensions"]
print(set(of_theirs) <= {"_get_type_hints"})
"""
    assert run(source).split() == ["True"] * 4


@pytest.mark.parametrize("loaded", ["typing_extensions", "msgspec"])
def test_a_host_that_has_either_keeps_it(loaded):
    """Then there is nothing to gain, and nothing of ours gets between."""
    source = (
        f"import {loaded}"
        + LEAN
        + """
import msgspec._utils, builtins
print(msgspec._utils.get_type_hints.__builtins__ is vars(builtins), "typing_extensions" in sys.modules)
"""
    )
    assert run(source).split() == ["True", "True"]


def test_nobody_else_is_told_that_it_is_not_there():
    """What is imported meanwhile, by msgspec or by another thread, finds it; so does msgspec itself afterwards."""
    source = (
        """
import threading
found = []
class Meanwhile:
    def find_spec(self, name, *_):
        if name == "typing" and not found:
            def work():
                global found_there
                import typing_extensions
                found.append(typing_extensions)
            found.append("asked")
            thread = threading.Thread(target=work)
            thread.start()
            threads.append(thread)
threads = []
sys.meta_path.insert(0, Meanwhile())
sys.modules.pop("typing", None)
"""
        + LEAN
        + """
for thread in threads:
    thread.join()
import msgspec._utils, typing_extensions
print(found[0], found[1] is typing_extensions)
print(msgspec._utils.get_type_hints.__builtins__["__import__"] is __import__)
"""
    )
    assert run(source).split() == ["asked", "True", "True"]


@pytest.mark.parametrize(
    "broken",
    [
        "PathFinder.find_spec = classmethod(lambda *_: restore())",
        "PathFinder.find_spec = classmethod(lambda *_: restore() or no_such_name)",
        "SourceFileLoader.get_code = lambda *_: restore() or compile('raise OSError', '', 'exec')",
    ],
    ids=["not found", "the finder fails", "the module fails"],
)
def test_where_it_is_not_as_expected_msgspec_is_imported_as_usual(broken):
    """Another finder, another loader, another msgspec: the event costs a little more, and that is all."""
    source = (
        f"""
from _frozen_importlib_external import PathFinder, SourceFileLoader
import atotelemetry.host.lazy
finder, loader = vars(PathFinder)["find_spec"], SourceFileLoader.get_code
restored = []
def restore():
    PathFinder.find_spec, SourceFileLoader.get_code = finder, loader
    restored.append(True)
{broken}
"""
        + LEAN
        + """
print(restored == [True], "msgspec" in sys.modules, "typing_extensions" in sys.modules)
"""
    )
    assert run(source).split() == ["True"] * 3


@pytest.mark.posix("a package that lies outside site-packages")
def test_without_msgspec_it_says_so():
    """A broken installation raises what an import statement raises; the client makes that a counted drop."""
    source = """
sys.path[:] = [entry for entry in sys.path if "site-packages" not in entry]
import os
sys.path.append(os.environ["OURS"])
try:
    from atotelemetry.host.lazy import load
    load("msgspec")
except ModuleNotFoundError as error:
    print(error.name)
"""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(atotelemetry.__file__)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OURS", ours)
        assert run(source) == "msgspec\n"
