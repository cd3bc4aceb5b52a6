"""Every criterion of the studies is on trial, and what was changed of it is written down."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, home_of

from stalegrad.analysis.claims import (
    CANNOT_TELL,
    NOT_REPRODUCED,
    NULL_PASSES,
    REPRODUCED,
    VERDICTS,
    claims_of,
)
from stalegrad.analysis.nulls import Null
from stalegrad.analysis.results import read_csv

STUDIES = sorted(path.parent.name for path in ROOT.glob("studies/*/criteria.csv"))
COLUMNS = ["claim", "old_criterion", "old_verdict", "new_criterion", "reason"]
MEASURED = read_csv(ROOT / "measured" / "verdicts.csv")
JUDGED = MEASURED.to_dict("records")
CLAIMS = [(study, name) for study in STUDIES for name in claims_of(home_of(study))]


def named(row: dict) -> str:
    return f"{row['study']}.{row['claim']}"


@pytest.mark.parametrize("study", STUDIES)
def test_every_claim_has_a_row_that_says_what_became_of_it(study):
    rows = pd.read_csv(home_of(study) / "criteria.csv", keep_default_na=False)
    assert list(rows.columns) == COLUMNS
    assert not rows["claim"].duplicated().any()
    assert set(claims_of(home_of(study))) <= set(rows["claim"])
    assert (rows[["old_criterion", "new_criterion", "reason"]] != "").all(axis=None)
    assert set(rows["old_verdict"]) <= {*VERDICTS, "none"}
    new = rows["old_criterion"] == "none"
    assert (rows.loc[new, "old_verdict"] == "none").all()


@pytest.mark.parametrize(("study", "name"), CLAIMS, ids=".".join)
def test_a_claim_has_a_null_and_a_ceiling_or_says_why_not(study, name):
    needs = claims_of(home_of(study))[name].claim
    for kind in ("null", "ceiling"):
        assert isinstance(needs[kind], Null) or needs[kind] != "None was given.", kind
    if needs["threshold"] is None:
        assert "None was given." not in (needs["null"], needs["ceiling"])


def test_all_claims_are_judged():
    assert [(row["study"], row["claim"]) for row in JUDGED] == CLAIMS


@pytest.mark.parametrize("row", JUDGED, ids=named)
def test_a_verdict_has_floor_ceiling_and_robustness_or_says_why_not(row):
    assert not pd.isna(row["null"]) and not pd.isna(row["best"])
    assert not pd.isna(row["floor"]) or ":" not in row["null"] or "missing" in row["null"]
    assert isinstance(row["robustness"], str)


@pytest.mark.parametrize("row", JUDGED, ids=named)
def test_no_verdict_flips_within_the_interval_of_its_seeds(row):
    if row["verdict"] not in (REPRODUCED, NOT_REPRODUCED):
        return
    assert "without seed" not in row["robustness"]
    threshold = claims_of(home_of(row["study"]))[row["claim"]].claim["threshold"]
    if threshold is not None and not np.isnan(row["low"]):
        sides = {threshold.meets(row[end]) for end in ("low", "value", "high")}
        assert sides == {row["verdict"] == REPRODUCED}


@pytest.mark.parametrize("row", JUDGED, ids=named)
def test_what_a_null_meets_is_no_verdict(row):
    """By what verdicts.csv says of the null: one verdict, or how many of each."""
    said = str(row["null"]).rpartition(": ")[2]
    counts = dict.fromkeys(VERDICTS, 0) | {
        v: int(n) for n, v in re.findall(r"(\d+) ([a-z ]+)", said)
    }
    met = counts[REPRODUCED] if sum(counts.values()) else int(said == REPRODUCED)
    if met > NULL_PASSES * max(1, sum(counts.values())):
        assert row["verdict"] == CANNOT_TELL
