"""evaluate, sample, fill, score: what scripts may rely on, and that they say what the library says."""

import json
import math
import re

import pytest
import torch

from remask.core.objective import Batch
from remask.core.stream import Stream
from remask.data.pack import pack
from remask.data.text import read
from remask.data.tokenizers import encode
from remask.metrics.nelbo import draws_of_rows
from remask.objectives.autoregressive import shifted
from remask.samplers import SAMPLERS
from remask.train.checkpoint import load
from remask.train.evaluate import score, weigh
from tests.train.runs import LENGTH, causal, held, trained


@pytest.fixture(scope="module")
def model():
    return load(trained())


@pytest.fixture
def masked():
    """The directory of a masked model, as a word."""
    return str(trained())


# ---- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_has_the_figures_and_they_are_the_librarys(line, masked, model):
    found = line("evaluate", masked, "--data", held())
    rows = pack(encode(model.tokenizer, [d.text for d in read([str(held())])]), LENGTH, model.alphabet.end)
    for name, estimate in weigh(model.net, model.alphabet, rows).items():
        assert found[name] == estimate.json()
    assert {"bits_per_byte", "perplexity", "nats_per_token"} <= set(found)
    for name in ("bits_per_byte", "perplexity", "nats_per_token"):
        assert {"value", "stderr", "n"} <= set(found[name])
        assert found[name]["n"] == len(rows.tokens) == found["rows"]
        assert found[name]["stderr"] > 0
    assert found["perplexity"]["value"] == pytest.approx(math.exp(found["nats_per_token"]["value"]))
    assert found["length"] == LENGTH
    assert "upper bound" in found["kind"]


def test_evaluate_is_a_function_of_the_seed(line, masked):
    words = ["evaluate", masked, "--data", held()]
    assert line(*words, "--seed", 3) == line(*words, "--seed", 3)
    assert line(*words, "--seed", 3)["bits_per_byte"] != line(*words, "--seed", 4)["bits_per_byte"]


def test_evaluate_on_shorter_rows_several_files_and_another_estimator(line, masked):
    found = line("evaluate", masked, "--data", held(), held(), "--length", 16, "--estimator", "time", "--draws", 2)
    assert found["length"] == 16
    assert "time, 2 draws" in found["kind"]


def test_evaluate_of_a_causal_model_is_exact(line):
    found = line("evaluate", causal(), "--data", held())
    assert found["kind"] == "exact likelihood"
    assert found["nats_per_token"]["value"] == pytest.approx(
        load(causal()).facts["metrics"]["nats_per_token"]["value"], rel=1e-5
    )


def test_evaluate_for_a_person(remask, masked):
    done = remask("evaluate", masked, "--data", held(), "--draws", 1)
    assert done.status == 0
    assert "bits per byte" in done.out


# ---- sample ----------------------------------------------------------------------------------------------------------


def test_sample_is_a_line_a_text(lines, masked, model):
    found = lines("sample", masked, "--n", 3, "--length", 12, "--sampler", "first_hitting", "--seed", 0)
    assert len(found) == 3
    for one in found:
        assert set(one) == {"text", "calls", "seconds"}
        assert one["calls"] == 12  # one a cell
        assert one["seconds"] > 0
        assert model.tokenizer.mask_token not in one["text"]
    assert len({one["text"] for one in found}) == 3


@pytest.mark.parametrize(
    "sampler", [pytest.param(name, marks=[pytest.mark.slow] * (name in ("gibbs", "remdm", "p2"))) for name in SAMPLERS]
)
def test_the_batch_changes_nothing_but_speed(lines, masked, sampler):
    words = ["sample", masked, "--n", 5, "--length", 10, "--sampler", sampler]
    texts = [[(t["text"], t["calls"]) for t in lines(*words, "--batch", batch)] for batch in (1, 2, 5, 16)]
    assert texts[0] == texts[1] == texts[2] == texts[3]
    other = [(t["text"], t["calls"]) for t in lines(*words, "--seed", 1)]
    assert (other != texts[0]) == (sampler not in ("mask_predict", "padir"))  # which takes the most probable tokens


def test_the_prompt_is_kept_and_its_cells_cost_nothing(lines, masked, model):
    prompt = "Statement returns"
    cells = len(encode(model.tokenizer, [prompt])[0].ids)
    for one in lines("sample", masked, "--n", 2, "--length", LENGTH, "--prompt", prompt):
        assert one["text"].startswith(prompt)
        assert one["calls"] == LENGTH - cells


def test_a_blank_in_the_prompt_is_filled(lines, masked, model):
    prompt = "Statement [MASK] value"
    ids = encode(model.tokenizer, [prompt], special=True)[0].ids
    assert ids.count(model.alphabet.mask) == 1
    for one in lines("sample", masked, "--n", 2, "--length", len(ids), "--prompt", prompt):
        assert one["calls"] == 1
        assert one["text"].startswith("Statement")
        assert one["text"].endswith(" value")
        assert "[MASK]" not in one["text"]


def test_a_prompt_that_fills_the_canvas_is_given_back(lines, masked, model):
    prompt = "Statement returns"
    cells = len(encode(model.tokenizer, [prompt])[0].ids)
    (one,) = lines("sample", masked, "--n", 1, "--length", cells, "--prompt", prompt)
    assert (one["text"], one["calls"]) == (prompt, 0)


def test_flags_of_the_sampler(lines, masked):
    few = lines("sample", masked, "--n", 2, "--length", 12, "--sampler", "ancestral", "--steps", 3)
    assert all(one["calls"] <= 3 for one in few)
    cut = lines("sample", masked, "--n", 2, "--length", 12, "--top-p", 0.01)  # as good as greedy
    assert all(one["calls"] == 12 for one in cut)


