"""remask evaluate --few-shot: the figures are the library's, and mistakes are sentences."""

import pytest

from remask.decoders.baselines import Cached
from remask.decoders.few_shot import classify
from remask.decoders.hidden_state import HiddenState
from remask.train.frozen import load_causal
from remask.train.prompting import Template, accuracy, drawn, put
from tests.train.runs import causal, refused


@pytest.fixture
def files(tmp_path):
    rows = [
        ("up", "to be or"),
        ("down", "not to be"),
        ("up", "aye"),
        ("down", "no more"),
        ("up", "yes"),
        ("down", "nay"),
    ]
    known, asked = tmp_path / "known.tsv", tmp_path / "asked.tsv"
    known.write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    asked.write_text("".join(f"{label}\t{text}\n" for label, text in rows[:3]))
    return ["--few-shot", known, "--data", asked, "--columns", "label,text", "--shots", 4, "--orders", 3]


def test_the_command_has_the_librarys_figures(line, files):
    words = ["--template", "{text}: {label}\\n", "--words", "down=low"]
    found = line("evaluate", causal(), *files, *words, "--adapt", "hidden_state", "--lr", 0.02, "--chunk", 8)
    frozen, template = load_causal(causal()), Template("{text}: {label}\n")
    texts, labels = ["to be or", "not to be", "aye", "no more", "yes", "nay"], [1, 0, 1, 0, 1, 0]
    for way, reader in {"cache": Cached(chunk=8), "hidden_state": HiddenState(lr=0.02, chunk=8)}.items():
        for draw in range(3):
            examples = [(texts[k], labels[k]) for k in drawn(labels, 2, 4, [0, 4, draw])]
            task = put(frozen.tokenizer, template, ["low", "up"], examples, texts[:3])
            mine = accuracy(classify(frozen.model, task, range(4), reader), [1, 0, 1])
            assert found["draws"][way][draw] == pytest.approx(mine)
        assert found[way]["plain"]["value"] == pytest.approx(sum(one["plain"] for one in found["draws"][way]) / 3)
    gains = [a["plain"] - b["plain"] for a, b in zip(found["draws"]["hidden_state"], found["draws"]["cache"])]
    assert found["hidden_state"]["plain_minus_cache"]["value"] == pytest.approx(sum(gains) / 3)
    assert (found["labels"], found["queries"]) == ({"down": "low", "up": "up"}, 3)
    assert (found["most_frequent"], found["guessing"]) == (pytest.approx(2 / 3), 0.5)


def test_a_table_for_people(remask, files):
    done = remask("evaluate", causal(), *files)
    assert done.status == 0, done.err
    assert "cache plain" in done.out
    assert "3 queries; the most frequent class is 66.7 %" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shots", 0], "--shots came as 0"),
        (["--shots", 40], "type fewer --shots"),
        (["--template", "{text}"], "a template came as"),
        (["--words", "down"], "type LABEL=WORD"),
        (["--words", "dawn=x"], "did you mean 'down'"),
        (["--words", "down=up"], "two labels have one word"),
        (["--adapt", "dynamic"], "--adapt dynamic came with --few-shot"),
        (["--probe", "f"], "--few-shot came with --minimal-pairs or --probe"),
        (["--clips"], "--clips came with"),
        (["--seed", -1], "--seed came as -1"),
        (["--length", 7], "--length came with --few-shot"),
        (["--adapt", "hidden_state", "--streams", 4], "--streams came with --few-shot"),
    ],
)
def test_what_is_typed_wrong_is_a_sentence(remask, files, words, said):
    refused(remask("evaluate", causal(), *files, *words), said)


def test_a_class_that_has_no_example(remask, files, tmp_path):
    (tmp_path / "asked.tsv").write_text("sideways\tto be\n")
    refused(remask("evaluate", causal(), *files), "or add such rows to --few-shot")


def test_a_template_that_shows_nothing_of_an_empty_text(line, files):
    """The blank that is empty leaves no query, and the others calibrate."""
    found = line("evaluate", causal(), *files, "--template", "{text} {label}\\n")
    assert "calibrated" in found["cache"]


def test_flags_of_prompts_alone(remask, files):
    refused(remask("evaluate", causal(), *files[2:4], "--shots", 4), "--shots came without --few-shot F")


def test_without_queries(remask, files):
    refused(remask("evaluate", causal(), *files[:2]), "--few-shot came without --data")
