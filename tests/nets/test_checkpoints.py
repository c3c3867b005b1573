"""Checkpoints in other processes: plain ones without remask, directional ones after a bare `import remask`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from remask.data import tokenizers
from remask.nets.encoder import build
from remask.train.checkpoint import load, write_net
from tests.nets.tiny import gap, logits, shake

ROOT = Path(__file__).resolve().parents[2]
TEXT = ["the cat sat on the mat and the dog sat on the log", "a mat is not a log", "every dog has its day"] * 4
BLOCKED = "import sys; sys.modules['remask'] = None\n"


def python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a program in a fresh interpreter, offline."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Four checkpoints (plain and directional, masked and causal), the ids of a prompt, and the logits there."""
    tokenizer = tokenizers.train_bpe(TEXT, 270)
    alphabet = tokenizers.alphabet(tokenizer)
    ids = torch.tensor([tokenizers.encode(tokenizer, ["the cat [MASK] on the mat"], special=True)[0].ids])
    assert (ids == alphabet.mask).sum() == 1
    folder, expected = tmp_path_factory.mktemp("saved"), {}
    for name, causal, directional in (
        ("masked", False, False),
        ("causal", True, False),
        ("masked-directional", False, True),
        ("causal-directional", True, True),
    ):
        net = build("tiny", alphabet, 64, causal=causal, directional_heads=directional)
        shake(net.model, scale=0.05)
        write_net(folder / name, net, tokenizer, {"objective": name})
        expected[name] = logits(net, ids)
    torch.save({"ids": ids, **expected}, folder / "expected.pt")
    return folder


PLAIN = (
    BLOCKED
    + """
import sys, json, torch
folder = sys.argv[1]
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline
want = torch.load(folder + "/expected.pt", weights_only=True)
found = {}
tokenizer = AutoTokenizer.from_pretrained(folder + "/masked")
found["ids"] = tokenizer("the cat [MASK] on the mat").input_ids == want["ids"][0].tolist()
model = AutoModelForMaskedLM.from_pretrained(folder + "/masked").eval()
with torch.no_grad():
    scores = model(**tokenizer("the cat [MASK] on the mat", return_tensors="pt")).logits
found["masked"] = float((scores - want["masked"]).abs().max())
best = scores[0][want["ids"][0] == tokenizer.mask_token_id].softmax(-1).max()
answer = pipeline("fill-mask", model=folder + "/masked")("the cat [MASK] on the mat")
found["pipeline"] = abs(answer[0]["score"] - float(best))
found["answers"] = len(answer)
model = AutoModelForCausalLM.from_pretrained(folder + "/causal").eval()
model.generation_config.eos_token_id = None
with torch.no_grad():
    found["causal"] = float((model(want["ids"]).logits - want["causal"]).abs().max())
    written = model.generate(**tokenizer("the cat", return_tensors="pt"), max_new_tokens=8, do_sample=False)
    steps = written[:, :-8]
    for _ in range(8):
        steps = torch.cat([steps, model(steps).logits[:, -1:].argmax(-1)], 1)
found["generate"] = written.tolist() == steps.tolist()
for name in ("masked-directional", "causal-directional"):
    try:
        (AutoModelForMaskedLM if name[0] == "m" else AutoModelForCausalLM).from_pretrained(folder + "/" + name)
        found[name] = "opened"
    except ValueError as error:
        found[name] = str(error)
try:
    import remask
    found["remask"] = True
except ImportError:
    found["remask"] = False
print(json.dumps(found))
"""
)


def test_plain_checkpoints_need_no_remask_and_directional_ones_do(saved):
    done = python(PLAIN, saved)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["remask"] is False
    assert found["ids"] is True
    assert found["masked"] < 1e-5
    assert found["causal"] < 1e-5
    assert found["pipeline"] < 1e-5
    assert found["answers"] == 5
    assert found["generate"] is True
    assert "remask-modernbert" in found["masked-directional"]
    assert "remask-modernbert-decoder" in found["causal-directional"]


OPEN = """
import json, torch
folder = sys.argv[1]
want = torch.load(folder + "/expected.pt", weights_only=True)
found = {}
for name, auto in (("masked-directional", AutoModelForMaskedLM), ("causal-directional", AutoModelForCausalLM)):
    model = auto.from_pretrained(folder + "/" + name).eval()
    with torch.no_grad():
        found[name] = float((model(input_ids=want["ids"]).logits - want[name]).abs().max())
    found[name + " class"] = type(model).__module__
print(json.dumps(found))
"""
ORDERS = {
    "auto first": "import sys\nfrom transformers import AutoModelForCausalLM, AutoModelForMaskedLM\nimport remask\n",
    "remask first": "import sys\nimport remask\nassert 'transformers' not in sys.modules\n"
    "from transformers import AutoModelForCausalLM, AutoModelForMaskedLM\n",
}


@pytest.mark.parametrize(
    "order", [next(iter(ORDERS)), *(pytest.param(o, marks=pytest.mark.slow) for o in [*ORDERS][1:])]
)
def test_directional_checkpoints_open_after_importing_remask_in_either_order(order, saved):
    done = python(ORDERS[order] + OPEN, saved)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("masked-directional", "causal-directional"):
        assert found[name] < 1e-5
        assert found[name + " class"] == "remask.nets.directional"


@pytest.mark.slow
def test_our_own_module_may_be_what_imports_transformers_first():
    code = "import remask.nets.directional as d, sys\nassert d.AutoConfig.for_model('remask-modernbert')\n"
    done = python("import remask, sys\nassert 'transformers' not in sys.modules\n" + code)
    assert done.returncode == 0, done.stderr


def test_importing_remask_is_light():
    code = (
        "import sys, time\nbegan = time.perf_counter()\nimport remask\nprint(time.perf_counter() - began)\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'tokenizers') if m in sys.modules])"
    )
    done = [python(code).stdout.splitlines() for _ in range(3)]
    assert min(float(seconds) for seconds, _ in done) < 0.3
    assert all(heavy == "[]" for _, heavy in done)


def test_all_four_open_here(saved):
    want = torch.load(saved / "expected.pt", weights_only=True)
    for name in ("masked", "causal", "masked-directional", "causal-directional"):
        checkpoint = load(saved / name)
        assert checkpoint.facts == {"objective": name}
        assert checkpoint.alphabet.size == checkpoint.net.vocabulary
        assert checkpoint.length == 64
        assert gap(logits(checkpoint.net, want["ids"]), want[name]) == 0
