"""Tiny ELECTRA runs, and directories of every kind to start from. All read bytes, 260 ids."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from remask.data import tokenizers
from remask.nets import encoder
from remask.nets.pair import GENERATOR, RAW, Pair
from remask.objectives import OBJECTIVES
from remask.train.opening import open_trunk
from tests.nets.tiny import shake
from tests.train import runs
from tests.train.runs import LENGTH, MUON, STEPS

SHAPE = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
MODERN = {**SHAPE, "layer_types": ["full_attention"] * 2} | dict.fromkeys(
    ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2
)


def _bert(kind: str, **more: Any) -> Any:
    return getattr(transformers, kind)(transformers.BertConfig(**SHAPE, **more))


KINDS = {
    "masked": lambda: _bert("BertForMaskedLM"),
    "bare": lambda: _bert("BertModel"),
    "classifier": lambda: _bert("BertForSequenceClassification", num_labels=3),
    "tagger": lambda: _bert("BertForTokenClassification", num_labels=5),
    "detector": lambda: _bert("BertForTokenClassification", num_labels=1),
    "bare-modern": lambda: transformers.ModernBertModel(transformers.ModernBertConfig(**MODERN)),
    "electra": lambda: transformers.ElectraForPreTraining(transformers.ElectraConfig(**SHAPE, embedding_size=16)),
    "electra-generator": lambda: transformers.ElectraForMaskedLM(
        transformers.ElectraConfig(**{**SHAPE, "hidden_size": 16, "num_attention_heads": 2}, embedding_size=16)
    ),
    "causal": lambda: transformers.ModernBertDecoderForCausalLM(transformers.ModernBertDecoderConfig(**MODERN)),
}


def write(kind: str, path: Path) -> Path:
    """A shaken model of a kind with its tokenizer, as anybody's directory."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shake(KINDS[kind](), scale=0.1)
    model.save_pretrained(path)
    tokenizers.byte_tokenizer().save_pretrained(path)
    return path


@cache
def start(kind: str) -> Path:
    """The same, once; to be read only."""
    return write(kind, runs.folder() / "starts" / kind)


def recipe(name: str) -> tuple[str, tuple[str, ...]]:
    """The objective of a run and its flags. BERT drops out, so the state of torch's own generator counts too."""
    bert = ("--init", str(start("masked")))
    size = ("--generator-width", "1")
    return {
        "gdes": ("electra", (*MUON, "--share", "gdes")),
        "bert": ("electra", (*bert, "--share", "gdes", "--optimizer", "adamw", "--accumulate", "2", "--no-bf16")),
        "average": ("electra", (*bert, *MUON, "--ema", "0.9")),
        "all-tokens": ("electra", (*bert, *MUON, "--task", "all-tokens", "--share", "gdes")),
        "two-stage": ("electra", (*bert, *MUON, "--two-stage", "--share", "none", *size)),
        "falling": ("mlm", (*bert, *MUON, "--mask-rate", "0.5", "--final-mask-rate", "0.1")),
    }[name]


def train(run: Path, name: str, *more: str, **rest: Any) -> runs.Done:
    """A run in a process of its own."""
    objective, flags = recipe(name)
    return runs.train(run, *flags, *more, objective=objective, tokenizer=_tokenizer(flags), **rest)


def _tokenizer(flags: tuple[str, ...]) -> str | None:
    return None if "--init" in flags else "byte"


@cache
def undisturbed(name: str) -> Path:
    """A run that nothing happened to."""
    path = runs.folder() / f"electra-{name}"
    runs.well(train(path, name))
    return path


def last(run: Path) -> Path:
    """Its last training checkpoint."""
    return run / "checkpoints" / f"checkpoint-{STEPS}"


def weights(run: Path) -> dict[str, dict[str, bytes]]:
    """Everything that has weights in it, tensor for tensor (safetensors writes its metadata in any order)."""
    places = {"discriminator": run, "generator": run / GENERATOR}
    found = {name: (place / "model.safetensors") for name, place in places.items()}
    found["pair"] = last(run) / RAW
    held = {part: load_file(path) for part, path in found.items() if path.exists()}
    return {part: {name: x.numpy().tobytes() for name, x in tensors.items()} for part, tensors in held.items()}


def facts(run: Path) -> dict[str, Any]:
    """What `remask.json` says."""
    return json.loads((run / "remask.json").read_text())


def restored(run: Path) -> Pair:
    """The pair that was trained, from its raw weights."""
    plan = facts(run)["recipe"]
    tokenizer = tokenizers.load(str(run))
    if plan["start"]["init"] is None:
        alphabet = tokenizers.alphabet(tokenizer)
        net: Any = encoder.build(plan["start"]["net"], alphabet, LENGTH, directional_heads=False)
    else:
        net = open_trunk(plan["start"]["init"])
    pair = OBJECTIVES.load("electra")(**plan["fields"]).furnish(net, seed=99)  # of other weights, until they come
    pair.restore(last(run))
    return pair.eval()


FIGURES = {"mlm_nats", "detection_nats", "generator_accuracy", "detection_auc", "recall_of_replaced"}
