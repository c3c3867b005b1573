"""An encoder-decoder that knows the laws of its translations: p(length | source) and p(text | source, length), exact.

Shapes: B batch, L length of a row, V ids, A symbols, S = A^n texts of n tokens, M longest text.
"""

import numpy as np
import torch
from torch import Tensor

from remask.core.alphabet import Alphabet
from remask.nets.reading import Memory, Reading

PAD, MASK, END, FIRST = 0, 1, 2, 3  # the symbols are FIRST, FIRST + 1, ...


class LawTranslator:
    """Sources are told apart by their first token; source k has the texts of `joint[k, n]`, [A] * n."""

    causal = False
    training = False

    def __init__(self, sources: int, symbols: int, longest: int, seed: int):
        rng = np.random.default_rng(seed)
        self.symbols, self.longest = symbols, longest
        self.alphabet = Alphabet(FIRST + max(symbols, sources), MASK, PAD, END, frozenset({PAD, MASK, END}))
        self.lengths = torch.from_numpy(rng.dirichlet([1.0] * longest, size=sources)).log()
        self.joint = {
            (k, n): torch.from_numpy(rng.dirichlet([0.5] * symbols**n)).view([symbols] * n)
            for k in range(sources)
            for n in range(1, longest + 1)
        }

    def source(self, numbers):
        """The row of each source number [B]: its token, an end; some longer than others by padding."""
        tokens = torch.tensor([[FIRST + k, END] for k in numbers])
        return tokens, tokens != PAD

    def read(self, source: Tensor, attend: Tensor) -> Reading:
        return Reading(self, Memory((), (), attend, (source[:, :1] - FIRST).double()))

    def length_head(self, summary: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        return self.lengths[summary[:, 0].long()]

    def decode(
        self, tokens: Tensor, memory: Memory, *, attend: Tensor | None = None, sees: Tensor | None = None
    ) -> Tensor:
        """Log p of every id in every cell, given all other cells that are not masked."""
        assert sees is None
        attend = torch.ones_like(tokens, dtype=torch.bool) if attend is None else attend
        hidden = torch.zeros(*tokens.shape, self.alphabet.size, dtype=torch.float64)
        cells = attend.sum(1) - 1
        for k, n in {(int(k), int(n)) for k, n in zip(memory.summary[:, 0], cells)}:
            rows = torch.nonzero((memory.summary[:, 0] == k) & (cells == n))[:, 0]
            assert (tokens[rows, n] == END).all()
            states = torch.cartesian_prod(*[torch.arange(self.symbols)] * n).view(-1, n)
            seen = tokens[rows, None, :n]
            fits = (seen == states + FIRST) | (seen == MASK)
            for cell in range(n):
                others = fits.clone()
                others[:, :, cell] = True
                weight = others.all(2).double() * self.joint[k, n].flatten()
                symbols = torch.nn.functional.one_hot(states[:, cell], self.symbols).double()
                part = torch.full((len(rows), self.alphabet.size), -torch.inf, dtype=torch.float64)
                part[:, FIRST : FIRST + self.symbols] = (weight @ symbols).log()
                hidden[rows, cell] = part
        return hidden

    def log_probs(self, hidden_at: Tensor, ban: int | None = None) -> Tensor:
        if ban is not None:
            hidden_at = hidden_at.index_fill(1, torch.tensor([ban]), -torch.inf)
        return hidden_at.log_softmax(1)

    def number(self, text):
        """Which of the S texts of its length a text is."""
        found = 0
        for token in text:
            found = found * self.symbols + token - FIRST
        return found
