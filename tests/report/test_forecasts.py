"""The page of a classifier: every number in it is one that came."""

import pytest

from remask.report.forecasts import tell


def facts(**rest):
    bins = [
        {"low": k / 10, "high": (k + 1) / 10, "rows": 10 * k, "confidence": k / 10 + 0.05, "accuracy": k / 10}
        for k in range(10)
    ]
    metrics = {
        "nats": {"value": 0.4321, "stderr": 0.01, "unit": "nats per prefix", "n": 240},
        "brier": {"value": 0.1234, "stderr": 0.005, "unit": "Brier score", "n": 240},
        "calibration_error": {"value": 0.0321, "stderr": None, "unit": "probability", "n": 240},
    }
    own = {"asks": "Length & <more>", "drawn": 2400, "satisfied": 777, "examples": 6543}
    return {**own, "metrics": metrics, "reliability": bins, **rest}


def test_what_the_page_tells():
    html = tell(facts(), "remask train attribute DIR --out OUT", {"seed": "0"}, {"remask": "1"})
    for said in (">0.432 ", ">0.1234 ", "0.0321", "2,400", "777", "6,543", "Length &amp; &lt;more&gt;", "--out OUT"):
        assert said in html
    assert html.count("<circle") == 9  # the empty bin has no dot
    assert "Brier skill" not in html


@pytest.mark.parametrize("stderr", [None, float("nan")])
def test_an_error_that_nobody_knows_is_left_out(stderr):
    metrics = {"brier": {"value": 0.25, "stderr": stderr, "unit": "Brier score", "n": 1}}
    html = tell(facts(metrics=metrics), "", {}, {})
    assert ">nan" not in html
    assert "0.25" in html
