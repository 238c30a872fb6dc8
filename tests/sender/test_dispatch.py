"""`sender/dispatch.py`: the retry decision, and that every event ends delivered or dropped, exactly once."""

import json
import math
import re
from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from atotelemetry.sender.batch import Prepared
from atotelemetry.sender.dispatch import RETRY_DELAY, Dispatcher, backoff
from atotelemetry.sender.endpoints import Endpoints
from atotelemetry.sender.outcome import DELIVERED, REFUSED, REJECTED, RETRY, STALE, TOO_LARGE, Outcome
from atotelemetry.sender.tally import Tally
from atotelemetry.wire import Hello


class FakeTime:
    """A clock that only `pause` and requests move. The host may end, or the person say no, at some moment of it."""

    def __init__(self, left=None):
        self.now = 0.0
        self.ends_at = left
        self.host_ends_at = self.no_at = math.inf
        self.deadline = 15.0
        self.asked = []
        self.pauses = []  # as long as they were

    def left(self):
        if self.ends_at is None and self.now >= self.host_ends_at:
            self.ends_at = self.host_ends_at + self.deadline
        if self.stopped():
            return 0.0
        return None if self.ends_at is None else max(0.0, self.ends_at - self.now)

    def stopped(self):
        return self.now >= self.no_at

    def pause(self, seconds, *, until_limited=False):
        limited_at = self.host_ends_at if until_limited and self.left() is None else math.inf
        ends_at = self.host_ends_at + self.deadline if self.ends_at is None else self.ends_at
        self.asked.append(seconds)
        self.pauses.append(max(0.0, min(seconds, min(limited_at, ends_at, self.no_at) - self.now)))
        self.now += self.pauses[-1]


class FakeJournal:
    """Keeps what was said."""

    def __init__(self):
        self.problems = []
        self.details = []

    def problem(self, text):
        self.problems.append(text)

    def detail(self, text):
        self.details.append(text)


class World:
    """A dispatcher, a server that is a function of the events' names and the request's number, and all they did."""

    def __init__(self, answer, *, left=None, takes=0.0, **settings):
        self.time = FakeTime(left)
        self.journal = FakeJournal()
        self.tally = Tally(self.journal)
        self.requests = []
        self.accepted = []
        self.limits = []
        self._answer = answer
        self._takes = takes
        greeting = Hello(protocol=1, api_key="k", host="http://x", **settings)
        self.dispatcher = Dispatcher(
            greeting,
            post=self._post,
            time=self.time,
            journal=self.journal,
            tally=self.tally,
            endpoints=Endpoints(greeting, self.journal),
        )

    def _post(self, request, count, limit):
        body = json.loads(request.body)
        events = body.get("batch") or [{name: value for name, value in body.items() if name != "api_key"}]
        assert count == len(events)
        names = [event["event"] for event in events]
        self.requests.append(names)
        self.limits.append(limit)
        self.time.now += self._takes
        answer = self._answer(names, len(self.requests) - 1)
        outcome = answer if isinstance(answer, Outcome) else Outcome(answer, f"because {answer}")
        if outcome.kind == DELIVERED:
            self.accepted += names
        return outcome

    def deliver(self, *names):
        self.tally.read += len(names)
        self.dispatcher.deliver([Prepared(name, name, json.dumps({"event": name}).encode()) for name in names])
        return self

    @property
    def dropped(self):
        names = []
        for problem in self.journal.problems:
            for item in re.match(r"dropped \d+ events? \((.*?)\): ", problem).group(1).split(", "):
                name, _, count = item.partition(" x ")
                names += [name] * int(count or 1)
        return names


def script(*answers):
    """Answer the first requests so, all further ones with success."""
    return lambda _names, number: answers[number] if number < len(answers) else DELIVERED


# ---- the retry decision


