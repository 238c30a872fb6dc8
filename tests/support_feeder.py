"""Feeders whose senders are pipes that the test reads: it decides when one is slow, when it dies and what it answers.

Real senders are tested in `test_client.py`, `test_spawn.py` and `hazards/`.
"""

from __future__ import annotations

import _thread
import json
import os
import select
import sys
import threading
import types

import pytest

from atotelemetry.host import transport as transport_module
from atotelemetry.host.child import Sender
from atotelemetry.host.feeder import Feeder
from atotelemetry.host.spawn import CannotSpawn
from atotelemetry.wire import Outcome, Ready, encode
from support_processes import PATIENCE, wait_until

HELLO = b'{"hello":1}'
END = b'{"end":1}'
FORKED = b'{"forked":1}'


if sys.platform == "win32":
    import _winapi
    import msvcrt

    from atotelemetry.host.spawn_windows import WindowsSender as SenderHere

    def pipes() -> tuple[int, int, int, int]:
        """Make two pipes: descriptors for the test, handles that do not wait for the sender."""
        read_end, pipe = _winapi.CreatePipe(None, 65536)
        answers, answer_end = _winapi.CreatePipe(None, 65536)
        _winapi.SetNamedPipeHandleState(pipe, 1, None, None)
        read_end, answer_end = (msvcrt.open_osfhandle(end, os.O_BINARY) for end in (read_end, answer_end))
        return read_end, pipe, answers, answer_end

    def is_full(sender: PipeSender) -> bool:
        return _winapi.PeekNamedPipe(msvcrt.get_osfhandle(sender.read_end), 0)[0] > 65536 - 16384

else:
    SenderHere = Sender

    def pipes() -> tuple[int, int, int, int]:
        read_end, pipe = os.pipe()
        answers, answer_end = os.pipe()
        os.set_blocking(pipe, False)
        os.set_blocking(answers, False)
        return read_end, pipe, answers, answer_end

    def is_full(sender: PipeSender) -> bool:
        return not select.select([], [sender.pipe], [], 0)[1]


class PipeSender(SenderHere):
    """A sender without a process: the test holds the other ends of its pipes."""

    def __init__(self, number: int) -> None:
        self.read_end, pipe, answers, self.answer_end = pipes()
        super().__init__(number, pipe, answers)
        self.answers_itself = True
        self.received = b""

    def close(self) -> None:
        super().close()
        if self.answers_itself and self.read_end >= 0:
            self.answer(ready=True, delivered=self.given, last=True)

    def _reap(self) -> None:
        self.left_alone = self.reaped = True

    # ---- what the test does with it

    def answer(self, *, ready: bool = False, **outcome: object) -> None:
        """Say that it reads, or tell the fate of its events."""
        lines = [encode(Ready())] * ready + [encode(Outcome(**outcome))] * bool(outcome)
        os.write(self.answer_end, b"".join(line + b"\n" for line in lines))

    def read(self, until: bytes) -> list[bytes]:
        """Read until the input ends with a line; return all lines so far."""
        while not self.received.endswith(until + b"\n"):
            data = os.read(self.read_end, 65536)
            assert data, f"the input ended with {self.received[-100:]!r}"
            self.received += data
        return self.received.splitlines()

    def read_to_end(self) -> list[bytes]:
        """Read until the pipe is closed; return all lines."""
        while data := os.read(self.read_end, 65536):
            self.received += data
        return self.received.splitlines()

    def is_full(self) -> bool:
        """Whether the pipe takes no more now."""
        return is_full(self)

    def die(self) -> None:
        """Close everything, as a killed process does."""
        if self.read_end >= 0:
            # Noted before the feeder can see it: a dead sender does not answer.
            read_end, self.read_end = self.read_end, -1
            os.close(read_end)
            os.close(self.answer_end)


class Spawner:
    """Stands in for `start_sender`: starts what the test planned."""

    def __init__(self) -> None:
        self.senders: list[PipeSender] = []
        self.fed_at_once: list[int] = []
        self.calls = 0
        self.plan: list[Exception | str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.called = threading.Event()

    def __call__(self, *, urgent: bool, watch: bool, dumps: int) -> PipeSender:
        self.urgent, self.watch, self.dumps = urgent, watch, dumps
        self.calls += 1
        self.called.set()
        assert self.may_go_on.wait(PATIENCE)
        step = self.plan.pop(0) if self.plan else "serve"
        if isinstance(step, Exception):
            raise step
        self.fed_at_once.append(1 + sum(sender.pipe >= 0 for sender in self.senders))
        sender = PipeSender(len(self.senders) + 1)
        self.senders.append(sender)
        if step == "die":
            sender.die()
        if step == "serve":
            sender.answer(ready=True)
        return sender

    def sender(self, number: int) -> PipeSender:
        """Wait for the sender with this number, from 1."""
        wait_until(lambda: len(self.senders) >= number)
        return self.senders[number - 1]


def event(number: int, size_bytes: int = 0) -> bytes:
    return json.dumps({"n": number, "x": "x" * size_bytes}, separators=(",", ":")).encode()


def events(count: int, size_bytes: int = 0) -> list[bytes]:
    return [event(number, size_bytes) for number in range(count)]


def told(lines: list[bytes]) -> list[tuple[bytes, int]]:
    """Make long lines comparable without a failure that fills the screen."""
    return [(line[:20], len(line)) for line in lines]


@pytest.fixture
def spawner(monkeypatch):
    made = Spawner()
    monkeypatch.setattr(transport_module, "start_sender", made)
    monkeypatch.setattr(transport_module, "_RETRY_SPAWN", 0.001)
    monkeypatch.setattr(transport_module, "_LOOK_INTERVAL", 0.005)
    yield made
    for sender in made.senders:
        sender.die()
        sender.close()


@pytest.fixture
def threads():
    """Return a function that counts the threads started since the beginning of the test; at its end, all have ended."""
    before = _thread._count()  # feeders' threads are none of `threading`
    yield lambda: _thread._count() - before
    wait_until(lambda: _thread._count() <= before)


@pytest.fixture
def new_feeder(spawner, threads):
    """Return a maker of feeders; after the test their threads end."""
    made: list[Feeder] = []

    def make(
        queue_size: int = 1000,
        hello=lambda: HELLO,
        end=lambda *_, **__: END,
        holds=lambda: True,
        last_words=None,
        **options,
    ) -> Feeder:
        stream = types.SimpleNamespace(
            hello=hello,
            end=end,
            holds=holds,
            network_pause=lambda: 0.0,
            last_words=last_words,
            patient=False,
            listen=lambda: -1 if last_words is None else last_words.listen(),
            mute=lambda: last_words and last_words.mute(),
            watch_no_longer=lambda: last_words and last_words.disable(),
            forked=lambda: FORKED,
        )
        feeder = Feeder(queue_size=queue_size, stream=stream, **options)
        made.append(feeder)
        return feeder

    yield make
    spawner.may_go_on.set()
    for sender in spawner.senders:
        sender.die()
    spawner.plan = [CannotSpawn("the test is over")] * 10
    for feeder in made:
        feeder.flush(PATIENCE, stop=True)
        wait_until(feeder.is_over)


@pytest.fixture
def feeder(new_feeder):
    return new_feeder()
