"""Files that say yes, files that are damaged, and the id of a run."""

from __future__ import annotations

from atotelemetry.host.consent import Consent, TelemetryConfig, read_consent, take_identity
from support_home import ID

CANONICAL = f"id: {ID}\ntelemetry: true\n"


DAMAGED = {
    "no in other words": "enabled: false\n",
    "no in other words, beside an id": f"id: {ID}\nopt_out: true\n",
    "misspelt": f"telemtry: false\nid: {ID}\n",
    "a heading": "settings:\n  telemetry: false\n",
    "look-alike letters": "t\u0435lemetry: false\n",
    "another program's yes": "analytics: true\n",
    "an id and more": f"id: {ID}\ntheme: dark\n",
    "empty": "",
    "blank": "\n\n  \n",
    "only comments": "# telemetry: true\n",
    "only a marker": "---\n",
    "null": "null\n",
    "a word": "telemetry\n",
    "no space after the colon": "telemetry:false\n",
    "an ini file": "telemetry=false\n",
    "a list": "- telemetry: true\n",
    "a number": "1\n",
    "not yaml": "telemetry: true\n{[",
    "unclosed quote": 'telemetry: "true\n',
    "unclosed flow": f"{{telemetry: true, id: {ID}",
    "two documents": "telemetry: true\n---\ntelemetry: false\n",
    "unclear choice": f"id: {ID}\ntelemetry: maybe\n",
    "choice cut off": f"id: {ID}\ntelemetry: tr",
    "no choice": f"id: {ID}\ntelemetry:\n",
    "null choice": f"id: {ID}\ntelemetry: null\n",
    "null choice, short": f"id: {ID}\ntelemetry: ~\n",
    "key without colon": f"{{telemetry, id: {ID}}}",
    "choice is a list": "telemetry: [true]\n",
    "choice is a mapping": "telemetry: {enabled: true}\n",
    "key without space": "{telemetry:false}",
    "key without space, after another": f"{{id: {ID}, telemetry:false}}",
    "equals sign": f"{{id: {ID}, telemetry=false}}",
    "dash before the key": f"id: {ID}\n-telemetry: false\n",
    "colon in the key": f"id: {ID}\n'telemetry:': false\n",
    "quotes around all": f'id: {ID}\n"telemetry: false":\n',
    "invisible character in the key": f"id: {ID}\ntelemetry\u200b: false\n",
    "plural": f"id: {ID}\nTelemetrys: false\n",
    "unclear once of twice": "telemetry: yes\ntelemetry: perhaps\n",
    "id cut off": "telemetry: true\nid: 0b6c1f3e-5a51-4d\n",
    "id alone, cut off": "id: 0b6c1f3e-5a51",
    "id is a mapping": f"telemetry: true\nid: {{{ID}}}\n",
    "not text": b"telemetry: true\n# f\xfcr mich\n",
    "zero bytes": b"\0" * 64,
    "half of utf-16": "\ufefftelemetry: true".encode("utf-16-le")[:-1],
    "utf-32": "\ufefftelemetry: true\n".encode("utf-32-le"),
    "control characters": "telemetry: true\n# \x1b[31m\n",
    "too large": "telemetry: true\n" + "#" * 70_000,
    "a bomb of brackets": "[" * 60_000,
    "a bomb of dashes": "- " * 30_000,
    "a bomb below a key": "telemetry: true\nx: " + "{a: " * 10_000,
    "anchor to itself": "&a [*a]\n",
    "unknown alias": "telemetry: *nothing\n",
}


def identity(app: str = "atopile", consent: Consent | None = None) -> str:
    """Return the id of this run's events; a random one if there are none."""
    return take_identity(app, consent or read_consent(app)) or str(TelemetryConfig.load(app).id)