def test_the_pause_doubles_with_jitter_on_top():
    """Half a second, a second, two …, each up to a quarter longer."""
    assert [backoff(attempt, None, 0.0) for attempt in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff(0, None, 1.0) == RETRY_DELAY * 1.25
    assert backoff(10**6, None, 1.0) > 0  # never an overflow


@pytest.mark.parametrize(("asked", "pause"), [(None, 0.5), (0.0, 0.5), (0.1, 0.5), (3.0, 3.0)])
def test_a_longer_retry_after_wins(asked, pause):
    """The server knows better when to come back, but never sooner than we would."""
    assert backoff(0, asked, 0.0) == pause


@pytest.mark.parametrize("kind", [DELIVERED, REFUSED, TOO_LARGE, REJECTED])
def test_only_what_may_succeed_is_tried_again(kind):
    """A final answer is final, whatever the settings."""
    assert len(World(lambda *_: kind, max_retries=5).deliver("a").requests) == 1


@pytest.mark.parametrize(
    ("max_retries", "retry_after", "left", "pauses"),
    [
        (1, None, 15.0, [0.5]),
        (2, None, 15.0, [0.5, 1.0]),
        (0, None, 15.0, []),
        (1, 14.0, 15.0, [14.0]),
        (1, 15.0, 15.0, []),
        (1, 3600.0, 15.0, []),
        (1, math.inf, 15.0, []),
        (1, None, 0.4, []),
        (2, 9.0, 15.0, [9.0]),
    ],
)
def test_a_retry_needs_an_attempt_and_the_time_for_it(max_retries, retry_after, left, pauses):
    """Up to `max_retries`, and never for later than the deadline."""
    world = World(lambda *_: Outcome(RETRY, "busy", retry_after), left=left, max_retries=max_retries).deliver("a")
    assert world.time.asked == [pytest.approx(pause * 1.125, rel=0.13) for pause in pauses]  # the jitter is a quarter
    assert len(world.requests) == len(pauses) + 1


# ---- one request


def test_a_retried_request_is_the_same_request():
    """Same events, same order, same bytes of each."""
    world = World(script(RETRY, RETRY), max_retries=2).deliver("a", "b", "c")
    assert world.requests == [["a", "b", "c"]] * 3
    assert world.accepted == ["a", "b", "c"]
    assert [round(pause / RETRY_DELAY) for pause in world.time.pauses] == [1, 2]
    assert str(world.tally) == "3 events read, 3 delivered, 0 dropped"


def test_after_the_last_retry_the_events_are_dropped_with_the_last_reason():
    """And named, each once."""
    world = World(lambda *_: RETRY, max_retries=2).deliver("a", "b", "b")
    assert len(world.requests) == 3
    assert world.journal.problems == ["dropped 3 events (a, b x 2): because retry"]
    assert world.tally.dropped == {"because retry": 3}
    assert world.tally.lost == {"sender failed": 3}  # this server's answers have no cause
    assert not world.tally.complete


def test_a_final_answer_is_not_tried_again():
    """Nor does it hold up the next batch."""
    world = World(script(REJECTED), max_retries=5).deliver("a", "b").deliver("c")
    assert world.requests == [["a", "b"], ["c"]]
    assert (world.accepted, world.dropped, world.time.pauses) == (["c"], ["a", "b"], [])


def test_a_stale_connection_costs_no_retry():
    """The request goes out once more, at once, even when retries are forbidden."""
    world = World(script(STALE), max_retries=0).deliver("a")
    assert (world.requests, world.accepted, world.time.pauses) == ([["a"], ["a"]], ["a"], [])


def test_a_connection_that_is_always_stale_is_no_endless_loop():
    """The second time in a row is an ordinary failure."""
    world = World(lambda *_: STALE, max_retries=1).deliver("a")
    assert len(world.requests) == 4
    assert world.dropped == ["a"]


def test_a_retry_past_the_deadline_is_not_waited_for():
    """While the input goes on, the deadline to come is the measure."""
    world = World(lambda *_: Outcome(RETRY, "busy", 20.0), max_retries=3, sender_deadline=15.0).deliver("a")
    assert len(world.requests) == 1
    assert world.journal.problems == ["dropped 1 event (a): busy; no time left for a retry"]


def test_no_attempt_begins_without_time():
    """What cannot be tried is dropped, with the reason of the attempt before if there was one."""
    world = World(lambda *_: RETRY, left=0.0).deliver("a")
    assert world.requests == []
    assert world.journal.problems == ["dropped 1 event (a): no time left before the deadline"]


def test_an_attempt_is_told_how_much_time_is_left():
    """Nothing when there is no limit yet."""
    assert World(script()).deliver("a").limits == [None]
    assert World(script(), left=7.0).deliver("a").limits == [7.0]


def test_a_bug_costs_the_events_at_hand_and_no_others():
    """The sender goes on with the next batch."""

    def answer(names, _number):
        if "a" in names:
            raise KeyError("a bug")
        return DELIVERED

    world = World(answer).deliver("a").deliver("b")
    assert (world.dropped, world.accepted) == (["a"], ["b"])
    assert "KeyError" in world.journal.problems[0]


# ---- refused as a whole


@pytest.mark.parametrize("count", [2, 3, 7, 64, 1000])
def test_one_bad_event_is_found_and_the_rest_delivered(count):
    """400 for the whole batch: halved until the bad event is alone, in about two requests for each halving."""
    bad = f"e{count // 3}"
    names = [f"e{number}" for number in range(count)]
    world = World(lambda names, _: REFUSED if bad in names else DELIVERED).deliver(*names)
    assert world.dropped == [bad]
    assert world.accepted == [name for name in names if name != bad]  # and in their order
    assert len(world.requests) <= 2 * count.bit_length() + 1


def test_several_bad_events_are_each_found():
    """Next to each other, at both ends, or all of them."""
    for bad in ({"e0", "e9"}, {"e4", "e5"}, {f"e{number}" for number in range(10)}):
        names = [f"e{number}" for number in range(10)]
        world = World(lambda names, _, bad=bad: REFUSED if bad.intersection(names) else DELIVERED).deliver(*names)
        assert set(world.dropped) == bad
        assert world.accepted == [name for name in names if name not in bad]


def test_a_request_that_is_too_large_is_halved_and_later_ones_are_smaller():
    """413: each half goes; a server with a small limit is not asked too much again and again."""
    world = World(lambda names, _: TOO_LARGE if len(names) > 300 else DELIVERED)
    names = [f"e{number:04}-{'x' * 1000}" for number in range(1000)]
    world.deliver(*names)
    assert world.accepted == names
    assert [len(request) for request in world.requests] == [1000, 500, 250, 250, 500, 250, 250]
    assert world.dispatcher.limit_bytes < 300_000


def test_a_lone_event_that_is_refused_is_dropped():
    """There is nothing left to halve."""
    for kind in (REFUSED, TOO_LARGE):
        world = World(script(kind)).deliver("a")
        assert (world.dropped, len(world.requests)) == (["a"], 1)


def test_a_half_has_its_own_retries():
    """An outage in the middle of the search for the bad event loses nothing."""
    answers = iter([REFUSED, RETRY, DELIVERED, RETRY, DELIVERED])
    world = World(lambda *_: next(answers), max_retries=1).deliver("a", "b", "c", "d")
    assert world.accepted == ["a", "b", "c", "d"]


# ---- always


ANSWERS = st.builds(
    Outcome,
    st.sampled_from([RETRY, RETRY, DELIVERED, STALE, REFUSED, TOO_LARGE, REJECTED]),
    st.just("because"),
    st.sampled_from([None, None, 0.0, 1.0, 30.0]),
)
OUTAGES = st.builds(lambda answer, count: [answer] * count, ANSWERS, st.integers(1, 12))


class DispatcherMachine(RuleBasedStateMachine):
    """A dispatcher in a world that may change between two batches: the server, the network, the host, the person."""

    @initialize(
        patient=st.booleans(),
        max_retries=st.integers(0, 3),
        endpoint=st.sampled_from(["auto", "batch"]),
        takes=st.sampled_from([0.0, 0.2, 6.0]),
    )
    def begin(self, **settings):
        # Pauses are spread by chance, and Hypothesis wants the same world again.
        self.chance = pytest.MonkeyPatch()
        self.chance.setattr("os.urandom", bytes)
        self.patient, self.takes = settings["patient"], settings["takes"]
        self.attempts = 1 + settings["max_retries"]
        self.answers = []
        self.poison = set()
        self.sent = []
        self.world = World(self.answer, **settings)

    def teardown(self):
        self.chance.undo()

    def answer(self, names, _number):
        assert self.world.limits[-1] != 0.0, "no attempt begins without time"
        if self.poison.intersection(names):
            return REFUSED
        answer = self.answers.pop(0) if self.answers else Outcome(DELIVERED)
        self.stale += answer.kind == STALE
        return answer

    @rule(
        count=st.sampled_from([1, 2, 3, 9, 40]),
        poisoned=st.sets(st.integers(0, 39), max_size=3),
        answers=st.just([]) | st.lists(ANSWERS, max_size=8) | OUTAGES,
    )
    def deliver(self, count, poisoned, answers):
        self.answers = list(answers)
        names = [f"e{len(self.sent) + number}" for number in range(count)]
        self.poison |= {names[number] for number in poisoned if number < count}
        self.sent += names
        time, begun, well, requests = self.world.time, self.world.time.now, not self.answers, len(self.world.requests)
        self.stale = 0
        self.world.deliver(*names)
        if well and time.left() != 0.0:
            assert self.poison.intersection(names) == set(self.world.dropped).intersection(names)
        most = max(Counter(map(tuple, self.world.requests[requests:])).values(), default=0)
        assert self.patient or most <= self.attempts + self.stale  # a stale connection costs no attempt
        if time.left() == 0.0:
            ends_at = max(begun, min(time.no_at, time.ends_at or math.inf))
            assert time.now <= ends_at + self.takes + 1e-6  # sums of fractions

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds):
        self.world.time.now += seconds

    # Late enough that something happens before.
    @precondition(lambda self: len(self.world.requests) >= 10)
    @rule(seconds=st.floats(0, 20))
    def the_host_ends(self, seconds):
        self.world.time.host_ends_at = min(self.world.time.host_ends_at, self.world.time.now + seconds)

    @precondition(lambda self: len(self.world.requests) >= 20)
    @rule(seconds=st.floats(0, 5))
    def the_person_says_no(self, seconds):
        self.world.time.no_at = min(self.world.time.no_at, self.world.time.now + seconds)

    @invariant()
    def every_event_is_accepted_or_dropped_once(self):
        tally, accepted, dropped = self.world.tally, self.world.accepted, self.world.dropped
        assert sorted(accepted + dropped) == sorted(self.sent)
        assert accepted == [name for name in self.sent if name in set(accepted)]  # in order
        assert (tally.read, tally.delivered) == (len(self.sent), len(accepted))
        assert sum(tally.dropped.values()) == sum(tally.lost.values()) == len(dropped)
        assert tally.complete == (not dropped)
        assert self.poison <= set(dropped)

    @invariant()
    def no_pause_goes_beyond_the_deadline(self):
        assert self.patient or max(self.world.time.asked, default=0.0) < self.world.time.deadline


