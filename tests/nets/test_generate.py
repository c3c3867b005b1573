"""The directional causal twin writes: steps with a cache, and generate(), against full passes."""

import pytest
import torch

from tests.nets.test_directional import decoder
from tests.nets.tiny import gap, logits, padding, text


def writer():
    net = decoder()
    net.model.generation_config.eos_token_id = None  # write on to the end
    return net


@pytest.mark.parametrize("steps", [[1] * 16, [5, 1, 1, 4, 5], [16]])
def test_steps_with_a_cache_equal_the_full_pass(steps):
    net, tokens = writer(), text(2, 16)
    expected = logits(net, tokens)
    cache, parts = None, []
    with torch.no_grad():
        for part in tokens.split(steps, 1):
            out = net.model(input_ids=part, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
    assert gap(torch.cat(parts, 1), expected) < 1e-5


def test_steps_with_a_cache_and_left_padding_equal_each_row_alone():
    net, tokens, attend = writer(), text(2, 16), padding([16, 10], 16, left=True)
    alone = logits(net, tokens[1:, 6:])
    with torch.no_grad():
        out = net.model(input_ids=tokens[:, :9], attention_mask=attend[:, :9].long(), use_cache=True)
        parts = [out.logits]
        for i in range(9, 16):
            step = {"input_ids": tokens[:, i : i + 1], "attention_mask": attend[:, : i + 1].long()}
            out = net.model(**step, past_key_values=out.past_key_values, use_cache=True)
            parts.append(out.logits)
    assert gap(torch.cat(parts, 1)[1:, 6:], alone) < 1e-5


def greedy(net, tokens, count):
    for _ in range(count):
        tokens = torch.cat([tokens, logits(net, tokens)[:, -1:].argmax(-1)], 1)
    return tokens


@pytest.mark.parametrize("cache", [True, False])
def test_generate_writes_what_full_passes_would(cache):
    net, prompt = writer(), text(3, 5)
    written = net.model.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=cache)
    assert torch.equal(written, greedy(net, prompt, 12))
    assert written[:, 5:].unique().numel() > 5


def test_generate_with_left_padding_writes_what_each_prompt_alone_would():
    net, lengths = writer(), [6, 2, 4]
    prompts, attend = text(3, 6), padding([6, 2, 4], 6, left=True)
    prompts = torch.where(attend, prompts, 0)
    written = net.model.generate(prompts, attention_mask=attend.long(), max_new_tokens=10, do_sample=False)
    for row, length in enumerate(lengths):
        assert torch.equal(written[row, 6 - length :], greedy(net, prompts[row : row + 1, 6 - length :], 10)[0])
    blind = net.model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=10, do_sample=False)
    assert not torch.equal(blind[1], written[1])  # padding that is looked at shows
