"""The types by which `ordinary` has msgspec check small containers.

Runs in the host. A module of its own, because it needs `typing` and msgspec when it is imported: at the first event
with such a container.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct, convert

__all__ = ["Numbers", "Rows", "RowsWithFloats", "Values", "convert"]

Text = Annotated[str, Meta(max_length=128)]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Small = Meta(max_length=8)


# A Struct, because msgspec remembers how to check one; an array, because the value is handed over in a tuple.


class Values(Struct, array_like=True, gc=False):
    """A list of scalars."""

    values: list[Text | Whole | float | bool | None]


class Numbers(Struct, array_like=True, gc=False):
    """A list of small dicts of whole numbers."""

    rows: list[Annotated[dict[Text, Whole | bool | None], Small]]


class Rows(Struct, array_like=True, gc=False):
    """A list of small dicts, without floats."""

    rows: list[Annotated[dict[Text, Text | Whole | bool | None], Small]]


class RowsWithFloats(Struct, array_like=True, gc=False):
    """A list of small dicts."""

    rows: list[Annotated[dict[Text, Text | Whole | float | bool | None], Small]]
