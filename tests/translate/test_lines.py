"""Lines in, translations out: order, batching, empty and long lines, and nothing lost in silence."""

from itertools import count, islice

import pytest
import torch

from remask.core.errors import BadInput, UnknownName
from remask.core.stream import Stream
from remask.data.tokenizers import alphabet, character_tokenizer
from remask.samplers.first_hitting import FirstHitting
from remask.samplers.mask_predict import MaskPredict
from remask.translate.lengths import Lengths
from remask.translate.lines import Lines, buffers, one_line, split
from remask.translate.outcome import Outcome
from remask.translate.parallel import translate
from tests.translate.nets import ALPHABET, TOKENIZER, WINDOW, parallel

TEXTS = ["One.", "", "A cat sat there", "   ", "x", "12 34 56", "Nein!", "ab cd ef gh", "y", "So it goes"]


def upside_down(source, attend, stream, oracle):
    """Writes every source backwards: what came out tells what went in."""
    del stream
    tokens = [row[: int(n) - 1].flip(0).tolist() for row, n in zip(source, attend.sum(1))]
    assert all(row[int(n) - 1] == ALPHABET.end for row, n in zip(source, attend.sum(1)))
    length = attend.sum(1) - 1 if oracle is None else oracle
    return Outcome(tokens, -length.double(), length, torch.ones_like(length))


def lines(write=upside_down, **rest):
    return Lines(write, TOKENIZER, ALPHABET, **{"window": WINDOW, "batch": 3, **rest})


def by_net(sampler, seed=0, **rest):
    def write(source, attend, stream, oracle):
        return translate(parallel(), source, attend, ALPHABET, sampler, stream, Lengths(lengths=2), oracle)

    return lines(write, seed=seed, **rest)


@pytest.mark.parametrize("batch", [1, 2, 3, 50])
def test_translations_come_in_the_order_of_the_lines(batch):
    translator = lines(batch=batch)
    found = list(translator(TEXTS))
    assert [one.text for one in found] == [text.strip()[::-1] for text in TEXTS]
    assert [one.source_tokens for one in found] == [len(text.strip()) for text in TEXTS]
    assert [one.calls for one in found] == [int(bool(text.strip())) for text in TEXTS]
    assert (translator.counts.lines, translator.counts.empty, translator.counts.long) == (10, 2, 0)


@pytest.mark.parametrize("sampler", [FirstHitting(), MaskPredict(steps=2)], ids=lambda s: type(s).__name__)
def test_batches_change_nothing(sampler):
    wanted = list(by_net(sampler, batch=1)(TEXTS))
    for batch in (2, 4, 64):
        for one, other in zip(by_net(sampler, batch=batch)(TEXTS), wanted, strict=True):
            assert (one.text, one.tokens, one.length, one.calls) == (
                other.text,
                other.tokens,
                other.length,
                other.calls,
            )
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-8)


def test_a_line_draws_by_its_number_and_the_seed():
    same = list(by_net(FirstHitting())(["So it goes"] * 6))
    assert len({one.text for one in same}) > 3
    assert [one.text for one in by_net(FirstHitting(), seed=1)(["So it goes"] * 6)] != [one.text for one in same]
    later = by_net(FirstHitting()).buffer(["So it goes"] * 2, first=4)
    assert [one.text for one in later] == [one.text for one in same[4:]]


def test_the_first_lines_come_soon():
    asked = []

    def endless():
        for number in count(1):
            asked.append(number)
            yield "abc"

    assert next(iter(lines(batch=4)(endless()))).text == "cba"
    assert len(asked) == 4
    assert [len(chunk) for _, chunk in islice(buffers(endless(), 4), 6)] == [4, 8, 16, 32, 32, 32]
    assert [len(chunk) for _, chunk in islice(buffers(endless(), 1), 3)] == [1, 1, 1]


def test_a_buffer_is_sorted_by_length():
    widths = []

    def write(source, attend, stream, oracle):
        widths.append(source.shape[1])
        return upside_down(source, attend, stream, oracle)

    list(lines(write, batch=2)(["a" * n for n in (1, 9, 2, 8, 1, 9)]))
    assert widths == [10, 3, 10]  # of 1 9 | 1 2 | 8 9, each with its end: a buffer of one batch and one of two


# ---- what does not fit -----------------------------------------------------------------------------------------------


