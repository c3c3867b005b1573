"""Bad input: one sentence that says what came and what to type, exit status 2, and nothing is lost or executed."""

import pytest

from tests.train import runs
from tests.train.runs import LENGTH, causal, held, refused, trained

# ---- texts -----------------------------------------------------------------------------------------------------------

TEXTS = {
    "missing": (None, "there is no file or folder"),
    "empty": (b"", "holds no text"),
    "blank": (b" \n\n\t\n", "holds no text"),
    "binary": (b"some text\x00\x01\x02" * 50, "is binary: there is a NUL"),
    "latin-1": ("für alle, die es angeht. ".encode("latin-1") * 50, "is not UTF-8: byte 0xfc"),
    "utf-16": ("some text ".encode("utf-16") * 50, "UTF-16"),
    "broken gzip": (b"\x1f\x8b\x08nonsense", "is not a whole gzip file"),
}


@pytest.fixture(params=TEXTS)
def bad_text(request, tmp_path):
    """A file that is no text, and what is said of it."""
    content, said = TEXTS[request.param]
    path = tmp_path / ("text.gz" if "gzip" in request.param else "text.txt")
    if content is not None:
        path.write_bytes(content)
    return path, said


def out(path):
    """Words of a training that must be refused before it begins."""
    return ["--out", path, "--net", "tiny", "--length", LENGTH, "--steps", 2, "--tokenizer", "byte"]


def test_a_bad_text(remask, bad_text, tmp_path):
    path, said = bad_text
    for words in (
        ["train", "mdlm", "--data", path, "--valid", held(), *out(tmp_path / "run")],
        ["train", "mdlm", "--data", held(), "--valid", path, *out(tmp_path / "run")],
        ["evaluate", trained(), "--data", path],
        ["evaluate", trained(), "--data", held(), path],
        ["score", trained(), "--data", path],
    ):
        refused(remask(*words), said, str(path))
    assert not (tmp_path / "run").exists()