def test_sample_for_a_person(remask, masked):
    done = remask("sample", masked, "--n", 1, "--length", 4)
    assert done.status == 0
    assert done.out.strip()


# ---- fill ------------------------------------------------------------------------------------------------------------


def test_fill_fills_every_blank_and_keeps_the_rest(line, masked):
    found = line("fill", masked, "The [MASK] statement is used to [MASK] [MASK] .")
    a, b, c = found["gaps"]
    said = f"The ?{re.escape(a)} statement is used to ?{re.escape(b)} ?{re.escape(c)} [.]"
    assert re.fullmatch(said, found["text"]), "a gap is told without the space that its blank swallowed"
    assert found["calls"] == 3
    assert len(found["candidates"]) == 3
    for best in found["candidates"]:
        assert len(best) == 5
        assert sorted((p for _, p in best), reverse=True) == [p for _, p in best]


def test_fill_several_times(lines, masked):
    words = ["fill", masked, "if [MASK] else [MASK]", "--n", 4]
    found = lines(*words)
    assert len(found) == 4
    assert len({tuple(one["gaps"]) for one in found}) > 1
    for one in found:
        assert one["text"].startswith("if")
        assert " else" in one["text"]
    assert lines(*words) == found
    assert lines(*words, "--seed", 1) != found


def test_fill_for_a_person(remask, masked):
    done = remask("fill", masked, "if [MASK] else")
    assert done.status == 0
    assert done.out.startswith("if")
    assert "candidates" in done.err


# ---- score -----------------------------------------------------------------------------------------------------------

LINES = ["If else while.", "", "Statement returns value " * 20, "x", "", "Ünïcode ✓ [MASK] here"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def test_score_is_a_line_a_line(lines, masked, model, file):
    found = lines("score", masked, "--data", file)
    assert [one["line"] for one in found] == [1, 2, 3, 4, 5, 6]
    assert [one["text"] for one in found] == LINES
    assert all(set(one) == {"line", "nats", "stderr", "tokens", "text"} for one in found)
    counts = [len(e.ids) for e in encode(model.tokenizer, LINES)]
    assert [one["tokens"] for one in found] == counts
    assert counts[2] > 2 * LENGTH  # several windows
    assert (found[1]["nats"], found[1]["stderr"], found[1]["tokens"]) == (0.0, 0.0, 0)
    assert all(one["nats"] > 0 for one in found if one["tokens"])
    for one, estimate in zip(found, score(model, LINES), strict=True):
        assert (one["nats"], one["stderr"]) == (estimate.value, estimate.stderr)


def test_score_of_a_line_is_the_bound_of_a_row(lines, masked, model, tmp_path):
    (tmp_path / "one.txt").write_text(LINES[0])
    (found,) = lines("score", masked, "--data", tmp_path / "one.txt", "--draws", 32, "--seed", 5)
    tokens = torch.tensor([encode(model.tokenizer, [LINES[0]])[0].ids])
    draws = draws_of_rows(model.conditional(), tokens, Stream.of(5, torch.tensor([0])), draws=32)[0]
    assert found["nats"] == pytest.approx(float(draws.mean()), rel=1e-5)
    assert found["stderr"] == pytest.approx(float(draws.std() / math.sqrt(32)), rel=1e-4)


def test_padding_changes_no_score(model):
    """A line by itself, and the same line beside a longer one, with the same masks."""
    (alone,) = score(model, [LINES[0]])
    beside = score(model, [LINES[0], "Statement returns value if."])[0]
    assert beside.value == pytest.approx(alone.value, rel=1e-4)


def test_windows_add_up(model):
    text = LINES[2]
    ids = encode(model.tokenizer, [text])[0].ids
    (whole,) = score(model, [text])
    total = 0.0
    for number, window in enumerate(torch.tensor(ids).split(LENGTH)):
        stream = Stream.of(0, torch.tensor([number]))
        total += float(draws_of_rows(model.conditional(), window[None], stream, draws=16).mean())
    assert whole.value == pytest.approx(total, rel=1e-4)


def test_score_of_a_causal_model_is_the_exact_sum(lines, file):
    model = load(causal())
    found = lines("score", causal(), "--data", file)
    for one, line in zip(found, LINES, strict=True):
        total = 0.0
        ids = encode(model.tokenizer, [line])[0].ids
        for first in range(0, len(ids), model.length):
            tokens = torch.tensor([ids[first : first + model.length]])
            batch = Batch.of(tokens, model.alphabet)
            inputs = shifted(tokens, batch.documents, model.alphabet.end)
            with torch.no_grad():
                logits = model.net.model(input_ids=inputs).logits
            logits[..., model.alphabet.mask] = -torch.inf
            total += float(torch.nn.functional.cross_entropy(logits[0].double(), tokens[0], reduction="sum"))
        assert one["nats"] == pytest.approx(total, rel=1e-5)
        assert one["stderr"] == 0.0


def test_score_for_a_person(remask, masked, file):
    done = remask("score", masked, "--data", file, "--draws", 2)
    assert done.status == 0
    assert len(done.out.splitlines()) == len(LINES)


# ---- report ----------------------------------------------------------------------------------------------------------


def test_report_is_one_file_without_links(line, masked):
    from pathlib import Path

    from remask.report.markup import outside

    path = Path(line("report", masked, "--n", 2)["report"])
    assert path == trained() / "report.html"
    html = path.read_text(encoding="utf-8")
    assert outside(html) == []
    figure = json.loads((trained() / "remask.json").read_text())["metrics"]["bits_per_byte"]["value"]
    assert f"{figure:.2f}" in html
    assert "remask train mdlm" in html