def test_long_sources_are_cut_at_sentences_then_words_then_letters():
    def ids_of(texts):
        return [TOKENIZER.encode(text.strip()) for text in texts]

    def pieces(text, room):
        return [TOKENIZER.decode(ids) for ids in split(text, room, ids_of)]

    assert pieces("One two. Three? Four five six! Seven", 15) == ["One two. Three?", "Four five six!", "Seven"]
    assert pieces("One two. Three four five six. Seven.", 12) == ["One two.", "Three four", "five six.", "Seven."]
    assert pieces("v1.2 is out", 8) == ["v1.2 is", "out"]  # no sentence ends inside a number
    assert pieces("abcdefghijk lm", 4) == ["abcd", "efgh", "ijk", "lm"]
    assert pieces("äöüß", 4) == ["äö", "üß"]  # two bytes a letter, which is never torn
    assert pieces("あ。い。", 6) == ["あ。", "い。"]
    for room in range(4, 30):
        text = "To be, or not to be: that is the question. Whether 'tis nobler? Extraordinarily so!"
        found = pieces(text, room)
        assert all(len(TOKENIZER.encode(piece)) <= room for piece in found)
        assert "".join(found).replace(" ", "") == text.replace(" ", "")


def test_a_long_line_is_told_once_and_counted():
    told = []
    translator = lines(tell=told.append)
    text = "One two three. Four five six. Seven."
    found = list(translator(["short", text, text]))
    assert [one.text for one in found] == ["trohs", ".eerht owt enO .xis evif ruoF .neveS", found[1].text]
    assert found[1].source_tokens == len(text) - 2  # the spaces between pieces
    assert (found[1].calls, found[1].length, found[1].log_prob) == (3, 34, -34.0)
    assert translator.counts.long == 2
    assert len(told) == 1
    assert "line 2 has 36 tokens and the net reads 15" in told[0]


def test_a_long_line_can_be_truncated():
    told = []
    translator = lines(tell=told.append, long="truncate")
    found = list(translator(["One two three. Four five six."]))
    assert found[0].text == "One two three. "[::-1]
    assert found[0].source_tokens == WINDOW - 1
    assert translator.counts.long == 1
    assert "cut off" in told[0]


def test_the_longest_source_that_fits_is_left_alone():
    translator = lines()
    assert next(translator(["a" * (WINDOW - 1)])).text == "a" * (WINDOW - 1)
    assert translator.counts.long == 0
    next(translator(["a" * WINDOW]))
    assert translator.counts.long == 1


def test_pieces_draw_apart():
    """Two equal sentences of one line are two draws."""
    found = next(by_net(FirstHitting())(["So it goes on. So it goes on."]))
    first, second = found.tokens[: len(found.tokens) // 2], found.tokens[len(found.tokens) // 2 :]
    assert found.tokens
    assert first != second


def test_unknown_characters_are_counted():
    tokenizer = character_tokenizer(["abc "])
    ids = alphabet(tokenizer)

    def write(source, attend, stream, oracle):
        del stream, oracle
        length = attend.sum(1)
        return Outcome([[5]] * len(source), -length.double(), length, length)

    translator = Lines(write, tokenizer, ids, window=9)
    list(translator(["abc", "axyz", "z"]))
    assert translator.counts.unknown == 4


def test_lines_of_data_that_name_special_tokens_are_text():
    texts = ["[PAD] a", "[END]", "[MASK]"]
    assert [one.text for one in lines()(texts)] == [text[::-1] for text in texts]


def test_a_translation_is_one_line():
    assert one_line("a\tb\r\nc\nd\re") == "a b c d e"
    assert one_line("a\0b\x85c\u2028d\x1be") == "a b c d e"
    assert one_line("ä 。\u200d") == "ä 。\u200d"

    def write(source, attend, stream, oracle):
        del attend, stream, oracle
        ones = torch.ones(len(source), dtype=torch.int64)
        return Outcome([TOKENIZER.encode("a\nb\tc")] * len(source), -ones.double(), ones, ones)

    assert next(lines(write)(["x"])).text == "a b c"


def test_true_lengths_go_with_their_lines():
    texts, wanted = ["ab", "", "One two three. Four five six.", "abc"], [7, 1, 9, 8]
    found = list(lines(oracle=wanted)(texts))
    assert [one.length for one in found] == [7, 0, 0, 8]  # nobody knows the lengths of pieces


@pytest.mark.parametrize("fields", [{"batch": 0}, {"window": 1}], ids=str)
def test_what_cannot_be_is_refused(fields):
    with pytest.raises(BadInput):
        lines(**fields)


def test_an_unknown_way_with_long_sources():
    with pytest.raises(UnknownName, match="split, truncate"):
        lines(long="drop")


def test_streams_go_by_line_and_piece():
    seen = []

    def write(source, attend, stream, oracle):
        seen.append(stream.seeds)
        return upside_down(source, attend, stream, oracle)

    list(lines(write, batch=50, seed=7)(["ab", "c"]))
    wanted = Stream.of(7, torch.tensor([0, 1])).child(torch.tensor([0, 0])).seeds
    assert set(torch.cat(seen).tolist()) == set(wanted.tolist())
