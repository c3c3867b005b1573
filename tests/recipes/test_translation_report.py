"""The report of the race: what is kept and when it is void, paired errors, verdicts, faults, curves, labels."""

from __future__ import annotations

import gzip
import json
import math
from statistics import stdev

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU
from scipy import stats
from transformers import T5Config, T5ForConditionalGeneration

import remask
from recipes import translation_faults, translation_plots, translation_report, translation_tables
from recipes.translation import place
from recipes.translation_plots import Spot
from recipes.translation_report import Kept, bleu_drawn, main, runs
from recipes.translation_tables import BASE, Found, gap
from remask.bench.engine import System, runner
from remask.bench.translation import quality
from remask.nets.t5 import ParallelT5, ParallelT5Config, T5Net
from tests.translate.nets import ALPHABET, TOKENIZER

LENGTH, STEPS = 64, 12
SHAPE = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
IDS = {"vocab_size": ALPHABET.size, "pad_token_id": ALPHABET.pad, "eos_token_id": ALPHABET.end}
TEST = [(f"the cat {n} sat", f"die Katze {n} sass da") for n in ("one", "two", "no", "six", "ten", "x", "y", "z")]
TRAIN = [
    *(("Hi!", target) for target in ("Hallo du!", "Hallo du", "Na du?", "Guten Tag")),
    *(("Go on.", target) for target in ("Mach weiter", "Weiter so", "Nur zu")),
    *(("Well.", target) for target in ("Nun", "Nun!", "Gut")),
    *(("Stop it.", target) for target in ("Halt", "Stopp", "Hör auf")),
]
ARMS = {BASE: ("seq2seq", (0, 1)), "padir": ("padir", (0, 1)), "cmlm": ("cmlm", (0,)), "axe": ("axe", (0,))}


def net(causal, seed):
    """An untrained one that writes some bytes."""
    torch.manual_seed(seed)
    if causal:
        model = T5ForConditionalGeneration(T5Config(**SHAPE, **IDS, decoder_start_token_id=ALPHABET.pad))
    else:
        model = ParallelT5(ParallelT5Config(**SHAPE, **IDS, longest_target=LENGTH - 1))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return T5Net(model)


def lines(path, pairs):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(pair) + "\n" for pair in pairs))


