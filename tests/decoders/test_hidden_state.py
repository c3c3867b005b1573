"""Hidden-state optimization: what it may never do (change a weight, peek, forget wrongly), and what it must do."""

import copy
import hashlib
import math
from typing import NamedTuple

import pytest
import torch
import transformers

from remask.decoders.adapt import score
from remask.decoders.baselines import Cached
from remask.decoders.hidden_state import HiddenState
from remask.decoders.memory import Chunk, Memory, after_start, chunks, room, turns
from remask.nets.causal import CausalNet
from tests.nets.tiny import MAKE, V, shake, text

LONGEST = 40
END = 2
_SMALL = {"vocab_size": V, "bos_token_id": END, "eos_token_id": END}
_GPT2 = {**_SMALL, "n_embd": 32, "n_head": 4, "n_positions": LONGEST}
_LLAMA = {**_SMALL, "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
_LLAMA |= {"max_position_embeddings": LONGEST}
FAMILIES = {
    "gpt2": lambda layers=2: transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT2, n_layer=layers)),
    "llama": lambda layers=2: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**_LLAMA, num_hidden_layers=layers)
    ),
    "bloom": lambda layers=2: transformers.BloomForCausalLM(
        transformers.BloomConfig(**_SMALL, hidden_size=32, n_layer=layers, n_head=4)
    ),
    "modernbert-decoder": MAKE["modernbert-decoder"],
    "remask-modernbert-decoder": MAKE["remask-modernbert-decoder"],
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def causal(family, start=END, dtype=torch.float64, **rest):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CausalNet(shake(FAMILIES[family](**rest)).to(dtype), END, start, silent=(1,))


def fingerprint(net):
    return hashlib.sha256(b"".join(w.detach().numpy().tobytes() for w in net.model.state_dict().values())).hexdigest()


def whole_text(net, tokens):
    """-log p of tokens [N, T] read in one go, by transformers alone."""
    ids = torch.cat([torch.full((len(tokens), 1), END), tokens], 1)
    with torch.no_grad():
        logits = net.model(input_ids=ids[:, :-1]).logits.double()
    logits[..., 1] = -torch.inf
    return -logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def by_hand(net, tokens, chunk, cache):
    """-log p of tokens [N, T] in chunks, by transformers' own cache and nothing of ours; nothing is read again."""
    ids = torch.cat([torch.full((len(tokens), 1), END), tokens], 1)
    past, found = transformers.DynamicCache(), []
    for at in range(0, tokens.shape[1], chunk):
        piece = ids[:, at : at + chunk + 1]
        for layer in past.layers:
            if cache < layer.keys.shape[2]:
                layer.keys, layer.values = layer.keys[:, :, -cache:], layer.values[:, :, -cache:]
        places = torch.arange(at, at + piece.shape[1] - 1)[None]
        told = {} if net.model.config.model_type == "bloom" else {"position_ids": places}
        out = net.model(input_ids=piece[:, :-1], past_key_values=past, use_cache=True, **told)
        found.append(-net.law(out.logits.detach()).gather(-1, piece[:, 1:, None])[..., 0])
        for layer in past.layers:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()
    return torch.cat(found, 1)


# ---- at learning rate 0 it is the model ------------------------------------------------------------------------------


@every_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_at_rate_0_it_is_the_model_read_in_chunks_bit_for_bit(family, dtype):
    net, tokens = causal(family, dtype=dtype), text(2, 26)
    before = fingerprint(net)
    cache = 40 if family == "bloom" else 12  # bloom's is never cut
    found = score(HiddenState(lr=0.0, chunk=5, cache=cache, steps=2), net, tokens).nats
    assert torch.equal(found, by_hand(net, tokens, 5, cache))
    assert torch.equal(found, score(Cached(chunk=5, cache=cache), net, tokens).nats)
    assert fingerprint(net) == before


@every_family
@pytest.mark.parametrize("chunk", [1, 3, 7, 19, 20])
def test_at_rate_0_chunks_of_any_size_say_what_the_whole_text_says(family, chunk):
    net, tokens = causal(family), text(2, 20)
    found = score(HiddenState(lr=0.0, chunk=chunk, cache=20), net, tokens).nats
    torch.testing.assert_close(found, whole_text(net, tokens), rtol=0, atol=1e-6 if family == "bloom" else 1e-10)


