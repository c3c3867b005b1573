"""The report of an ELECTRA run: what it shows is what the run's own nets say."""

import re

import pytest
import torch

from remask.cli import detecting
from remask.train.checkpoint import read_facts
from tests.train import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from remask.cli import main

    out = tmp_path_factory.mktemp("electra") / "run"
    words = f"train electra --data {runs.data()} --net tiny --length 32 --tokenizer bpe:300 --batch 4 --steps 3 --json"
    assert main([*words.split(), "--out", str(out)]) == 0
    return out


def test_the_page_has_the_figures_and_the_detector(remask, run):
    done = remask("report", run, "--json")
    assert done.status == 0, done.err
    html = (run / "report.html").read_text()
    value = read_facts(run)["metrics"]["detection_auc"]["value"]
    assert f"{value:.2f}" in re.sub(r"(\d\.\d\d)\d+", r"\1", html)
    for heading in ("How it learned", "What it is worth", "The detector at work", "Make it again"):
        assert heading in html


def test_what_the_detector_says_is_its_own(run):
    from remask.data.tokenizers import load
    from remask.train.opening import open_net

    text = "A mask token statement returns."
    tokenizer, net, facts = load(str(run)), open_net(run), read_facts(run)

    def ids_of(shown):
        return [tokenizer.encode(piece, add_special_tokens=False) for piece in shown.pieces]

    tries = (detecting.at_work(run, facts, [text], seed)[0] for seed in range(50))
    shown = next(s for s in tries if s.pieces != s.truth and all(len(i) == 1 for i in ids_of(s)))  # no half characters
    assert "".join(shown.truth) == text
    ids = ids_of(shown)
    with torch.inference_mode():
        chance = net.scores(net.hidden(torch.tensor([[i[0] for i in ids]]))[0]).sigmoid()
    assert torch.allclose(chance, torch.tensor(shown.probability), atol=1e-6)


def test_an_unfinished_run_has_no_report(remask, run, tmp_path):
    (tmp_path / "generator").mkdir()
    done = remask("report", tmp_path)
    assert done.status == 2 and "nothing to report" in done.err
