"""The parts of the benchmark that measure nothing: its table of scenarios, its budgets, and README's figures."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.bench import __main__ as bench
from tests.bench import budgets, report, scenarios
from tests.bench.summary import ratio, summary

BENCH = Path(__file__).parent / "bench"
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def document():
    """Return the committed results."""
    return json.loads((BENCH / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("part", "render"), [("numbers", report.in_words), ("bench", report.for_readme)])
def test_readme_has_the_figures_of_the_committed_results(document, part, render):
    """Nobody edits a figure by hand, and no figure is of another run than the others."""
    readme = README.read_text(encoding="utf-8")
    block = readme.partition(f"<!-- {part}:begin -->")[2].partition(f"<!-- {part}:end -->")[0]
    assert block.strip() == render(document)


def test_the_terminal_shows_every_figure_of_the_committed_results(document):
    """Whatever was measured stands in some table."""
    text = report.for_terminal(document)
    for scenario in document["scenarios"]:
        assert report.TABLES[scenario][0] in text


def test_every_scenario_has_a_table_and_a_host():
    """A scenario is one line of the table: nothing else has to know of it, but what prints it."""
    contenders = {each.removeprefix("contender_") for each in (path.stem for path in (BENCH / "hosts").iterdir())}
    for scenario in scenarios.SCENARIOS:
        assert scenario.name in report.TABLES
        assert not scenario.section or scenario.section in {*report.SECTIONS, "hanging", "refusing", "typer"}
        if scenario.name in {"runs", "programs", "inside", "steady", "stream", "at once", "dead network"}:
            assert contenders.issuperset(scenario.contenders), scenario
        assert len({*scenario.fewer} - {*scenario.contenders}) == 0


def test_contenders_run_in_turn_and_the_first_round_only_warms_up():
    """A B A B: what the machine does meanwhile meets all alike. A slow contender has fewer rounds."""
    runs = []

    def measure(name):
        runs.append(name)
        return {"wall": float(len(runs))}

    seen = scenarios.in_turn({"none": 5, "ours": 5, "slow": 1}, measure)
    assert runs[:5] == ["none", "ours", "none", "ours", "slow"]
    assert [len(reports) for reports in seen.values()] == [5, 5, 1]
    figures = scenarios.summed_up(seen)
    assert figures["ours"]["wall"]["n"] == 5
    assert figures["none"]["wall_gained"]["median"] == 0


def test_a_budget_is_met_up_to_its_allowance():
    """A ratio says how much of an allowance is used, in both directions; what was not measured is not judged."""
    assert budgets.Budget("", 2.0, 2.0, "ms").met
    assert not budgets.Budget("", 2.0, 2.1, "ms").met
    assert budgets.Budget("", 6.0, 12.0, "times", at_least=True).ratio == 0.5
    assert not budgets.Budget("", 6.0, 5.9, "times", at_least=True).met
    assert budgets.Budget("", 6.0, None, "times", at_least=True).met is None
    assert {line.met for line in budgets.judge({})} == {None}


def test_a_summary_is_of_all_values_and_a_ratio_of_sensible_ones():
    """Noise may make a difference negative; then its ratio says nothing."""
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0, "iqr": 1.0, "n": 3}
    assert summary([]) is None
    assert ratio(1.0, 2.0) == 0.5
    assert ratio(-1.0, 2.0) is None
    assert ratio(1.0, 0.0) is None


def test_without_another_python_the_report_says_why(monkeypatch, document):
    """A machine that cannot have it loses one table, with a sentence in its place."""
    why = "next_python: cannot run here: it needs a Debian system"
    refused = subprocess.CompletedProcess([], 69, stdout="", stderr=f"some progress\n{why}\n")
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: refused)
    sentence = bench.on_next_python()
    assert sentence.startswith("The main table on Python 3.14 is missing")
    assert sentence.endswith(why)
    assert sentence in report.for_readme({**document, "next": sentence})


def test_the_main_table_of_another_python_stands_behind_the_figures(document):
    """It is smaller, and says which Python it is of."""
    other = {**document, "machine": {**document["machine"], "python": "3.14.99"}}
    text = report.for_readme({**document, "next": other})
    assert text.count(report.MAIN.title) == 2
    assert "3.14.99" in text
    assert "3.14.99" in report.for_terminal({**document, "next": other})