@every_family
def test_no_weight_changes_and_none_gets_a_gradient(family):
    net, tokens = causal(family), text(2, 20)
    before = fingerprint(net)
    moved = score(HiddenState(lr=0.1, chunk=4, steps=2), net, tokens).nats
    assert not torch.allclose(moved, score(HiddenState(lr=0.0, chunk=4), net, tokens).nats, atol=1e-4)
    assert fingerprint(net) == before
    assert all(weight.grad is None for weight in net.model.parameters())


def test_weights_that_want_no_gradients_change_nothing():
    net, tokens = causal("llama"), text(2, 20)
    wanted = score(HiddenState(lr=0.1, chunk=4), net, tokens).nats
    net.model.requires_grad_(False)
    torch.testing.assert_close(score(HiddenState(lr=0.1, chunk=4), net, tokens).nats, wanted, rtol=0, atol=1e-12)


# ---- no peeking ------------------------------------------------------------------------------------------------------


class Late(NamedTuple):
    """The classic bug: scores taken after the update."""

    settings: HiddenState

    def stream(self, net, tokens):
        for at in range(0, tokens.shape[1], self.settings.chunk):
            ids = after_start(net, tokens[:, : at + self.settings.chunk])
            memory = Memory()
            for _, memory in chunks(net, ids, self.settings):  # noqa: B007
                pass
            k = ids.shape[1] - 1 - at
            piece = Chunk(ids[:, at:-1], ids[:, at + 1 :])
            seen = Memory(tuple((a[:, :, :-k], b[:, :, :-k]) for a, b in memory.layers), (), (), memory.steps[:-k], at)
            yield -self.settings.read(net, seen, piece)[0]


def audit(adaptation, net, tokens, at):
    """Whether scores before `at` stay bit for bit whatever stands there, and how much probability its tokens have.

    Probabilities of one law add up to 1; those of laws that each know their token do not.
    """
    changed = tokens.expand(V, -1).clone()
    changed[:, at] = torch.arange(V)
    base = score(adaptation, net, tokens).nats[:, :at]
    before = [torch.equal(score(adaptation, net, changed[k : k + 1]).nats[:, :at], base) for k in (4, 30)]
    return all(before), float((-score(adaptation, net, changed).nats[:, at]).exp().sum())


@pytest.mark.parametrize("family", ["gpt2", "remask-modernbert-decoder"])
@pytest.mark.parametrize("at", [0, 5, 6, 10])
def test_a_score_knows_nothing_of_its_own_token_nor_of_later_ones(family, at):
    net, tokens = causal(family), text(1, 11)
    unchanged, mass = audit(HiddenState(lr=0.3, chunk=3, cache=6), net, tokens, at)
    assert unchanged
    assert mass == pytest.approx(1, abs=1e-9)


def test_the_audit_finds_scores_taken_after_the_update():
    net, tokens = causal("gpt2"), text(1, 11)
    unchanged, mass = audit(Late(HiddenState(lr=0.3, chunk=3, cache=20)), net, tokens, 5)
    assert not unchanged
    assert mass > 1.05


# ---- Adam ------------------------------------------------------------------------------------------------------------


