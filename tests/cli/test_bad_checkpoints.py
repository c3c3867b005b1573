"""Bad checkpoints: one sentence, exit status 2, nothing is lost, and nothing in them is ever executed."""

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