TestDispatcher = pytest.mark.timeout(300)(DispatcherMachine.TestCase)  # seconds of CPU, and a machine may be busy


def test_a_name_without_end_does_not_fill_the_log():
    """It is cut where it is said, not where it is sent."""
    world = World(script(REJECTED)).deliver("n" * 10_000)
    assert len(world.journal.problems[0]) < 200


# ---- patience, and a no


def network_is_down(until):
    """Answer like a network that is down until a moment of the fake clock."""

    def answer(world):
        return Outcome(RETRY, "down", cause="network: connect failed") if world.time.now < until else DELIVERED

    return answer


def patient_world(answer, **settings):
    """Make a dispatcher of a patient host, and a server that knows the time."""
    world = World(lambda *_: answer(world), patient=True, **settings)
    return world


def test_a_patient_host_is_retried_for_as_long_as_it_lives():
    """With pauses that grow up to half a minute, whatever `max_retries` says."""
    world = patient_world(network_is_down(until=600), max_retries=0).deliver("a")
    assert world.accepted == ["a"]
    assert world.dropped == []
    assert world.time.pauses[:3] == sorted(world.time.pauses[:3])
    assert max(world.time.pauses) <= 30 * 1.25
    assert 600 <= world.time.now < 640


def test_at_the_end_of_a_patient_host_the_pauses_begin_anew():
    """The deadline starts then; the long pause of an old outage would waste it."""
    world = patient_world(network_is_down(until=100 + 7))
    world.time.host_ends_at = 100.0
    world.deliver("a")
    assert world.accepted == ["a"]
    # Rounded, because they are sums of random pauses.
    after = [moment for moment in (round(moment, 6) for moment in moments(world.time.pauses)) if moment >= 100]
    assert after[0] == 100  # at once
    assert after[1] <= 100.0 + RETRY_DELAY * 1.25
    assert after[2] <= 100.0 + 3 * RETRY_DELAY * 1.25


