"""What a run is: objective + net + data + settings, as frozen dataclasses; their fields are flags of `remask train`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from remask.core.errors import BadInput
from remask.train.settings import Training

OF_PAIRS: dict[str, Any] = {"init_parts": "both", "length_head": "both", "dropout": 0.1}
"""Fields of Start that only encoder-decoders have, and what they are where nobody says so."""
OF_TEXT = ("data", "column", "document", "unique", "reverse_complement")
"""Fields of Text that nobody reads where pairs are learned from."""


@dataclass(frozen=True)
class Text:
    """What to train on."""

    data: tuple[str, ...] = ("embedded",)
    """Texts: files (.txt .jsonl .parquet .fasta, also .gz), folders, hf:DATASET, or 'embedded' (ships with Python)."""
    valid: tuple[str, ...] = ()
    """Texts (or pairs) to judge by; default: a tenth of the data is held out by document."""
    tokenizer: str | None = None
    """bpe:SIZE, byte, character, dna, dna:K or a Hugging Face tokenizer directory; default: bpe:4096, or --init's."""
    length: int = 128
    """Tokens in a row; of pairs, in the longest source or target, its end token too."""
    column: str = "text"
    """Field of JSONL, Parquet and hub records that holds the text."""
    document: str = "file"
    """What one document of a plain text is: file, paragraph or line."""
    unique: bool | None = None
    """Drop paragraphs that recur before splitting; default: only for 'embedded', a fifth of which is repeats."""
    held_out: float = 0.1
    """Share of the characters that is held out when there is no --valid."""
    reverse_complement: bool = False
    """Add every training document's reverse complement (DNA)."""
    pairs: tuple[str, ...] = ()
    """Sources and targets instead (cmlm, padir, axe, sundae, seq2seq): TSV files, or two files of aligned lines."""
    columns: str = "source,target"
    """What the columns of --pairs (or its two files) are, in order: source, target, or another name for neither."""


@dataclass(frozen=True)
class Start:
    """What to train."""

    net: str = "mini"
    """Size of a fresh net: tiny, mini, small or medium."""
    init: str | None = None
    """Start from this Hugging Face directory, or hf:NAME, instead of a fresh net."""
    directional_heads: bool | None = None
    """Fixed left/right/free attention bias; default on for tiny and mini nets that are to write (mdlm, gmlm, d3pm,
    sedd, autoregressive). Off = a checkpoint that plain transformers opens."""
    time_conditioning: bool = False
    """Tell the net the share of masked cells of each row (MDLM found no gain in it); for masked nets of ours."""
    causal_first: float | None = None
    """Share of training in which a fresh net reads left to right, as causal nets do, before it meets masks; default:
    0.2 for masked tiny and mini nets with directional heads that are to write (mdlm, gmlm, d3pm, sedd), else 0."""
    open_heads: bool = False
    """Let directional heads become ordinary ones during training, for a checkpoint that plain transformers opens."""
    open_from: float | None = None
    """Share of training at which --open-heads begins; default: 0.3."""
    open_until: float | None = None
    """Share of training at which --open-heads is done; default: 0.8."""
    init_parts: str | None = None
    """What of an encoder-decoder a masked LM as --init begins: both, encoder, decoder or none (its shape alone);
    default: both."""
    length_head: str | None = None
    """How a parallel decoder tells its target's length: classifier, affine (in the source's), or both together;
    default: both."""
    dropout: float | None = None
    """Dropout of fresh encoder-decoders; default: 0.1."""

    def __post_init__(self) -> None:
        if self.time_conditioning and (self.init is not None or self.open_heads):
            raise BadInput(
                "--time-conditioning came with --init or --open-heads: it is for fresh nets, and no plain ModernBERT "
                "has it; leave one out."
            )
        if self.causal_first is not None and not 0 <= self.causal_first < 1:
            raise BadInput(f"--causal-first came as {self.causal_first}: it must be a share of training in [0, 1).")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise BadInput(f"--dropout came as {self.dropout}: it must be a share in [0, 1).")
        if self.open_heads and self.directional_heads is False:
            raise BadInput(
                "--open-heads came with --no-directional-heads, which leaves none to open: type one of them."
            )
        if not self.open_heads and (self.open_from is not None or self.open_until is not None):
            raise BadInput("--open-from or --open-until came without --open-heads: type that as well, or neither.")
        since, until = self.opening
        if not 0 <= since < until <= 1:
            raise BadInput(
                f"--open-from came as {since} and --open-until as {until}: wanted are two shares of training, "
                "0 <= from < until <= 1."
            )

    @property
    def settled(self) -> Start:
        """The same, as runs record it: what was left open about encoder-decoders is said."""
        left: dict[str, Any] = {name: value for name, value in OF_PAIRS.items() if getattr(self, name) is None}
        return replace(self, **left)

    @property
    def of_pairs(self) -> tuple[str, str, float]:
        """Of an encoder-decoder: what --init begins, the kind of its length head, its dropout."""
        parts, head, dropout = (getattr(self.settled, name) for name in OF_PAIRS)
        return parts, head, dropout

    @property
    def opening(self) -> tuple[float, float]:
        """Between which shares of training the heads open."""
        return 0.3 if self.open_from is None else self.open_from, 0.8 if self.open_until is None else self.open_until


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on."""

    objective: str
    training: Training
    text: Text = field(default_factory=Text)
    start: Start = field(default_factory=Start)
    fields: dict[str, Any] = field(default_factory=dict)
