"""The least that a sender costs: an interpreter that imports httpx and msgspec and makes one POST.

python -P -S sender_floor.py URL

Nothing is read, gathered, retried or worked out. httpx is imported as this project does it, without its command line,
and without certificates, which http does not need; otherwise the floor would not be one.
"""

from __future__ import annotations

import sys


def main(url):
    sys.modules["httpx._main"] = None
    import ssl

    import httpx
    import msgspec

    event = {"event": "run started", "distinct_id": "me", "properties": {"command": "build", "verbose": False}}
    body = msgspec.json.encode({"api_key": "phc_bench", **event})
    with httpx.Client(trust_env=False, verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)) as client:
        answer = client.post(f"{url}/capture/", content=body, headers={"Content-Type": "application/json"})
    return answer.status_code != 200


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
