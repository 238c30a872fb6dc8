"""Who is signed in: a file that `ATO_SESSION` names, in place of the keyring and its tokens."""

from __future__ import annotations

import json
import os
from pathlib import Path


def signed_in() -> tuple[str, str | None] | None:
    """Return subject and e-mail address of the session, or None."""
    path = os.environ.get("ATO_SESSION")
    if not path:
        return None
    session = json.loads(Path(path).read_text(encoding="utf-8"))
    return session["sub"], session.get("email")
