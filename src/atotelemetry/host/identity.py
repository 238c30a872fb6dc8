"""The signed-in person, as the application knows it.

Runs in the host, on the capturing thread, for each event: a person may sign in during a run. The application's function
may raise or return anything; that ends in a DEBUG line.
"""

from __future__ import annotations

from _thread import get_ident

from atotelemetry.host.debug import attempt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Identity"]

_NOBODY: tuple[str | None, str | None] = (None, None)


class Identity:
    """Asks the application's function for the distinct id and the e-mail address of the person.

    Args:
        ask: called without arguments. Returns a distinct id, or (distinct id, e-mail or None), or None for nobody.

    """

    __slots__ = ("_ask", "_asking")

    def __init__(self, ask: Callable[[], str | tuple[str, str | None] | None]) -> None:
        self._ask = ask
        self._asking: set[int] = set()

    def __call__(self) -> tuple[str | None, str | None]:
        """Return distinct id and e-mail address; None for each that is not known. Raises nothing but a Ctrl-C."""
        thread = get_ident()
        if thread in self._asking:
            # The function itself captured something (a handler of its log): asking it again would never end.
            return _NOBODY
        self._asking.add(thread)
        try:
            # Also SystemExit ends here: a failed sign-in must not end the program from within a capture.
            return attempt(self._answer, default=_NOBODY, why="the identity is not known: %r")
        finally:
            self._asking.discard(thread)

    def _answer(self) -> tuple[str | None, str | None]:
        answer = self._ask()
        person, email = answer if isinstance(answer, tuple) else (answer, None)
        return _text(person), _text(email)


def _text(value: object) -> str | None:
    return (str(value).strip() or None) if value is not None else None
