"""The one picture: what two events add to a command-line run, as SVG. Pure: results in, text out.

A bar for each contender in each of three situations, on one linear scale, so that lengths mean what they seem to; a bar
that would leave the picture is cut, and its figure says how long it is. The colours are of middle lightness and the
background is left open, so that it reads the same on a light page and on a dark one.
"""

from __future__ import annotations

__all__ = ["picture"]

CONTENDERS = (
    ("posthog", "posthog", "#d9822b"),
    ("sentry", "sentry-sdk", "#9a7bd0"),
    ("in_process", "thread and httpx", "#4a90c2"),
    ("atotelemetry", "atotelemetry", "#2f9e6e"),
    ("floor", "floor", "#8a8f98"),
)
SITUATIONS = (("healthy", "server healthy (100 ms)"), ("hanging", "server hanging"), ("refusing", "server refusing"))

INK = "#7a7d82"  # as far from white as from the black of dark pages
WIDTH, LEFT, RIGHT = 760, 120, 90
BAR, GAP, HEADING, TOP = 16, 5, 30, 56
LONGEST = 3000.0  # milliseconds: a longer bar is cut, so that the short ones can still be seen


def picture(results):
    """Return the SVG."""
    runs = results["runs"]
    shown = [(behaviour, label) for behaviour, label in SITUATIONS if behaviour in runs]
    contenders = [each for each in CONTENDERS if all(each[0] in runs[behaviour] for behaviour, _ in shown)]
    scale_end = min(
        LONGEST, max(_milliseconds(runs[behaviour][name]) for behaviour, _ in shown for name, *_ in contenders)
    )
    parts = []
    y = TOP
    for behaviour, label in shown:
        parts.append(_text(0, y + 14, label, size=14, weight="bold"))
        y += HEADING - 6
        for name, title, colour in contenders:
            run = runs[behaviour][name]
            capped, ours = run["capped"]["median"] > 0, name == "atotelemetry"
            parts += _bar(y, title, _milliseconds(run), scale_end, colour, capped=capped, ours=ours)
            y += BAR + GAP
        y += HEADING - 14
    head = [
        _text(0, 20, "What two telemetry events add to the run time of a command-line program", size=16, weight="bold"),
        _text(0, 40, "milliseconds until the prompt is back, median; shorter is better", size=13),
    ]
    style = "font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}"',
            f' role="img" aria-label="{_spoken(runs, shown, contenders)}" style="{style}">',
            *head,
            *parts,
            "</svg>",
            "",
        ]
    )


def _bar(y, title, value, scale_end, colour, *, capped, ours):
    room = WIDTH - LEFT - RIGHT
    cut = value > scale_end
    length = max(2.0, room * min(value, scale_end) / scale_end)
    weight = "bold" if ours else "normal"
    figure = f"{'over ' if capped else ''}{value:,.0f} ms"
    parts = [
        _text(LEFT - 8, y + 13, title, size=13, weight=weight, anchor="end"),
        f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{colour}"/>',
        _text(LEFT + length + 8, y + 13, figure, size=13, weight=weight),
    ]
    if cut or capped:  # two slanted strokes: this bar goes on
        strokes = f"M{LEFT + length - 14:.1f} {y + BAR + 2} l5 {-BAR - 4} m5 0 l-5 {BAR + 4}"
        parts.append(f'<path d="{strokes}" stroke="{INK}" stroke-width="2" fill="none"/>')
    return parts


def _text(x, y, text, *, size, weight="normal", anchor="start"):
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{INK}">'
        f"{text}</text>"
    )


def _milliseconds(run):
    return max(run["wall_gained"]["median"] * 1e3, 0.0)


def _spoken(runs, shown, contenders):
    """Say the same in words, for whoever does not see it."""
    sentences = []
    for behaviour, label in shown:
        figures = ", ".join(f"{title} {_milliseconds(runs[behaviour][name]):,.0f} ms" for name, title, _ in contenders)
        sentences.append(f"{label}: {figures}")
    return ". ".join(sentences)
