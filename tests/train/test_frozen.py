"""Frozen left-to-right models: what opens, what stands before a prompt, and a sentence for what cannot be opened."""

import json
import math

import pytest
import torch
import transformers

from remask.core.decoder import Budget
from remask.core.errors import BadCheckpoint, BadInput
from remask.core.stream import Stream
from remask.data.tokenizers import byte_tokenizer
from remask.decoders.beam import Beam
from remask.nets.causal import CausalNet
from remask.nets.causal_encoder_decoder import CausalEncoderDecoder
from remask.train.checkpoint import write_net
from remask.train.frozen import load_causal
from remask.translate import left_to_right
from tests.nets.tiny import make, shake
from tests.translate.nets import ALPHABET, sources

SIZE = ALPHABET.size
END, PAD, MASK = ALPHABET.end, ALPHABET.pad, ALPHABET.mask
LOW = {"bos_token_id": END, "eos_token_id": END, "pad_token_id": PAD}
SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "vocab_size": SIZE}


def gpt2(**config):
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=40, **config)
    )


def llama(**config):
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=SIZE, max_position_embeddings=40, **SHAPE, **config)
    )


def save(path, model, tokenizer=None, facts=None):
    """A directory as transformers writes it."""
    torch.manual_seed(0)
    shake(model, scale=0.2).save_pretrained(path)
    (tokenizer or byte_tokenizer()).save_pretrained(path)
    if facts is not None:
        (path / "remask.json").write_text(json.dumps(facts))
    return path


def without(*roles, **others):
    """The tokenizer of bytes without some roles, and with others."""
    tokenizer = byte_tokenizer()
    for role in roles:
        setattr(tokenizer, role, None)
    for role, token in others.items():
        setattr(tokenizer, role, token)
    return tokenizer


# ---- what opens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make_model", [gpt2, llama])
def test_a_foreign_model_scores_texts_as_transformers_does(tmp_path, make_model):
    """No mask in its tokenizer: log p of a text is the plain model's, its token for the beginning read first."""
    tokenizer = without("mask_token", "sep_token", "cls_token", bos_token="[UNK]")
    opened = load_causal(save(tmp_path, make_model(**LOW), tokenizer))
    (prompt,) = opened.prompts(["to be "])
    assert prompt == [byte + 4 for byte in b"to be "]
    decoded = Beam(beam=2)(opened.model, [prompt], Stream.of(0, 1), Budget(6))
    written = decoded.canvas.tokens[0, len(prompt) :].tolist()
    ids = torch.tensor([[3, *prompt, *written]])
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        log_prob = plain(ids).logits[0].double().log_softmax(1)
    total = sum(float(log_prob[len(prompt) + n, token]) for n, token in enumerate(written))
    assert float(decoded.log_prob) == pytest.approx(total, abs=1e-4)
    assert opened.text(decoded.texts(END)[0]) == tokenizer.decode(decoded.texts(END)[0])
    assert (opened.facts, opened.path, opened.longest) == ({}, str(tmp_path), 39)
    assert not opened.module.training


def test_a_model_without_a_beginning_begins_with_an_end(tmp_path):
    opened = load_causal(save(tmp_path, gpt2(eos_token_id=END, bos_token_id=None), without("bos_token")))
    assert opened.model.start == opened.model.end == END


def test_ids_that_are_text_end_nothing(tmp_path):
    """A chat model's ends are special tokens of its tokenizer; an id of an older tokenizer may be a letter by now."""
    model = gpt2(eos_token_id=[END, 101, MASK], bos_token_id=END)
    opened = load_causal(save(tmp_path, model, without("mask_token", additional_special_tokens=["[MASK]"])))
    assert opened.model.ends.tolist() == [END, MASK]
    assert float(opened.model.begin([7]).log_prob[0, 101]) > -math.inf


def test_ids_of_another_tokenizer_are_not_believed(tmp_path):
    """GPT-2's config names token 50256 as its end, whatever the vocabulary is."""
    tokenizer = without("bos_token", "eos_token", "cls_token")
    opened = load_causal(save(tmp_path, gpt2(), tokenizer))
    assert opened.model.start == opened.model.end == END  # the tokenizer's sep