def torchs_adam(net, tokens, settings):
    """The same by torch's Adam: an optimizer for every position of a layer, nothing forgotten. Log p and states."""
    ids = after_start(net, tokens)
    held, found = [], []  # held: for each position its keys and values, a leaf each, and their optimizer
    for at in range(0, tokens.shape[1], settings.chunk):
        piece = ids[:, at : at + settings.chunk + 1]
        fresh = None
        for turn in range(settings.steps):
            past = transformers.DynamicCache()
            for layer in range(len(held[0][0]) // 2 if held else 0):
                past.update(*(torch.cat([p[0][2 * layer + j] for p in held], 2) for j in (0, 1)), layer)
            if fresh is None:  # offsets of 0, whose shape the first reading tells
                look = transformers.DynamicCache()
                net.model(input_ids=piece[:, :-1], past_key_values=look, use_cache=True)
                shapes = [t[:, :, :1] for layer in look.layers for t in (layer.keys, layer.values)]
                fresh = []
                for _ in range(piece.shape[1] - 1):
                    leaves = [torch.zeros_like(t, requires_grad=True) for t in shapes]
                    fresh.append((leaves, adam(leaves, settings)))
            shifted = Shifted(past, [torch.cat([p[0][j] for p in fresh], 2) for j in range(len(fresh[0][0]))])
            out = net.model(input_ids=piece[:, :-1], past_key_values=shifted, use_cache=True)
            log_prob = net.law(out.logits).gather(-1, piece[:, 1:, None])[..., 0]
            if turn == 0:
                found.append(log_prob.detach())
            leaves = [leaf for p in held + fresh for leaf in p[0]]
            for leaf, slope in zip(leaves, torch.autograd.grad(-log_prob.sum(), leaves)):
                leaf.grad = slope
            for _, optimizer in held + fresh:
                optimizer.step()
        states = [t.detach() for layer in shifted.layers for t in (layer.keys, layer.values)]
        old = len(held)
        for k, (leaves, _) in enumerate(fresh):  # what was read last, and the last step's move
            for leaf, state, before in zip(leaves, states, shifted.own):
                leaf.data += state[:, :, old + k : old + k + 1] - before[:, :, k : k + 1].detach()
        held += fresh
    return torch.cat(found, 1), [torch.cat([p[0][j].detach() for p in held], 2) for j in range(len(held[0][0]))]


def adam(leaves, settings):
    return torch.optim.Adam(leaves, settings.lr, (settings.beta1, settings.beta2), settings.epsilon)


class Shifted(transformers.DynamicCache):
    def __init__(self, past, own):
        super().__init__()
        self.layers, self.own = past.layers, own

    def update(self, keys, values, number, *rest, **named):
        own = self.own[2 * number : 2 * number + 2]
        return super().update(keys + own[0], values + own[1], number, *rest, **named)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("steps", [1, 3])
def test_steps_are_those_of_torchs_adam_with_an_optimizer_for_each_position(family, steps):
    net, tokens = causal(family), text(2, 11)
    settings = HiddenState(lr=0.05, chunk=4, steps=steps, beta1=0.8, beta2=0.95, epsilon=1e-6)
    wanted, states = torchs_adam(net, tokens, settings)
    pieces = list(chunks(net, after_start(net, tokens), settings))
    torch.testing.assert_close(torch.cat([log_prob for log_prob, _ in pieces], 1), wanted, rtol=0, atol=1e-9)
    for ours, theirs in zip((state for layer in pieces[-1][1].layers for state in layer), states):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)
    assert pieces[-1][1].steps.tolist() == [3 * steps] * 4 + [2 * steps] * 4 + [steps] * 3


def test_moments_travel_with_their_positions_and_go_with_them():
    net, tokens = causal("gpt2"), text(1, 24)
    settings = HiddenState(lr=0.05, chunk=4, cache=6)
    seen, pieces = [], list(chunks(net, after_start(net, tokens), settings))
    ids, memory = after_start(net, tokens), Memory()
    for at in range(0, 24, 4):
        kept = memory.last(6)
        for part, whole in zip(kept[:3], memory[:3]):
            for layer, full in zip(part, whole):
                assert all(torch.equal(a, b[:, :, -6:]) for a, b in zip(layer, full))
        _, memory = settings.read(net, kept, Chunk(ids[:, at : at + 4], ids[:, at + 1 : at + 5]))
        seen.append(memory.steps.tolist())
        assert [state.shape[2] for part in memory[:3] for layer in part for state in layer] == [len(seen[-1])] * 12
    assert seen == [[1.0] * 4, [2.0] * 4 + [1.0] * 4, *[[3.0] * 2 + [2.0] * 4 + [1.0] * 4] * 4]
    assert [after.steps.tolist() for _, after in pieces] == seen


def test_moments_that_were_left_behind_would_show():
    """The planted twin: moments of another position, as when they are not shifted with the cache."""
    net, ids = causal("gpt2"), after_start(causal("gpt2"), text(1, 16))
    settings = HiddenState(lr=0.05, chunk=4)
    memory = list(chunks(net, ids[:, :13], settings))[-1][1]
    piece = Chunk(ids[:, 12:16], ids[:, 13:17])
    shifted = memory._replace(first=tuple((a.roll(1, 2), b.roll(1, 2)) for a, b in memory.first))
    right, wrong = (settings.read(net, one, piece)[1].layers[0][1] for one in (memory, shifted))
    assert float((right - wrong).abs().max()) > 1e-3


def test_reading_leaves_the_parent_memory_as_it_was():
    net, ids = causal("llama"), after_start(causal("llama"), text(1, 12))
    settings = HiddenState(lr=0.3, chunk=4, steps=2)
    memory = list(chunks(net, ids[:, :9], settings))[-1][1]
    before = copy.deepcopy(memory)
    piece = Chunk(ids[:, 8:12], ids[:, 9:13])
    once, twice = (settings.read(net, memory, piece) for _ in range(2))
    assert torch.equal(once[0], twice[0])
    for part, kept in zip(memory[:3], before[:3]):
        assert all(torch.equal(a, b) for layer, old in zip(part, kept) for a, b in zip(layer, old))