def test_a_text_shorter_than_a_row(remask, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    refused(remask("train", "mdlm", "--data", short, "--valid", held(), *out(tmp_path / "run")), "shorter than one row")
    refused(remask("train", "mdlm", "--data", held(), "--valid", short, *out(tmp_path / "run")), "validation text")
    refused(remask("train", "mdlm", "--data", short, *out(tmp_path / "run")), "nothing can be held out", "--valid")
    refused(remask("evaluate", trained(), "--data", short), "shorter than one row", "--length")
    assert not (tmp_path / "run").exists()


def test_score_wants_one_text(remask, tmp_path):
    (tmp_path / "two.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    refused(remask("score", trained(), "--data", tmp_path / "two.jsonl"), "2 texts")


def test_a_wrong_column(remask, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n')
    refused(remask("evaluate", trained(), "--data", tmp_path / "a.jsonl"), "no field 'text'", "body", "--column")


# ---- names and numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--net", "huge"], ["no net named 'huge'", "tiny", "medium"]),
        (["--tokenizer", "words"], ["no tokenizer named 'words'", "bpe:4096", "byte", "character"]),
        (["--tokenizer", "bpe"], ["bpe:4096"]),
        (["--tokenizer", "bpe:3"], ["bpe:260 or more"]),
        (["--document", "page"], ["no document named 'page'", "paragraph"]),
        (["--weighting", "best"], ["no weighting 'best'", "count|elbo|flat"]),
        (["--schedule", "steep"], ["no schedule 'steep'", "linear"]),
        (["--smallest-time", "2"], ["--smallest-time came as 2.0"]),
        (["--optimizer", "sgd"], ["no optimizer 'sgd'", "muon|adamw"]),
        (["--decay", "step"], ["no decay 'step'", "linear|cosine"]),
        (["--minutes", "1"], ["either --steps or --minutes; both came"]),
        (["--steps", "0"], ["--steps came as 0"]),
        (["--steps", "-1"], ["--steps came as -1"]),
        (["--batch", "0"], ["--batch came as 0"]),
        (["--accumulate", "-2"], ["--accumulate came as -2"]),
        (["--learning-rate", "-1"], ["--learning-rate came as -1.0"]),
        (["--learning-rate", "nan"], ["--learning-rate came as nan"]),
        (["--clip", "-1"], ["--clip came as -1.0"]),
        (["--warmup", "1"], ["--warmup came as 1.0"]),
        (["--ema", "1"], ["--ema came as 1.0"]),
        (["--save-steps", "0"], ["--save-steps came as 0"]),
        (["--length", "0"], ["--length 1 or more"]),
        (["--length", "-5"], ["--length 1 or more"]),
        (["--held-out", "2"], ["share to hold out is 2.0"]),
        (["--init", "/nowhere"], ["--net tiny came with --init /nowhere", "leave one of them out"]),
        (["--resume"], ["no run to resume"]),
        (["--resume", "--overwrite"], ["--resume and --overwrite came together"]),
    ],
    ids=" ".join,
)
def test_a_training_that_cannot_be(remask, tmp_path, words, said):
    valid = [] if "--held-out" in words else ["--valid", held()]
    done = remask("train", "mdlm", "--data", runs.data(), *valid, *out(tmp_path / "run"), *words)
    refused(done, *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["mdlm", "electra"])
def test_an_init_that_is_not_there(remask, tmp_path, objective):
    words = [word for word in out(tmp_path / "run") if word not in ("--net", "tiny")]
    done = remask("train", objective, "--data", runs.data(), "--valid", held(), *words, "--init", "/nowhere")
    refused(done, "no checkpoint directory at /nowhere")
    assert not (tmp_path / "run").exists()


ELECTRA = [
    (["--task", "guess"], ["no task 'guess'", "detection|replace-mlm|all-tokens"]),
    (["--score", "some"], ["no score 'some'", "all|masked|random"]),
    (["--score-scale", "max"], ["no score-scale 'max'", "mean|sum"]),
    (["--share", "half"], ["no share 'half'", "none|shared|gdes"]),
    (["--mask-rate", "0"], ["--mask-rate came as 0.0", "in (0, 1]"]),
    (["--mask-rate", "1.5"], ["--mask-rate came as 1.5"]),
    (["--mask-rate", "nan"], ["--mask-rate came as nan"]),
    (["--keep", "1"], ["--keep came as 1.0", "in [0, 1)"]),
    (["--discriminator-weight", "0"], ["--discriminator-weight came as 0.0"]),
    (["--discriminator-weight", "inf"], ["--discriminator-weight came as inf"]),
    (["--temperature", "0"], ["--temperature came as 0.0"]),
    (["--temperature", "inf"], ["--temperature came as inf"]),
    (["--generator-width", "-1"], ["--generator-width came as -1.0"]),
    (["--generator-width", "inf"], ["--generator-width came as inf"]),
    (["--generator-depth", "0"], ["--generator-depth came as 0.0"]),
    (["--generator-depth", "nan"], ["--generator-depth came as nan"]),
    (["--task", "all-tokens", "--score", "half"], ["--score and --score-scale belong to --task detection"]),
    (["--task", "replace-mlm", "--score-scale", "sum"], ["--score and --score-scale belong to --task detection"]),
    (["--freeze-generator"], ["--freeze-generator came without --generator"]),
    (["--freeze-generator", "--generator", "/nowhere"], ["--share shared, which trains its table: type --share gdes"]),
    (["--two-stage"], ["--two-stage copies the generator", "--share none"]),
    (["--two-stage", "--share", "none"], ["--generator-width 1 --generator-depth 1"]),
    (["--generator", "/nowhere"], ["no checkpoint directory at /nowhere"]),
    (["--init", "/nowhere"], ["--net tiny came with --init /nowhere"]),
]
MLM = [
    (["--mask-rate", "0"], ["--mask-rate came as 0.0", "(0, 1]"]),
    (["--mask-rate", "nan"], ["--mask-rate came as nan"]),
    (["--final-mask-rate", "2"], ["--final-mask-rate came as 2.0"]),
    (["--random", "0.7", "--keep", "0.6"], ["--random came as 0.7 and --keep as 0.6", "at most 1"]),
    (["--random", "-0.1"], ["--random came as -0.1"]),
    (["--keep", "nan"], ["--keep as nan"]),
    (["--unit", "letter"], ["no unit 'letter'", "token|word|span"]),
    (["--unit", "span", "--span-length", "0.5"], ["--span-length came as 0.5"]),
    (["--span-length", "nan"], ["--span-length came as nan"]),
]
GMLM = [
    (["--count", "many"], ["no count 'many'", "uniform|fixed|rate"]),
    (["--loss", "sum"], ["no loss 'sum'", "factorised|chain"]),
    (["--count", "fixed"], ["--count fixed and --k N belong together"]),
    (["--k", "3"], ["--count fixed and --k N belong together"]),
    (["--count", "fixed", "--k", "0"], ["--k came as 0"]),
    (["--count", "fixed", "--k", str(LENGTH + 1)], [f"--k came as {LENGTH + 1}, and a row has {LENGTH} tokens"]),
]
FLAGS = [(name, *case) for name, cases in (("electra", ELECTRA), ("mlm", MLM), ("gmlm", GMLM)) for case in cases]


@pytest.mark.parametrize(("objective", "words", "said"), FLAGS, ids=[f"{n} {' '.join(w)[:60]}" for n, w, _ in FLAGS])
def test_an_objective_that_cannot_be(remask, tmp_path, objective, words, said):
    """Before anything is written, and with --overwrite before anything is lost."""
    common = ["train", objective, "--data", runs.data(), "--valid", held(), *out(tmp_path / "run"), *words]
    refused(remask(*common), *said)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "remask.json").write_text("{}")  # an earlier run
    (tmp_path / "run" / "model.safetensors").write_text("old")
    refused(remask(*common, "--overwrite"), *said)
    assert (tmp_path / "run" / "model.safetensors").read_text() == "old"


