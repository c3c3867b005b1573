"""Bad input: one sentence that says what came and what to type, exit status 2, and nothing is lost or executed."""

import io
import json
import os
import pickle
import shutil
import zipfile

import pytest
import torch

from remask.data.tokenizers import byte_tokenizer
from remask.nets.hf import HuggingFaceNet
from remask.train import checkpoint
from tests.nets.tiny import MAKE
from tests.train import runs
from tests.train.runs import LENGTH, MUON, causal, held, refused, train, trained

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
        (["--init", "/nowhere"], ["no checkpoint directory at /nowhere"]),
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
    (["--init", "/nowhere"], ["no checkpoint directory at /nowhere"]),
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
        (["fill", "no blank here"], "no blank in the text: write [MASK]"),
        (["fill", ""], "no blank in the text"),
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


# ---- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    """A finished run that may be spoilt."""
    path = tmp_path / "copy"
    shutil.copytree(trained(), path, ignore=shutil.ignore_patterns("checkpoints", "report.html"))
    return path


def missing(path):
    shutil.rmtree(path)


def without(name):
    return lambda path: (path / name).unlink()


def holding(name, content):
    return lambda path: (path / name).write_bytes(content)


def cut(path):
    file = path / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def another_family(path):
    (path / "config.json").write_text('{"model_type": "gpt2"}')


def code_from_the_hub(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "attn_implementation": "someone/kernel"}))


def no_mask(path):
    """A tokenizer that has no mask token."""
    tokenizer = byte_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    assert "mask_token" not in config or config["mask_token"] is None


SPOILT = {
    "missing": (missing, "there is no checkpoint directory"),
    "no config": (without("config.json"), "holds no config.json"),
    "broken config": (holding("config.json", b'{"model_type": '), "config.json is damaged"),
    "binary config": (holding("config.json", b"\xff\x00\xfe"), "config.json is damaged"),
    "list for a config": (holding("config.json", b"[]"), "config.json is damaged"),
    "list for a family": (holding("config.json", b'{"model_type": ["bert"]}'), "config.json is damaged"),
    "another family": (another_family, "is a 'gpt2' model: remask opens bert"),
    "code from the hub": (code_from_the_hub, "asks for attention code from the hub (someone/kernel)"),
    "no weights": (without("model.safetensors"), "holds no model.safetensors: remask reads safetensors only"),
    "half the weights": (cut, "cannot be opened"),
    "no bytes of weights": (holding("model.safetensors", b""), "cannot be opened"),
    "rubbish for weights": (holding("model.safetensors", b"\x93\x01" * 5000), "cannot be opened"),
    "no tokenizer": (lambda path: [file.unlink() for file in path.glob("tokenizer*")], "tokenizer"),
    "broken tokenizer": (holding("tokenizer.json", b'{"version": '), "tokenizer"),
    "broken facts": (holding("remask.json", b'{"remask": '), "remask.json is damaged"),
    "list for facts": (holding("remask.json", b"[]"), "remask.json is damaged"),
    "no mask token": (no_mask, "no mask token"),
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_spoilt_checkpoint(remask, copy, spoilt):
    spoil, said = SPOILT[spoilt]
    spoil(copy)
    for words in (
        ["sample", copy, "--n", 1],
        ["fill", copy, "a [MASK]"],
        ["score", copy, "--data", held()],
        ["evaluate", copy, "--data", held()],
        ["report", copy],
    ):
        refused(remask(*words), said)


@pytest.mark.parametrize("spoilt", [name for name in SPOILT if "facts" not in name])
def test_a_spoilt_checkpoint_starts_nothing(remask, copy, spoilt, tmp_path):
    spoil, said = SPOILT[spoilt]
    spoil(copy)
    words = ["train", "mdlm", "--data", runs.data(), "--valid", held(), "--init", copy, "--steps", 2, "--length", 16]
    refused(remask(*words, "--out", tmp_path / "run"), said)
    assert not (tmp_path / "run").exists()


def test_init_and_its_length(remask, tmp_path):
    words = ["train", "mdlm", "--data", runs.data(), "--valid", held(), "--steps", 2, "--out", tmp_path / "run"]
    refused(
        remask(*words, "--init", trained(), "--length", LENGTH + 1), f"--length {LENGTH + 1} is beyond the {LENGTH}"
    )
    refused(
        remask(*words, "--init", causal(), "--length", 16), "is a causal model", "this objective needs a masked one"
    )
    assert not (tmp_path / "run").exists()


def test_an_unfinished_run_has_no_report(remask, copy):
    facts = json.loads((copy / "remask.json").read_text())
    del facts["metrics"]
    (copy / "remask.json").write_text(json.dumps(facts))
    refused(remask("report", copy), "no finished remask run", "--resume")


def test_a_report_on_changed_text(remask, copy, tmp_path):
    text = (copy / "remask.json").read_text()
    other = tmp_path / "other.txt"
    other.write_text(runs.prose(40, 7))
    (copy / "remask.json").write_text(text.replace(str(runs.data()), str(other)))
    refused(remask("report", copy), "the text has changed")


# ---- nothing is executed ---------------------------------------------------------------------------------------------


class Bomb:
    """An object whose pickle leaves a mark where it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """Must not come to be."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


def test_the_bomb_works(tmp_path):
    """The planted twin."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "executed")))
    assert (tmp_path / "executed").is_dir()


def test_pickled_weights_are_not_read(remask, copy, mark):
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    (copy / "training_args.bin").write_bytes(pickle.dumps(Bomb(mark)))
    assert remask("fill", copy, "a [MASK]", "--json").status == 0
    (copy / "model.safetensors").unlink()
    refused(remask("fill", copy, "a [MASK]"), "remask reads safetensors only, since other formats can run code")


def test_named_code_is_not_run(remask, copy, mark):
    code = f"import os\nos.mkdir({str(mark)!r})\nclass Evil: pass\n"
    (copy / "evil.py").write_text(code)
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForMaskedLM": "evil.Evil"}
    (copy / "config.json").write_text(json.dumps(config))
    assert remask("fill", copy, "a [MASK]", "--json").status == 0  # opened by our own classes
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    refused(remask("fill", copy, "a [MASK]"), "holds no tokenizer that can be read")


def pickled_by_torch(value):
    """The bytes of torch.save: a zip that holds a pickle."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    assert zipfile.is_zipfile(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt",
        pytest.param("scheduler.pt", marks=pytest.mark.slow),
        pytest.param("rng_state.pth", marks=pytest.mark.slow),
    ],
)
def test_training_state_is_not_executed(tmp_path, mark, name):
    run = runs.earlier(tmp_path / "run")
    path = checkpoint.newest(run) / name
    path.write_bytes(pickled_by_torch(Bomb(mark)))
    assert checkpoint.sound(path.parent)
    refused(train(run, *MUON, "--resume"), "cannot be resumed from", "delete it to go on from the one before")


def test_an_untrained_hugging_face_directory_opens(remask, tmp_path):
    """So that the refusals above are not for want of trying."""
    torch.manual_seed(0)
    checkpoint.write_net(tmp_path, HuggingFaceNet(MAKE["bert"]()), byte_tokenizer(), {})
    refused(remask("fill", tmp_path, "a [MASK]"), "has 260 ids, but its model only 61")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--vocabularies", "abc"], "--vocabularies came with 'abc'"),
        (["--vocabularies", "8192", "3"], "--vocabularies came with '3'"),
        (["--net", "huge"], "no net named 'huge'"),
        (["--rounds", "0"], "--rounds came as 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bench_that_cannot_be(remask, words, said):
    refused(remask("bench", "train", *words), said)