def moments(pauses):
    """Return the moments at which pauses ended, when nothing else takes time."""
    return [sum(pauses[: number + 1]) for number in range(len(pauses))]


def test_a_patient_host_that_ended_is_dropped_at_the_deadline():
    """Its events are counted with the cause of the last attempt."""
    world = patient_world(network_is_down(until=math.inf))
    world.time.host_ends_at = 3.0
    world.deliver("a")
    assert world.tally.lost == {"network: connect failed": 1}
    assert world.time.now <= 3.0 + 15.0


def test_a_final_answer_ends_patience():
    """Only what may still succeed is waited for."""
    world = patient_world(lambda _: Outcome(REJECTED, "HTTP 401", cause="refused (401)")).deliver("a")
    assert world.tally.lost == {"refused (401)": 1}
    assert len(world.requests) == 1


def test_after_a_no_nothing_more_is_posted():
    """Not even what waits for its retry."""
    world = World(lambda *_: RETRY, max_retries=5)
    world.time.no_at = 0.3
    world.deliver("a", "b")
    assert len(world.requests) == 1
    assert world.tally.lost == {"disabled": 2}
    assert world.time.now == 0.3


def test_what_was_posted_before_a_no_may_be_accepted():
    """It cannot be called back."""
    world = World(script(), takes=1.0)
    world.time.no_at = 0.3
    world.deliver("a")
    assert world.tally.delivered == 1
