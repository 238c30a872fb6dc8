"""The floor plan: which part of the package may import which, no circles, and no file that is too long.

The folders are the processes, and what two of them need lies below both. pytest runs this file, and `make lint` runs
it as a script. It reads the source and imports nothing of it, so it needs the standard library only.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).resolve().parents[1] / "src" / "atotelemetry"

# Each part, and the parts it may import. A part is a folder or a single file; `package` is the package's `__init__`.
ARROWS = {
    "ids": set(),
    "version": set(),
    "facts": {"ids", "version"},
    "wire": {"ids", "version"},
    "host": {"facts", "ids", "version", "wire"},
    "sender": {"facts", "ids", "version", "wire"},
    "testing": {"facts", "host", "ids", "version"},
    "command": {"facts", "host", "ids", "package", "sender", "testing", "version", "wire"},
    "package": {"facts", "host", "version"},
    "__main__": {"command", "package", "version"},
}
# What a part may import beside the standard library.
LIBRARIES = {
    "wire": {"msgspec"},
    "host": {"msgspec", "yaml", "_xxsubinterpreters"},  # the last one is part of Python before 3.13
    "sender": {"certifi", "httpx", "idna", "msgspec", "socksio", "truststore"},
    "testing": {"msgspec", "pytest"},
    "command": {"msgspec"},
}
# Files longer than `LONGEST` lines, and why they are not split.
LONGEST = 500
LONG: dict[str, str] = {}


class House:
    """The imports of every file below a package's directory."""

    def __init__(self, source: Path) -> None:
        self.package = source.name
        self.paths = {self._module(path, source): path for path in sorted(source.rglob("*.py"))}
        self.lengths = {
            path.relative_to(source).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
            for path in self.paths.values()
        }
        self.imports = {module: set(self._imported_by(path)) for module, path in self.paths.items()}

    def _module(self, path: Path, source: Path) -> str:
        inside = path.relative_to(source).with_suffix("").parts
        return ".".join([self.package, *(part for part in inside if part != "__init__")])

    def _imported_by(self, path: Path) -> Iterator[str]:
        """Yield the modules that a file imports when it runs, those inside functions included."""
        waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
        while waiting:
            node = waiting.pop()
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                waiting += node.orelse
                continue
            waiting += ast.iter_child_nodes(node)
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = "." * node.level + (node.module or "")
                for alias in node.names:
                    inner = f"{origin}.{alias.name}"
                    yield inner if inner in self.paths else origin
            elif isinstance(node, ast.Constant) and node.value in self.paths and path.parent.name == self.package:
                yield str(node.value)  # names that the package and its command resolve lazily

    def part(self, module: str) -> str:
        """Return the part of the house that a module is in."""
        return [*module.split("."), "package"][1]

    def faults(self) -> list[str]:
        """Return a line for each import that points the wrong way, for each circle, and for each file too long."""
        found = [
            f"{name} has {count} lines" for name, count in self.lengths.items() if count > LONGEST and name not in LONG
        ]
        for module, imported in self.imports.items():
            mine = self.part(module)
            for other in sorted(imported - {module}):
                if other in self.paths:
                    theirs = self.part(other)
                    if theirs != mine and theirs not in ARROWS.get(mine, set()):
                        found.append(f"{module} imports {other}: {mine} may not import {theirs}")
                elif other.startswith("."):
                    found.append(f"{module} imports {other}: imports are absolute here")
                elif (top := other.partition(".")[0]) not in sys.stdlib_module_names | LIBRARIES.get(mine, set()):
                    found.append(f"{module} imports {other}: {mine} does without {top}")
        graph = {module: (imported & self.paths.keys()) - {module} for module, imported in self.imports.items()}
        while True:
            try:
                TopologicalSorter(graph).prepare()
            except CycleError as error:
                imported, importer, *_ = circle = error.args[1]
                found.append("a circle: " + " → ".join(reversed(circle)))
                graph[importer].discard(imported)  # look for another one
            else:
                return found


def test_every_import_points_down():
    """No part imports one above or beside it, none imports a library that is not its own, no files form a circle."""
    assert House(SOURCE).faults() == []


def build(directory: Path, files: dict[str, str]) -> House:
    for name, content in files.items():
        path = directory / "atotelemetry" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return House(directory / "atotelemetry")


def test_a_wrong_arrow_is_named(tmp_path):
    """An import that points the wrong way is found wherever it stands; one for the type checker is none."""
    house = build(
        tmp_path,
        {
            "__init__.py": "_LAZY = {'a': 'atotelemetry.sender.loop'}",
            "host/client.py": "def f():\n    from atotelemetry.sender import loop",
            "host/event.py": "if TYPE_CHECKING:\n    from atotelemetry.sender import loop",
            "sender/loop.py": "import atotelemetry",
        },
    )
    assert house.faults() == [
        "atotelemetry imports atotelemetry.sender.loop: package may not import sender",
        "atotelemetry.host.client imports atotelemetry.sender.loop: host may not import sender",
        "atotelemetry.sender.loop imports atotelemetry: sender may not import package",
        "a circle: atotelemetry → atotelemetry.sender.loop → atotelemetry",
    ]


def test_a_circle_is_named(tmp_path):
    """Two files of one part that import each other are a circle, also when one does so inside a function."""
    house = build(
        tmp_path,
        {
            "host/block.py": "from atotelemetry.host.telemetry import Telemetry",
            "host/telemetry.py": "def f():\n    import atotelemetry.host.block",
        },
    )
    (circle,) = house.faults()
    assert circle.startswith("a circle: ")
    assert {"atotelemetry.host.block", "atotelemetry.host.telemetry"} == set(circle[10:].split(" → "))


def test_a_foreign_library_is_named(tmp_path):
    """A part imports the standard library and the libraries that are its own, and nothing relatively."""
    files = {"host/a.py": "import httpx, msgspec, os.path", "host/b.py": "from . import a", "ids.py": "import yaml"}
    house = build(tmp_path, files)
    assert house.faults() == [
        "atotelemetry.host.a imports httpx: host does without httpx",
        "atotelemetry.host.b imports .: imports are absolute here",
        "atotelemetry.ids imports yaml: ids does without yaml",
    ]


def test_a_file_that_is_too_long_is_named(tmp_path):
    """Longer files need a stated reason."""
    house = build(tmp_path, {"ids.py": "x = 1\n" * (LONGEST + 1), "version.py": "x = 1\n" * LONGEST})
    assert house.faults() == [f"ids.py has {LONGEST + 1} lines"]


if __name__ == "__main__":
    faults = House(SOURCE).faults()
    print("\n".join(faults) or "every import points down, no circle")
    sys.exit(bool(faults))