def test_a_text_learns_the_same_beside_another():
    net, tokens = causal("llama"), text(3, 20)
    settings = HiddenState(lr=0.1, chunk=4, cache=8, clip=0.5)
    together = score(settings, net, tokens).nats
    alone = torch.cat([score(settings, net, row[None]).nats for row in tokens])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


def test_a_clip_bounds_the_gradient_that_the_moments_hear_of():
    net, ids = causal("gpt2"), after_start(causal("gpt2"), text(1, 8))
    piece = Chunk(ids[:, :8], ids[:, 1:9])
    for clip, norm in ((0.01, 0.01), (1e9, None)):
        _, after = HiddenState(chunk=8, clip=clip, beta1=0.0).read(net, Memory(), piece)
        found = math.sqrt(sum(float(m.square().sum()) for layer in after.first for m in layer))
        assert found == pytest.approx(norm) if norm else found > 0.05


# ---- long texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "remask-modernbert-decoder"])
def test_places_that_only_turn_go_on_for_ever(family):
    """One layer's keys know their token alone: forgetting must be the same as never having seen."""
    one = {"num_hidden_layers": 1, "layer_types": ["full_attention"]}
    net = causal(family)
    net.model.model.layers = net.model.model.layers[:1]
    net.model.config.update(one)
    assert turns(net)
    tokens = text(1, 90)
    found = score(Cached(chunk=5, cache=20), net, tokens).nats
    ids = after_start(net, tokens)
    for at in (25, 60, 85):
        with torch.no_grad():
            law = net.law(net.model(input_ids=ids[:, at - 20 : at + 5]).logits)[:, -5:]
        wanted = -law.gather(-1, ids[:, at + 1 : at + 6, None])[..., 0]
        torch.testing.assert_close(found[:, at : at + 5], wanted, rtol=0, atol=1e-5)  # angles are float32


@pytest.mark.parametrize("lr", [0.0, 0.1])
@pytest.mark.parametrize("family", ["gpt2", "bloom"])
def test_a_text_beyond_the_table_begins_again_as_if_it_had_begun_there(family, lr):
    net, tokens = causal(family), text(1, 60)
    assert not turns(net)
    settings = HiddenState(lr=lr, chunk=5, cache=30)
    own = room(net, settings)
    assert (own.places, own.back) == ((40, 20) if family == "gpt2" else (35, 15))
    found = score(settings, net, tokens).nats
    ids, first = after_start(net, tokens), own.places
    again = [p for p, _ in chunks(net, ids[:, first - own.back : 2 * first - own.back + 1], settings)]
    wanted = -torch.cat(again, 1)[:, own.back :]
    assert torch.equal(found[:, first : first + wanted.shape[1]], wanted)
    if lr == 0:
        torch.testing.assert_close(found[:, :35], whole_text(net, tokens[:, :35]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 9])
def test_leftovers_and_the_shortest_texts(length):
    net, tokens = causal("gpt2"), text(2, length)
    for settings in (HiddenState(lr=0.1, chunk=4), HiddenState(lr=0.1, chunk=1), HiddenState(lr=0.1, cache=0, chunk=2)):
        found = score(settings, net, tokens)
        assert found.nats.shape == (2, length)
        assert torch.equal(found.tokens, tokens)
        assert found.nats.isfinite().all()
        size = min(settings.chunk, length)
        torch.testing.assert_close(found.nats[:, :size], whole_text(net, tokens)[:, :size], rtol=0, atol=1e-9)


def test_without_a_token_to_begin_with_the_first_is_given():
    net, tokens = causal("gpt2", start=None), text(1, 9)
    found = score(HiddenState(lr=0.1, chunk=4), net, tokens)
    assert found.nats.shape == (1, 8)
    assert torch.equal(found.tokens, tokens[:, 1:])


def test_no_memory_is_chunks_by_themselves():
    net, tokens = causal("llama"), text(1, 12)
    found = score(HiddenState(lr=0.1, chunk=4, cache=0), net, tokens).nats
    ids = after_start(net, tokens)
    with torch.no_grad():
        parts = [net.law(net.model(input_ids=ids[:, at : at + 4]).logits) for at in (0, 4, 8)]
    wanted = -torch.cat(parts, 1).gather(-1, tokens[..., None])[..., 0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
