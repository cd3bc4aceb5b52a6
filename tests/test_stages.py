"""What the stages of a run will take, and what they took."""

import re
from pathlib import Path

import pytest
from helpers import ROOT

from stalegrad.training.speed import Speeds
from stalegrad.training.stages import JOB_SECONDS, STAGES, START, expected, spent, stage_of


def test_every_rule_belongs_to_a_stage():
    text = "".join(path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk"))
    rules = re.findall(r"^ *rule (\w+):", text, re.M)
    rules += re.findall(r'^ +f"(\w+_){study}"$', text, re.M)
    assert len(rules) > 12 and "spot_check" in rules and "judge_" in rules
    assert [rule for rule in rules if stage_of(rule) not in STAGES] == []
    assert stage_of("my_own_rule") == "my own rule"
    assert set(JOB_SECONDS) < set(STAGES)


def test_the_times_of_the_stages_are_said_at_the_start():
    rules = ["simulate_a", "judge_a", "judge_b", "spot_check", "all"]
    speeds = Speeds(2 * START, False, {})
    line = expected(rules, speeds, 2, 5)
    assert line == (
        "expected: about 6 min beside what is trained: simulations 9 s, verdicts 24 s, "
        "spot check 5 min"
    )
    assert expected(["all"], speeds, 2, 5) == ""
    assert "simulations 4 s" in expected(rules, None, 2, 5)
    assert "simulations 9 s" in expected(rules, None, None, 5)
    assert "spot check" not in expected(["judge_a"], speeds, 2, 5)


def test_the_times_of_the_stages_are_told_at_the_end():
    jobs = [
        ("simulate_a", 10.0, 20.0),
        ("simulate_b", 15.0, 25.0),
        ("judge_a", 30.0, 35.0),
        ("spot_check", 35.0, 335.0),
        ("all", 400.0, 900.0),
    ]
    assert [line.split() for line in spent(jobs)] == [
        ["time", "by", "stage:"],
        ["simulations", "15", "s"],
        ["verdicts", "5", "s"],
        ["spot", "check", "5", "min"],
        ["together", "5", "min"],
    ]
    assert spent([]) == [] == spent([("all", 1.0, 2.0)])


@pytest.mark.parametrize("variable", ["CHECK_MINUTES", "CHECK_SEED", "PRESET"])
def test_make_hands_on_what_is_asked_for(variable):
    text = Path(ROOT / "Makefile").read_text()
    assert re.search(rf"^## {variable}=", text, re.M)
    assert f"$({variable})" in text
