"""Tokenizers: text to ids and back, always as a fast Hugging Face tokenizer.

    bpe:SIZE     byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019), trained here; lossless
    byte         one id per byte; lossless
    character    one id per character of the training text, the rest is [UNK]
    dna          A C G T N; lossless up to case, IUPAC letters (N) and line ends; dna_tokenizer.py
    dna:K        besides, all words of K nucleotides, K from 1 to 6; words do not overlap
    PATH         a Hugging Face tokenizer: its folder or its tokenizer.json

Those built here have [PAD] 0, [MASK] 1, [END] 2, [UNK] 3, and add no token of their own to a text. [END] is also
their bos, sep and cls token, which plain `transformers` code likes to ask for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from remask.core.alphabet import Alphabet
from remask.core.errors import BadCheckpoint, BadData, BadInput, UnknownName
from remask.data.dna import ambiguous
from remask.data.dna_tokenizer import dna_backend, dna_encode, dna_width, read_width
from remask.data.words import continuing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "Encoded",
    "Encoder",
    "alphabet",
    "build",
    "byte_characters",
    "byte_tokenizer",
    "character_tokenizer",
    "dna_tokenizer",
    "encode",
    "load",
    "train_bpe",
    "word_width",
]

PAD, MASK, END, UNK = SPECIAL = ("[PAD]", "[MASK]", "[END]", "[UNK]")
SMALLEST = 256 + len(SPECIAL)
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "sentencepiece.bpe.model", "spiece.model")
BATCH = 256  # texts encoded at a time: the library's own records take some hundred bytes a token


class Encoded(NamedTuple):
    """A text as tokens.

    ids: token ids; no special tokens added.
    bytes: UTF-8 bytes that each token stands for; they sum to the bytes of the text.
    """

    ids: list[int]
    bytes: list[int]


def train_bpe(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `size` ids, the same on every run; decode(encode(x)) == x for every text x.

    Raises BadInput when `size` is below 260: 256 bytes and 4 special tokens.
    """
    if size < SMALLEST:
        raise BadInput(f"a byte-level tokenizer of {size} ids is too small; type bpe:{SMALLEST} or more.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        # a blank takes the space before it with it, as the tokens that may fill it do (" if" is one token)
        special_tokens=[AddedToken(name, lstrip=name == MASK, normalized=False, special=True) for name in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _fast(tokenizer)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 bytes and 4 special tokens; the id of a byte is its value + 4."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *byte_characters()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer)


def character_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """One id per character (Unicode code point) of `texts`, in code order after the 4 special tokens."""
    seen: set[str] = set()
    for text in texts:
        seen.update(text)
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *sorted(seen)))}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return _fast(tokenizer)


def dna_tokenizer(width: int = 1) -> PreTrainedTokenizerFast:
    """Letters of DNA, and words of `width` of them that do not overlap; see dna_tokenizer.py."""
    return _fast(dna_backend(width, SPECIAL, MASK))


