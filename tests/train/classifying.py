"""Tiny pretrained directories of every family, and a task that a bag of words solves."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from remask.data.labelled import Labelled
from tests.nets.tiny import MAKE, V

WORDS = [f"w{i}" for i in range(V - 6)]
SPECIAL = ["[PAD]", "[MASK]", "[END]", "[UNK]", "[A]", "[B]"]


def tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One id a word; foreign families frame their texts with tokens of their own, ours does not."""
    special = SPECIAL if family != "roberta" else ["[A]", "[PAD]", "[END]", "[UNK]", "[MASK]", "[B]"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*special, *WORDS])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if "modernbert" not in family:
        ids = [(name, special.index(name)) for name in ("[A]", "[B]")]
        backend.post_processor = processors.TemplateProcessing(
            single="[A] $A [B]", pair="[A] $A [B] $B:1 [B]:1", special_tokens=ids
        )
    names = {"pad_token": "[PAD]", "mask_token": "[MASK]", "eos_token": "[END]", "unk_token": "[UNK]"}
    types = ["token_type_ids"] if family in ("bert", "electra") else []
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        sep_token="[END]",
        cls_token="[END]",
        model_input_names=["input_ids", *types, "attention_mask"],
        **names,
    )


def directory(path: Path, family: str = "remask-modernbert", ours: bool = False) -> Path:
    """A pretrained directory of a family, its weights a function of the family alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        MAKE[family]().save_pretrained(path)
    tokenizer(family).save_pretrained(path)
    if ours:
        (path / "remask.json").write_text('{"recipe": {"start": {"init": null}}}')
    return path


def task(rows: int, seed: int, kind: str = "classify") -> Labelled:
    """Texts of 3 to 9 words, whose label is told by one of them: its class, or its number."""
    chance = random.Random(seed)
    texts = [chance.choices(WORDS[10:], k=chance.randint(3, 9)) for _ in range(rows)]
    told = [chance.randrange(3) for _ in range(rows)]
    for words, number in zip(texts, told):
        words[chance.randrange(len(words))] = WORDS[number]
    labels = [100.0 + 7 * number for number in told] if kind == "regress" else [f"class {n}" for n in told]
    pairs = [" ".join(chance.choices(WORDS[10:], k=4)) for _ in texts] if kind == "pairs" else None
    return Labelled([" ".join(words) for words in texts], pairs, labels, f"rows {seed}")


def tsv(path: Path, labelled: Labelled, header: bool = True) -> Path:
    """The rows as a file."""
    columns = [labelled.labels, labelled.texts, *([labelled.pairs] if labelled.pairs else [])]
    names = ["label", "text", "text_pair"][: len(columns)]
    rows = [names, *zip(*columns)] if header else zip(*columns)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path