def test_a_run_of_ours_begins_as_in_training(tmp_path):
    """With the end token, though the tokenizer names another beginning; the mask is silent."""
    net = make("remask-modernbert-decoder")
    net.model.resize_token_embeddings(SIZE)
    facts = {"objective": {"name": "autoregressive"}}
    write_net(tmp_path, net, without(bos_token="[UNK]"), facts)
    opened = load_causal(tmp_path)
    assert isinstance(opened.model, CausalNet)
    assert opened.model.start == opened.model.end == END
    assert opened.model.begin([]).log_prob[0].isinf().nonzero()[:, 0].tolist() == [MASK]
    assert opened.facts == facts
    with pytest.raises(BadInput, match=r"prompt 'a \[MASK\]' holds the mask token"):
        opened.prompts(["fine", "a [MASK]"])


def test_surplus_ids_of_the_output_layer_are_silent(tmp_path):
    model = llama(**LOW)
    model.resize_token_embeddings(SIZE + 12)
    assert load_causal(save(tmp_path, model)).model.begin([7]).log_prob.shape == (1, SIZE)


def test_a_t5_reads_sources(tmp_path):
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**T5, decoder_start_token_id=PAD, pad_token_id=PAD, eos_token_id=END)
    )
    facts = {"objective": {"name": "seq2seq"}, "recipe": {"text": {"length": 24}}}
    opened = load_causal(save(tmp_path, model, facts=facts))
    assert isinstance(opened.model, CausalEncoderDecoder)
    assert (opened.longest, opened.model.window) == (24, 48)
    texts = ["red cat", "a dog"]
    ids = opened.prompts(texts)
    decoded = Beam(beam=1)(opened.model, ids, Stream.of(0, 2), Budget(10))
    theirs = left_to_right.greedy(opened.module, *sources(texts), ALPHABET, 10)
    assert decoded.texts(END) == theirs.tokens
    assert torch.allclose(decoded.log_prob, theirs.log_prob, atol=1e-4)


# ---- what does not ---------------------------------------------------------------------------------------------------


def bare(path, **config):
    """A directory that is only a config, which is read first."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "bert"}, "is a masked model ('bert')"),
        ({"model_type": "remask-modernbert"}, "is a masked model ('remask-modernbert')"),
        ({"model_type": "modernbert"}, "remask sample"),
        ({"model_type": "whisper", "is_encoder_decoder": True}, "'whisper' model, which reads something else"),
        ({"model_type": "bart", "is_encoder_decoder": True}, "safetensors only"),
        ({"model_type": "remask-t5", "is_encoder_decoder": True}, "writes in parallel: type remask translate"),
        ({"model_type": "remask-crossed"}, "writes in parallel"),
        ({"model_type": "vit"}, "'vit' model, which predicts no next token"),
        ({"model_type": "nonsense"}, "'nonsense' model, which predicts no next token"),
        ({"model_type": "gpt2", "attn_implementation": "someone/kernel"}, "attention code from the hub"),
        ({"model_type": "gpt2"}, "safetensors only"),
    ],
)
def test_another_kind_of_model_is_a_sentence(tmp_path, config, said):
    with pytest.raises(BadCheckpoint) as caught:
        load_causal(bare(tmp_path / "model", **config))
    assert said in str(caught.value)


def test_a_directory_that_is_none(tmp_path):
    with pytest.raises(BadCheckpoint, match="no checkpoint directory"):
        load_causal(tmp_path / "nowhere")


def test_a_tokenizer_without_an_end(tmp_path):
    path = save(tmp_path, gpt2(), without("bos_token", "eos_token", "sep_token", "cls_token"))
    with pytest.raises(BadCheckpoint, match="has no end token"):
        load_causal(path)


def test_a_model_without_a_cache(tmp_path):
    old = transformers.OpenAIGPTConfig(vocab_size=SIZE, n_embd=16, n_layer=1, n_head=2, n_positions=20)
    with pytest.raises(BadCheckpoint, match="'openai-gpt' model keeps no keys and values"):
        load_causal(save(tmp_path, transformers.OpenAIGPTLMHeadModel(old)))


def test_a_model_with_another_head(tmp_path):
    """A Llama that classifies has no head over tokens, and none is made up."""
    config = transformers.LlamaConfig(vocab_size=SIZE, max_position_embeddings=40, **SHAPE, **LOW)
    with pytest.raises(BadCheckpoint, match=r"lacks weights .*lm_head"):
        load_causal(save(tmp_path, transformers.LlamaForSequenceClassification(config)))