def test_words_of_a_text_without_words(remask, tmp_path):
    """Which only the question knows; even so, before an earlier run is lost."""
    genes = tmp_path / "genes.txt"
    genes.write_text("ACGTTGCA" * 400)
    run = tmp_path / "run"
    run.mkdir()
    for name in ("remask.json", "model.safetensors"):
        (run / name).write_text("{}")
    words = ["train", "mlm", "--data", genes, *out(run), "--document", "line", "--valid", genes, "--unit", "word"]
    refused(remask(*words, "--tokenizer", "dna", "--overwrite"), "do not say where words begin: type --unit span")
    assert (run / "model.safetensors").exists()


def test_neither_steps_nor_minutes(remask, tmp_path):
    refused(remask("train", "mdlm", "--data", held(), "--out", tmp_path / "run"), "neither came", "--steps N")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "--n", "0"], "--n came as 0"),
        (["sample", "--n", "-1"], "--n came as -1"),
        (["sample", "--batch", "0"], "--batch came as 0"),
        (["sample", "--top-p", "2"], "--top-p came as 2.0"),
        (["sample", "--top-p", "0"], "--top-p came as 0.0"),
        (["sample", "--length", "0"], "--length came as 0"),
        (["sample", "--length", str(LENGTH + 1)], f"reads 1 to {LENGTH} tokens"),
        (["sample", "--length", "2", "--prompt", "while else if import"], "tokens but the canvas only 2"),
        (["sample", "--sampler", "ancestral", "--steps", "0"], "--steps 1 or more"),
        (["sample", "--sampler", "ancestral", "--schedule", "x"], "no schedule 'x'"),
        (["fill", "[MASK] " * (LENGTH + 1)], f"reads at most {LENGTH}"),
        (["fill", "[MASK]", "--n", "0"], "--n came as 0"),
        (["evaluate", "--data", str(held()), "--length", str(LENGTH + 1)], f"beyond the {LENGTH}"),
        (["evaluate", "--data", str(held()), "--length", "0"], "--length 0"),
        (["evaluate", "--data", str(held()), "--length", "-3"], "--length -3"),
        (["evaluate", "--data", str(held()), "--draws", "0"], "--draws came as 0"),
        (["evaluate", "--data", str(held()), "--estimator", "guess"], "no estimator 'guess'"),
        (["score", "--data", str(held()), "--draws", "1"], "--draws came as 1"),
        (["score", "--data", str(held()), "--estimator", "guess"], "no estimator 'guess'"),
        (["report", "--n", "0"], "--n came as 0"),
    ],
    ids=lambda value: " ".join(word for word in value if "/" not in word)[:40] if isinstance(value, list) else "",
)
def test_a_question_that_cannot_be(remask, words, said):
    refused(remask(words[0], trained(), *words[1:]), said)


@pytest.mark.parametrize("words", [["sample"], ["fill", "[MASK]"], ["report"]], ids=lambda words: words[0])
def test_a_causal_model_cannot_fill_masks(remask, words):
    refused(remask(words[0], causal(), *words[1:]), "is an autoregressive net, which cannot fill masks")


@pytest.mark.parametrize(
    "words",
    [["fill", "/nowhere", "f\udcfcr [MASK]"], ["sample", "\udcff"], ["\udcff"], ["fill", "x", "y", "--ban", "\udcfc"]],
    ids=ascii,
)
def test_an_argument_that_is_not_utf_8(remask, words):
    """Python hands over such bytes as lone surrogates."""
    bad = next(word for word in words if not word.isascii())
    refused(remask(*words), f"an argument came as {bad!a}, which is not UTF-8", "PYTHONUTF8=1")


def test_another_run_is_there(remask, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "thesis.tex").write_text("mine")
    words = ["train", "mdlm", "--data", runs.data(), "--valid", held(), *out(run)]
    for more in ([], ["--overwrite"], ["--resume"]):
        refused(remask(*words, *more), "not a remask run: type another --out")
    assert [path.name for path in run.iterdir()] == ["thesis.tex"]
    refused(remask(*words[:-8], *out(trained())), "holds another run: type --resume", "--overwrite", "another --out")


def test_demo_refuses_too(remask, tmp_path):
    refused(remask("demo", "--out", tmp_path / "run", "--minutes", "0"), "--minutes came as 0.0")
    refused(remask("demo", "--out", tmp_path / "run", "--steps", "-1"), "--steps came as -1")
    (tmp_path / "file").write_text("mine")
    refused(remask("demo", "--out", tmp_path / "file", "--steps", "1"), "is a file")
