"""Random servers: what the sender says at the end agrees with what the server saw, for every event."""

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from atotelemetry.testing import Answer, CaptureServer
from support_sender import event, run_sender, to

SEEDS = range(10)


def random_answers(chance):
    """Return a function that answers requests: mostly failures at first, success in the end, poison never."""
    failures = [
        Answer(status=500),
        Answer(status=503, headers=[("Retry-After", "0")]),
        Answer(status=429, headers=[("Retry-After", "soon")]),
        Answer(status=408),
        Answer(status=413),
        Answer(status=400, body="no"),
        Answer(status=302),
        Answer(status=401),
        Answer(reset=True),
        Answer(drop=True),
        Answer(garbage=True),
        Answer(close=True),
        Answer(headers=[("Connection", "close")]),
    ]
    script = [chance.choice([Answer(), chance.choice(failures)]) for _ in range(chance.randrange(2, 8))]

    def answer(request):
        if any(event["event"].startswith("poison") for event in request.events):
            return Answer(status=400, body="poison")
        return script.pop(0) if script else Answer()

    return answer


def run_one(seed):
    chance = random.Random(seed)
    sent = []
    lines = []
    bad_lines = 0
    for number in range(chance.randrange(1, 30)):
        kind = chance.random()
        if kind < 0.1:
            lines.append(b'{"event": "torn\n')
            bad_lines += 1
        name = f"poison{number}" if kind > 0.93 else f"e{number}"
        sent.append(name)
        lines.append(event(name, number))
    with CaptureServer() as server:
        server.respond(random_answers(chance))
        options = {"max_retries": chance.randrange(3), "endpoint": chance.choice(["auto", "auto", "batch", "capture"])}
        done = run_sender(*lines, arguments=to(server.url, **options))
        accepted = [event["event"] for event in server.events]
        requests = server.requests
    return done, sent, accepted, bad_lines, requests, options["endpoint"] == "capture"


def test_every_event_is_accepted_once_or_named_as_dropped():
    """Exit code and summary say the same."""
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run_one, SEEDS))
    for seed, (done, sent, accepted, bad_lines, requests, single) in zip(SEEDS, results, strict=True):
        said = f"seed {seed}\n{done.stderr}"
        assert Counter(accepted) + Counter(done.dropped()) == Counter(sent), said
        if not single:  # where each event is a request, several may be on their way at once
            assert accepted == [name for name in sent if name in set(accepted)], said  # in order
        for request in requests:
            uuids = [event["uuid"] for event in request.events]
            assert len(uuids) == len(set(uuids)), said
        dropped = len(sent) - len(accepted)
        assert done.exit_code == (1 if dropped or bad_lines else 0), said
        plural = "s" if len(sent) != 1 else ""
        assert done.summary.startswith(
            f"done: {len(sent)} event{plural} read, {len(accepted)} delivered, {dropped} dropped"
        ), said
        assert ("bad line" in done.summary) == bool(bad_lines), said
