"""Opening encoder-decoders: our own, T5 and mT5, and masked LMs that become one. No code of a directory is ever run."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch

from remask.core.alphabet import Alphabet
from remask.core.errors import BadCheckpoint
from remask.data import tokenizers
from remask.nets.configs import check_attention, check_weights, read_config
from remask.train.checkpoint import load_net, open_model, quiet, read_facts
from remask.train.hub import locate

PARALLEL, CROSSED = "remask-t5", "remask-crossed"
LEFT_TO_RIGHT = ("t5", "mt5")
FARTHEST = 512  # tokens of a source, for nets that do not say what they were trained on
SENTINEL = re.compile(r"<extra_id_(\d+)>")


class Translator(NamedTuple):
    """A loaded encoder-decoder.

    facts: what `remask.json` says (objective, recipe, data fingerprint, metrics), empty for foreign directories.
    """

    net: Any
    tokenizer: Any
    alphabet: Alphabet
    facts: dict[str, Any]
    path: str

    @property
    def window(self) -> int:
        """Tokens of the longest source, and of the longest text that is written left to right, ends included.

        One number does for both, since training dropped pairs with a longer side (--length). T5's relative positions
        would reach farther, but nothing taught it to: a longer source is split or truncated, a text with no end by
        then stops.
        """
        reach = min(self.net.length, getattr(self.net, "source_length", self.net.length))
        return min(int(reach), int(self.facts.get("recipe", {}).get("text", {}).get("length") or FARTHEST))

    def in_bfloat16(self) -> Translator:
        """The same with weights rounded to bfloat16, and arithmetic in it; log p and its sums stay float32 and more."""
        return self._replace(net=deepcopy(self.net).to(torch.bfloat16))


def load_translator(path: str | Path) -> Translator:
    """Open a directory, or `hf:NAME`; BadCheckpoint when it holds no encoder-decoder."""
    path = locate(path)
    net = open_encoder_decoder(path)
    if net is None:
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

        config = read_config(path)
        decoded = (
            config.get("is_encoder_decoder") and config["model_type"] in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
        )
        foreign = f"remask decode {path} writes its translations; or type"
        raise BadCheckpoint(
            f"{path} is a '{config['model_type']}' model, which "
            + (f"is none of ours and no T5: {foreign}" if decoded else "reads no source: type")
            + " the directory of a run of cmlm, padir, axe, sundae or seq2seq, or of a T5."
        )
    tokenizer = with_mask(str(path))
    alphabet = tokenizers.alphabet(tokenizer, net.vocabulary)
    return Translator(net.eval(), tokenizer, alphabet, read_facts(path), str(path))


def open_encoder_decoder(path: str | Path) -> Any:
    """The encoder-decoder of a directory, or None where it holds another kind of model."""
    import transformers

    from remask.nets.t5 import ParallelT5, T5Net

    config = read_config(path)
    family = config["model_type"]
    if family == CROSSED:
        from remask.nets.crossed import open_crossed

        return open_crossed(path)
    if family not in (PARALLEL, *LEFT_TO_RIGHT):
        return None
    check_attention(config, path)
    check_weights(path)
    openers = {
        PARALLEL: ParallelT5,
        "t5": transformers.T5ForConditionalGeneration,
        "mt5": transformers.MT5ForConditionalGeneration,
    }
    model, report = open_model(path, openers[family])
    missing = sorted(report["missing_keys"])
    if missing or report["mismatched_keys"]:
        names = ", ".join(missing[:3]) or str(sorted(report["mismatched_keys"])[0])
        raise BadCheckpoint(f"{path} lacks weights that its config asks for ({names} ...): restore it, or train again.")
    return T5Net(model.eval())


def cloned(path: str | Path, parts: str, longest: int, length_kind: str, seed: int, *, causal: bool) -> Any:
    """A masked LM as an encoder-decoder, begun in both parts, one or none; causal: the decoder goes left to right."""
    from remask.core.errors import UnknownName
    from remask.nets.crossed import clone
    from remask.nets.writer import writer

    begun = {"both": (True, True), "encoder": (True, False), "decoder": (False, True), "none": (False, False)}
    if parts not in begun:
        raise UnknownName("part of --init-parts", parts, begun)
    encoder, decoder = begun[parts]
    net = load_net(path, causal=False)
    written = writer(net, begun=decoder, seed=seed) if causal else None
    return clone(
        net,
        encoder=encoder,
        decoder=decoder,
        longest_target=longest,
        length_kind=length_kind,
        writer=written,
        seed=seed,
    )


def with_mask(name: str) -> Any:
    """The tokenizer of a directory, T5's last sentinel being the mask where there is none; other names unchanged."""
    if not Path(name).exists():
        return name
    with quiet():  # transformers does not know our model types, and says so
        tokenizer = tokenizers.load(name)
    if tokenizer.mask_token is None:
        sentinels = {int(m[1]): t for t in tokenizer.get_vocab() if (m := SENTINEL.fullmatch(t))}
        if sentinels:
            tokenizer.mask_token = sentinels[max(sentinels)]
    return tokenizer