def made(path, objective, seed):
    """A run that ended, without having been trained."""
    net(objective == "seq2seq", seed).save(path)
    TOKENIZER.save_pretrained(path)
    recipe = {"text": {"length": LENGTH}, "training": {"steps": STEPS, "seed": seed}, "fields": {}}
    facts = {"objective": {"name": objective}, "recipe": recipe, "step": STEPS, "seconds": 60.0, "seed": seed}
    (path / "remask.json").write_text(json.dumps({**facts, "metrics": {f"{objective}_nats": 1.0, "bleu": 2.0}}))
    points = [{"step": step, "bleu": step / 10, "bleu_stderr": 0.1, f"{objective}_nats": 5.0} for step in (5, 10, 12)]
    (path / "history.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    (path / "cpu.json").write_text(json.dumps({"seconds": 120.0}))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A race of small nets; the teacher was begun only."""
    out = tmp_path_factory.mktemp("race")
    for name, pairs in (("test", TEST), ("valid", TEST[:4]), ("raw", [("stop it", "Halt"), ("a", "b")])):
        lines(out / "data" / f"{name}.tsv", pairs)
    TOKENIZER.save_pretrained(str(out / "data" / "tokenizer"))
    (out / "corpus" / "tatoeba_en_de").mkdir(parents=True)
    with gzip.open(out / "corpus" / "tatoeba_en_de" / "train.tsv.gz", "wt", encoding="utf-8") as file:
        file.writelines("\t".join(pair) + "\n" for pair in TRAIN)
    for arm, (objective, seeds) in ARMS.items():
        for seed in seeds:
            made(place(out, arm, seed), objective, seed)
    place(out, "teacher", 0).mkdir()
    return out


@pytest.fixture(scope="module")
def reported(out):
    """All parts but speed and the tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMASK_DATA", str(out / "corpus"))
        for part in ("quality", "faults", "curves"):
            assert main([str(out), "--part", part]) == 0
    return out


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_quality_is_that_of_the_bench_and_found_once(reported, capsys):
    run = runs(reported, ["padir"])[0]
    kept = Kept.of(reported, run.path.name, run.path)
    sources, references = ([pair[side] for pair in TEST] for side in (0, 1))
    bare = {"steps": 4, "reject": "none", "remove_stutter": True}
    wanted = quality(runner(System("4", run.path, fields=bare)), sources, references)
    found = kept.found["test 4, no stutters"]
    assert found["texts"] == [one.text for one in wanted.found]
    assert found["bleu"] == wanted.scores.bleu.estimate.value
    assert found["bleu_stderr"] == pytest.approx(np.std(found["drawn"], ddof=1), abs=1e-3)
    assert {key.split(" ", 1)[0] for key in kept.found} == {"test", "joined"}
    assert found["oracle_bleu"] is None
    assert kept.found["test 4, linear, no stutters"]["oracle_bleu"] is not None
    kept.make("test 4", lambda: pytest.fail("it was there"))
    capsys.readouterr()
    assert main([str(reported), "--part", "quality", "--arms", "cmlm"]) == 0
    assert capsys.readouterr().err == ""


def test_figures_are_void_when_runs_or_texts_change(reported):
    run = runs(reported, ["cmlm"])[0]
    assert Kept.of(reported, run.path.name, run.path).found
    for file in (run.path / "remask.json", reported / "data" / "test.tsv"):
        before = file.read_text()
        file.write_text(before + "\n")
        assert not Kept.of(reported, run.path.name, run.path).found
        file.write_text(before)
    assert Kept.of(reported, run.path.name, run.path).found


def test_tables_tell_of_what_is_there_and_name_the_rest(reported, capsys):
    assert main([str(reported)]) == 0
    told = capsys.readouterr().out
    assert "| padir (2 seeds) |" in told
    assert "| cmlm, 4, 5 lengths |" in told
    assert "Begun only: teacher-seed0." in told
    assert "; sundae;" in told.split("No finished run of:")[1]
    assert told.count("| padir, seed ") == 2  # of curves
    assert (reported / "translation.png").stat().st_size > 10_000


def test_nothing_to_tell_of(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert main([str(tmp_path), "--arms", "no"]) == 2


@pytest.mark.slow
def test_speed_stands_beside_quality(reported, monkeypatch):
    monkeypatch.setattr(translation_report, "TIMED", {"test": 2, "joined": 1})
    monkeypatch.setattr(translation_report, "ROUNDS", 1)
    monkeypatch.setattr(translation_report, "EDGES", (16,))
    assert main([str(reported), "--part", "speed"]) == 0
    found = translation_report.gather(reported)
    assert {one["baseline"] for one in found.speed["joined"]} == {f"{BASE}; greedy"}
    row = next(line for line in translation_tables.speed_table(found).splitlines() if line.startswith("| cmlm, 4 |"))
    assert translation_tables.mean(found.of("cmlm", "joined 4")) in row
    fast = next(one for one in found.speed["joined"] if one["system"] == "cmlm; 4" and one["batch"] == 1)
    assert translation_plots.spots(found)["cmlm"]["4"].speed == fast["speed_over_baseline"]
    assert len(translation_tables.generate_table(found).splitlines()) == 2 + 4
    assert "1-16" in translation_tables.length_table(found)


# ---- differences -----------------------------------------------------------------------------------------------------

REFERENCES = [f"the {a} {b} {c}" for a in ("old", "new") for b in ("cat", "dog", "owl") for c in ("sat there", "ran")]


def worse(number, seed):
    """Texts of which some lack their last word."""
    chosen = np.random.default_rng(seed).permutation(len(REFERENCES))[:number]
    return [text.rsplit(" ", 1)[0] if k in chosen else text for k, text in enumerate(REFERENCES)]


def record(texts):
    score = BLEU(tokenize="13a", force=True).corpus_score(texts, [REFERENCES]).score
    return {"bleu": score, "drawn": bleu_drawn(texts, REFERENCES)}


def test_resamples_are_corpora_and_the_same_for_all_systems():
    systems = [worse(3, 0), worse(6, 1)]
    drawn = [bleu_drawn(texts, REFERENCES) for texts in systems]
    times = np.random.default_rng(12345).multinomial(len(REFERENCES), [1 / len(REFERENCES)] * len(REFERENCES), size=5)
    for number, row in enumerate(times):
        picked = [k for k, count in enumerate(row) for _ in range(count)]
        for texts, found in zip(systems, drawn):
            again = [[some[k] for k in picked] for some in (texts, REFERENCES)]
            score = BLEU(tokenize="13a", force=True).corpus_score(again[0], [again[1]]).score
            assert found[number] == pytest.approx(score, abs=1e-4)


def test_errors_of_differences_are_paired():
    """Systems with the same errors but for one sentence: the unpaired error, the planted twin, is far larger."""
    ours, theirs = record(worse(6, 0)), record(worse(5, 0))
    one = gap({0: ours}, {0: theirs})
    value, error = one.each[0]
    assert value == pytest.approx(ours["bleu"] - theirs["bleu"]) == one.value
    assert one.low <= value <= one.high
    unpaired = math.hypot(np.std(ours["drawn"]), np.std(theirs["drawn"]))
    assert 0 < error < 0.6 * unpaired
    assert gap({0: ours}, {1: theirs}) is None


VERDICTS = [((0.2, 0.1, 0.3), "yes"), ((-4, -4.1, -4), "no"), ((-1, -2, -3), "open")]


@pytest.mark.parametrize(("values", "verdict"), VERDICTS)
def test_three_seeds_have_students_interval(values, verdict):
    flat = [0.0] * 10
    ours = {seed: {"bleu": 20 + value, "drawn": flat} for seed, value in enumerate(values)}
    one = gap(ours, {seed: {"bleu": 20.0, "drawn": flat} for seed in range(5)})
    half = stats.t.ppf(0.975, 2) * stdev(values) / math.sqrt(3)
    assert (one.low, one.high) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
    assert one.verdict == verdict


# ---- faults and curves -----------------------------------------------------------------------------------------------


def test_sources_that_were_taught_and_translations_that_differ_in_dots_do_not_count():
    found = translation_faults.several(TRAIN, ["stop it"], 400)
    assert found.sources == ["Hi!", "Go on."]
    assert [len(known) for known in found.known] == [3, 3]
    assert translation_faults.several(TRAIN, [], 400).sources == ["Hi!", "Go on.", "Stop it."]
    assert translation_faults.several(TRAIN, [], 2).sources == ["Hi!", "Go on."]


def test_faults_are_found_for_every_system(reported):
    found = translation_report.gather(reported)
    mixed = translation_tables.faults_of(found, "mixed")
    refined = {"padir": ["4, linear, no stutters"]}
    ways = {arm: ["greedy"] if arm == BASE else ["1", "4", *refined.get(arm, [])] for arm in ARMS}
    assert {arm: list(those) for arm, those in mixed.items()} == ways
    floors = {facts["mixture_floor"]["value"] for those in mixed.values() for facts in those.values()}
    assert len(floors) == 1
    probed = translation_tables.faults_of(found, "probed")
    assert list(probed) == ["padir", "cmlm"]
    for how in ("1, test", "4, test", "1, several", "4, several"):  # without stutters, these nets write hardly a pair
        facts = probed["padir"][how]
        assert facts["information"]["bigram"]["error_share"] == facts["entropy"]["bigram"]["error_share"]
        assert facts["information"]["bigram"]["at_errors"]["value"] > 0
    one_reference = probed["padir"]["4, test"]["information"]
    assert "at_errors" not in one_reference["seam"]


def test_the_last_point_is_what_training_ends_with(tmp_path):
    """On fewer than 256 pairs the sample is all of them, so the figure is that of the run itself."""
    for name in ("test", "valid"):
        lines(tmp_path / "data" / f"{name}.tsv", TEST)
    run = place(tmp_path, "padir", 0)
    texts = {"pairs": tmp_path / "data" / "test.tsv", "valid": tmp_path / "data" / "valid.tsv"}
    settings = {"columns": "source,target", "tokenizer": "byte", "length": LENGTH, "batch": 4, "seed": 3}
    remask.train("padir", out=run, net="tiny", steps=2, evaluations=2, stages=2, **texts, **settings)
    assert main([str(tmp_path), "--part", "curves"]) == 0
    curve = translation_report.curve(tmp_path, runs(tmp_path)[0])
    facts = json.loads((run / "remask.json").read_text())
    first, last = curve["points"]
    assert (first["step"], last["step"], curve["steps"]) == (1, 2, 2)
    for name, one in facts["metrics"].items():
        assert last[name] == pytest.approx(one["value"], rel=1e-4), name
    assert last["nats"] == last["padir_nats"]


def test_slopes_are_per_minute_and_point_the_right_way():
    steps = ((50, 1), (60, 3))
    points = [{"step": s, "bleu": b, "bleu_stderr": 0.3, "nats": 3 - b, "nats_stderr": 2.0} for s, b in steps]
    curve = {"minutes": 12.0, "steps": 60, "points": points}
    told = translation_tables._slope(points, curve, "bleu")
    assert told == f"+1.000 ± {math.hypot(0.3, 0.3) / 2:.3f} a minute, still better"
    assert translation_tables._slope(points, curve, "nats") == "-1.000 ± 1.414 a minute, level"
    assert translation_tables._slope(points, {**curve, "steps": 70}, "bleu") == ""  # the last point is not taken yet


# ---- the picture -----------------------------------------------------------------------------------------------------


def test_the_frontier_holds_what_nothing_beats():
    spots = [Spot(1, 30, 0), Spot(2, 25, 0), Spot(3, 28, 0), Spot(0.5, 29, 0), Spot(8, 10, 0), Spot(8, 12, 0)]
    assert translation_plots.frontier(spots) == [Spot(1, 30, 0), Spot(3, 28, 0), Spot(8, 12, 0)]


def test_labels_do_not_overlap():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(6, 5), layout="constrained")
    FigureCanvasAgg(sheet)
    axis = sheet.subplots()
    rng = np.random.default_rng(0)
    spots = [Spot(*values, 0.0) for values in rng.normal((3, 20), (0.2, 0.5), (12, 2))]
    axis.plot([spot.speed for spot in spots], [spot.bleu for spot in spots], "o")
    axis.set(xlim=(1, 5), ylim=(15, 25))
    boxes = translation_plots.label(axis, [(spot, f"system {k}", "k") for k, spot in enumerate(spots)])
    for k, box in enumerate(boxes):
        assert not [other for other in boxes[:k] if translation_plots._shared(box, other)]


def test_an_empty_race_is_drawn_too(tmp_path):
    translation_plots.figure(Found({}, {}, {}, {}), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()
    assert "| BLEU of |" in "".join(translation_tables.tables(Found({}, {}, {}, {})))
