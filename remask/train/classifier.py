"""Classifiers: the trunk of any Hugging Face encoder under a fresh sequence-classification head.

Only the trunk's weights are read, whatever head the checkpoint has (masked LM, replaced-token detector, classifier).
What comes out is an ordinary `AutoModelForSequenceClassification`.
Shapes: C classes (1 when regressing).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from remask.core.errors import BadCheckpoint, BadInput
from remask.nets import directional
from remask.nets.trunk import CAUSAL, Trunk
from remask.train.checkpoint import quiet, read_facts, safe_config

LENGTH = 128  # tokens of a row where nobody says otherwise
HEAD_DROPOUT = 0.1  # for nets whose config was written without a thought of fine-tuning: ours
TYPES = ["input_ids", "attention_mask"]


class Pretrained(NamedTuple):
    """A trunk and its tokenizer.

    state: the trunk's weights by their names inside it; ours: pretrained with remask; length: what it can read.
    """

    path: str
    config: Any
    state: dict[str, Tensor]
    tokenizer: Any
    ours: bool
    length: int


def read(path: str | Path) -> Pretrained:
    """Open a directory. BadCheckpoint for causal models, unknown families, pickles, and trunks with weights missing."""
    import transformers

    from remask.data import tokenizers

    family = safe_config(path)["model_type"]
    if family in CAUSAL:
        raise BadCheckpoint(
            f"{path} is a causal model ('{family}'), whose tokens see nothing to their right: type a masked one."
        )
    directional.register()
    opener = transformers.AutoModelForSequenceClassification
    try:
        with quiet():
            model, report = opener.from_pretrained(
                str(path),
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # another head of another size; the trunk is looked at below
                dtype="float32",
            )
    except Exception as error:  # transformers, safetensors and json each raise their own kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BadCheckpoint(f"{path} cannot be opened ({first}): the weights or the config are damaged.") from error
    prefix = f"{model.base_model_prefix}."
    lacking = {str(name).removeprefix(prefix) for name in report["missing_keys"] if str(name).startswith(prefix)}
    wrong = [key[0] for key in report["mismatched_keys"] if str(key[0]).startswith(prefix)]
    lost = sorted(name for name in lacking if not name.startswith("pooler.")) + wrong  # few masked LMs have a pooler
    if lost:
        raise BadCheckpoint(f"{path} lacks weights that its config asks for ({lost[0]} ...): its trunk is not whole.")
    state = {name: tensor for name, tensor in model.base_model.state_dict().items() if name not in lacking}
    tokenizer = tokenizers.load(path)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise BadCheckpoint(f"{path} has more tokens than its net has embeddings: give it the tokenizer of its net.")
    ours = _fresh(path) or family == directional.DirectionalConfig.model_type
    return Pretrained(str(path), model.config, state, tokenizer, ours, Trunk(model).length)


def _fresh(path: str | Path) -> bool:
    """Whether a directory is a run of ours that started from random weights."""
    start = read_facts(path).get("recipe", {}).get("start")
    return isinstance(start, dict) and start.get("init") is None


def head_config(source: Pretrained, classes: Sequence[str] | None, dropout: float | None) -> Any:
    """The config of a classifier; `classes` None = one number (regression).

    Nets trained here have no [CLS] that learned anything, so their head reads the mean of the hidden states.
    """
    config = copy.deepcopy(source.config)
    names = list(classes) if classes is not None else ["LABEL_0"]
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = "regression" if classes is None else "single_label_classification"
    if source.ours and hasattr(config, "classifier_pooling"):
        config.classifier_pooling = "mean"
    if dropout is None and source.ours and not getattr(config, "classifier_dropout", None):
        dropout = HEAD_DROPOUT
    if dropout is not None:
        for name in ("classifier_dropout", "seq_classif_dropout", "cls_dropout"):  # one of them, by family
            if hasattr(config, name):
                setattr(config, name, dropout)
    return config


def build(source: Pretrained, config: Any, seed: int, fresh: bool = False) -> Any:
    """A classifier whose head (with `fresh`, all of it) is a function of the seed; its trunk is the pretrained one."""
    import transformers

    with torch.random.fork_rng(devices=[]), quiet():
        torch.default_generator.manual_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_config(
            copy.deepcopy(config), trust_remote_code=False, dtype=torch.float32
        )
    if not fresh:
        missing, unexpected = model.base_model.load_state_dict(source.state, strict=False)
        assert not unexpected and all(name.startswith("pooler.") for name in missing)
    return Trunk(model).model  # for ModernBERT it sets the attention that is quick in training


def fold(model: Any, scale: float, shift: float) -> None:
    """Make a regressor of standardised labels one of the labels themselves: its last layer times scale plus shift."""
    last = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1][-1]
    with torch.no_grad():
        last.weight.mul_(scale)
        last.bias.mul_(scale).add_(shift)


def prepare_tokenizer(source: Pretrained, length: int, pairs: bool) -> Any:
    """The tokenizer that is saved with the classifier, so that a pipeline reads exactly what training read.

    One that adds no token of its own (ours) gets the template `text END` or `text END pair END`; others keep theirs.
    Raises BadInput for a length without room for text, BadCheckpoint without a padding token.
    """
    from tokenizers import processors

    tokenizer = copy.deepcopy(source.tokenizer)
    if tokenizer.pad_token_id is None:
        raise BadCheckpoint(
            f"the tokenizer in {source.path} has no padding token, which batches of texts need: add one."
        )
    end = tokenizer.sep_token or tokenizer.eos_token
    if tokenizer.num_special_tokens_to_add() == 0 and end is not None:
        number = tokenizer.convert_tokens_to_ids(end)
        template = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A {end} $B:1 {end}:1", special_tokens=[(end, number)]
        )
        backend = tokenizer.backend_tokenizer
        before = backend.post_processor
        backend.post_processor = template if before is None else processors.Sequence([before, template])
    if getattr(source.config, "type_vocab_size", 0) < 2:
        tokenizer.model_input_names = TYPES
        tokenizer.init_kwargs["model_input_names"] = TYPES
    taken = tokenizer.num_special_tokens_to_add(pair=pairs)
    if length < taken + (2 if pairs else 1):
        raise BadInput(f"--length {length} leaves no room for text beside {taken} special tokens: type a larger one.")
    tokenizer.model_max_length = length
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


def row_length(source: Pretrained, wanted: int | None) -> int:
    """Tokens of a row; BadInput for more than the net can read."""
    if wanted is not None and wanted > source.length:
        raise BadInput(
            f"--length {wanted} is beyond the {source.length} that {source.path} can read: type a smaller one."
        )
    return min(source.length, LENGTH) if wanted is None else wanted
