"""The report of a run: its pieces say what happened."""

import torch

from remask.cli.story import SENTENCE, sentences, written
from remask.core.canvas import infill
from remask.samplers.first_hitting import FirstHitting
from tests.oracle import LAWS


class Told:
    """A checkpoint whose conditional is an oracle."""

    def __init__(self, oracle):
        self.oracle = oracle

    def conditional(self):
        return self.oracle


def test_the_order_of_falling_is_a_permutation_of_the_unknown_cells():
    oracle = LAWS["independent"]
    tokens = oracle.states[:5].clone()
    hidden = torch.zeros_like(tokens, dtype=torch.bool)
    hidden[:, 1:] = True
    hidden[0] = False
    canvas = infill(torch.where(hidden, oracle.alphabet.mask, tokens), oracle.alphabet)
    result = written(Told(oracle), canvas, FirstHitting(), seed=0)
    wanted = torch.arange(1, tokens.shape[1])
    assert (result.order[0] == 0).all()
    for row in result.order[1:]:
        assert row[0] == 0
        assert torch.equal(row[1:].sort().values, wanted)
    assert result.calls.tolist() == [0, *[tokens.shape[1] - 1] * 4]
    assert torch.equal(result.tokens[~hidden], tokens[~hidden])


TEXT = """The if statement
****************

The if statement is used for conditional execution of a suite. It selects exactly one of the suites by evaluating
the expressions one by one until one is found to be true. No.

   if_stmt ::= "if" assignment_expression ":" suite
"""


def test_sentences_are_whole_and_of_fair_length():
    found = sentences([TEXT], 5, seed=0)
    assert found == [
        "The if statement is used for conditional execution of a suite.",
        "It selects exactly one of the suites by evaluating the expressions one by one until one is found to be true.",
    ]
    assert all(one in " ".join(TEXT.split()) for one in found)
    assert sentences([TEXT], 1, seed=0) == sentences([TEXT], 1, seed=0)
    assert len(sentences([TEXT], 1, seed=0)) == 1
    assert sentences(["short."], 3, seed=0) == []
    assert SENTENCE.split("One ends. Another begins.") == ["One ends.", "Another begins."]