def word_width(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """K of a tokenizer made by `dna_tokenizer`, however it was saved and loaded; None for any other."""
    return dna_width(tokenizer.backend_tokenizer, SPECIAL)


def build(name: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokenizer of a name (see the head of this module); `texts` are the texts to train it on.

    Raises UnknownName for any other name, BadInput for `bpe:` or `dna:` without a fair size, and BadCheckpoint for
    a path that holds no usable tokenizer.
    """
    kind, colon, size = name.partition(":")
    if kind == "bpe":
        if not (colon and size.isdecimal()):
            raise BadInput(f"'{name}' does not say how many ids it wants; type for example bpe:4096.")
        return train_bpe(texts, int(size))
    if name == "byte":
        return byte_tokenizer()
    if name == "character":
        return character_tokenizer(texts)
    if kind == "dna":
        return dna_tokenizer(read_width(name))
    if Path(name).exists():
        return load(name)
    raise UnknownName(
        "tokenizer", name, ["bpe:4096", "byte", "character", "dna", "dna:3", "a folder with a tokenizer.json"]
    )


def load(directory: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint: its folder, or its tokenizer.json. Nothing is downloaded, no code is run.

    Raises BadCheckpoint when there is none, when it is broken, or when it is not a fast one.
    """
    path = Path(directory)
    if not path.exists():
        raise BadCheckpoint(f"there is no folder '{path}'; name a checkpoint that holds a tokenizer.json.")
    if path.is_file() and (path.parent / "tokenizer_config.json").exists():
        path = path.parent
    if path.is_dir() and not any((path / name).is_file() for name in VOCABULARIES):  # or transformers makes one up
        raise BadCheckpoint(f"'{path}' holds no tokenizer; name a folder with a whole tokenizer.json.")
    try:
        if path.is_file():
            return _fast(Tokenizer.from_file(str(path)))
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # the Rust library raises plain Exception, transformers half a dozen kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadCheckpoint(
            f"'{path}' holds no tokenizer that can be read ({reason}); name a folder with a whole tokenizer.json "
            "and tokenizer_config.json."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise BadCheckpoint(f"'{path}' holds a slow tokenizer; save a fast one there, with a tokenizer.json.")
    return tokenizer


def alphabet(tokenizer: PreTrainedTokenizerFast, size: int | None = None, *, masked: bool = True) -> Alphabet:
    """The ids that samplers and objectives need.

    size: ids of the model, where it has more than the tokenizer (embeddings rounded up); the surplus is special;
    masked: False for a left-to-right model, whose tokenizer may have no mask (then `mask` is None: no id is banned).
    Raises BadCheckpoint without a mask token, or when the model has fewer ids than the tokenizer.
    """
    name = getattr(tokenizer, "name_or_path", "") or "memory"
    if masked and tokenizer.mask_token_id is None:
        raise BadCheckpoint(
            f"the tokenizer in '{name}' has no mask token, so nothing can be masked; take that of a masked language "
            "model, or add one: tokenizer.add_special_tokens({'mask_token': '[MASK]'})."
        )
    known = len(tokenizer)
    if size is not None and size < known:
        raise BadCheckpoint(
            f"the tokenizer in '{name}' has {known} ids, but its model only {size}; give the tokenizer of the model."
        )
    special = set(tokenizer.all_special_ids) | set(range(known, size or known))
    special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    text = Alphabet(size or known, tokenizer.mask_token_id, tokenizer.pad_token_id, end, frozenset(special))
    if word_width(tokenizer) is not None:  # DNA has no words
        return text
    return text._replace(continues=continuing(tokenizer) - text.special)


class Encoder:
    """A tokenizer made ready to encode text after text: what `encode` does, without getting ready for every call.

    Later changes of the tokenizer need not reach it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, special: bool = False):
        self.special, self.mask, self.name = special, tokenizer.mask_token_id, tokenizer.mask_token
        self.dna = None if special else word_width(tokenizer)
        backend = tokenizer.backend_tokenizer
        if backend.truncation or backend.padding or backend.encode_special_tokens == special:
            backend = copy.deepcopy(backend)  # others may be using the tokenizer: leave its settings alone
            backend.no_truncation()
            backend.no_padding()
            backend.encode_special_tokens = not special
        self.backend = backend
        self.widths = _widths(backend) if self.dna is None else None

    def __call__(self, texts: Sequence[str]) -> list[Encoded]:
        """See `encode`."""
        if self.dna is not None:
            ambiguous(texts, "the text")
            return [Encoded(*dna_encode(text, self.dna, len(SPECIAL))) for text in texts]
        found: list[Encoded] = []
        run = self.backend.encode_batch if self.widths is None else self.backend.encode_batch_fast
        for start in range(0, len(texts), BATCH):
            batch = list(texts[start : start + BATCH])
            for text, record in zip(batch, run(batch, add_special_tokens=False)):
                ids = record.ids
                if not self.special and self.mask is not None and self.mask in ids:
                    raise BadData(
                        f"a text holds the mask token '{self.name}' itself, which no model can learn to "
                        "predict; remove it from the text."
                    )
                found.append(Encoded(ids, _bytes(text, ids, record, self.widths, self.backend)))
        return found


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], *, special: bool = False) -> list[Encoded]:
    """Encode texts whole (no truncation, no special tokens added), with the UTF-8 bytes that each token stands for.

    special: True reads "[MASK]" in a text as the mask (prompts); False reads it as six characters (data).

    The bytes of a text sum to len(text.encode()) for every fast tokenizer: white space that it drops counts to the
    next token, what is left at the end to the last one. A text that it turns into nothing (only white space, for
    some) gives no tokens and so no bytes. Raises BadData for data that turns into mask tokens all the same, and for
    data with letters that are no nucleotides where the tokenizer is for DNA. For many calls make one `Encoder`:
    getting ready takes some ten milliseconds.
    """
    return Encoder(tokenizer, special=special)(texts)


def _fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap for `transformers`. Of the special tokens, those that the vocabulary has get their roles."""
    from transformers import PreTrainedTokenizerFast

    roles = {
        "pad_token": (PAD, "<pad>"),
        "mask_token": (MASK, "<mask>"),
        "unk_token": (UNK, "<unk>"),
        "eos_token": (END, "</s>"),
        "bos_token": (END, "<s>", "[CLS]"),
        "sep_token": (END, "</s>", "[SEP]"),
        "cls_token": (END, "<s>", "[CLS]"),
    }
    found: dict[str, Any] = {}
    for role, names in roles.items():
        known = [name for name in names if backend.token_to_id(name) is not None]
        if known:
            found[role] = known[0]
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **found)


def byte_characters() -> list[str]:
    """The character that byte-level tokenizers write for each byte 0..255 (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _widths(backend: Tokenizer) -> np.ndarray | None:
    """Bytes of each id where the tokenizer is byte-level and drops nothing: no offsets needed, so twice as fast."""
    if backend.normalizer is not None or not isinstance(backend.decoder, decoders.ByteLevel):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    widths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
    for token, number in vocabulary.items():
        widths[number] = len(token)
    for number, added in backend.get_added_tokens_decoder().items():
        widths[number] = len(added.content.encode())
    return widths


def _bytes(text: str, ids: list[int], record: Any, widths: np.ndarray | None, backend: Tokenizer) -> list[int]:
    """UTF-8 bytes of each token of one text."""
    if not ids:
        return []
    if widths is not None:
        counts = widths[np.array(ids)]
        if counts.sum() == len(text.encode()):
            return counts.tolist()
        record = backend.encode(text, add_special_tokens=False)  # a prefix space, [UNK], a mask that eats a space
    flat = np.fromiter(chain.from_iterable(record.offsets), dtype=np.int64, count=2 * len(ids))
    ends = np.maximum.accumulate(flat[1::2])
    ends[-1] = len(text)
    if not text.isascii():
        code = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        width = 1 + (code >= 0x80).astype(np.int64) + (code >= 0x800) + (code >= 0x10000)
        ends = np.concatenate([[0], np.cumsum(width)])[ends]
    return np.diff(ends, prepend=0).tolist()
