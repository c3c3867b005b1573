"""Foreign encoder-decoders from a directory to a text: a Marian with its two SentencePiece models, a BART."""

import importlib.util
import io
import json

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from remask.core.decoder import Budget
from remask.core.errors import BadCheckpoint, MissingExtra
from remask.core.stream import Stream
from remask.data.tokenizers import byte_tokenizer
from remask.decoders.beam import Beam
from remask.nets.causal_seq2seq import CausalSeq2SeqLM
from remask.train.attribute_directory import fingerprint
from remask.train.frozen import load_causal
from remask.train.translator import load_translator
from tests.nets.tiny import shake

SHAPE = {
    **{f"{half}_{name}": n for half in ("encoder", "decoder") for name, n in [("layers", 1), ("ffn_dim", 24)]},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16, "max_position_embeddings": 24},
}
SPOKEN = {
    "source": ["the red house", "a red car", "the old house and the car", "an old red hat"] * 4,
    "target": ["das rote haus", "ein rotes auto", "das alte haus und das auto", "ein alter roter hut"] * 4,
}
needs_pieces = pytest.mark.skipif(
    importlib.util.find_spec("sentencepiece") is None, reason="a Marian's tokenizer needs remask[marian]"
)


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A Marian as its authors publish one: two SentencePiece models, one vocabulary, padding last."""
    import sentencepiece

    home = tmp_path_factory.mktemp("marian")
    pieces = {}
    for side, texts in SPOKEN.items():
        model = io.BytesIO()
        how = {"vocab_size": 40, "model_type": "bpe", "minloglevel": 2, "hard_vocab_limit": False, "num_threads": 1}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, **how)
        (home / f"{side}.spm").write_bytes(model.getvalue())
        opened = sentencepiece.SentencePieceProcessor(model_file=str(home / f"{side}.spm"))
        pieces |= dict.fromkeys(opened.id_to_piece(n) for n in range(3, opened.get_piece_size()))
    vocabulary = {piece: number for number, piece in enumerate(["</s>", "<unk>", *pieces, "<pad>"])}
    (home / "vocab.json").write_text(json.dumps(vocabulary))
    transformers.MarianTokenizer(
        *(str(home / name) for name in ("source.spm", "target.spm", "vocab.json"))
    ).save_pretrained(home)
    pad = vocabulary["<pad>"]
    ids = {"vocab_size": len(vocabulary), "decoder_vocab_size": len(vocabulary), "pad_token_id": pad}
    config = transformers.MarianConfig(**SHAPE, **ids, eos_token_id=0, bos_token_id=0, decoder_start_token_id=pad)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shake(transformers.MarianMTModel(config), scale=0.3)
    model.generation_config.forced_eos_token_id = None
    model.save_pretrained(home)
    return home


@needs_pieces
def test_a_marian_translates_as_transformers_has_it(marian):
    opened = load_causal(marian)
    assert isinstance(opened.model, CausalSeq2SeqLM)
    assert opened.facts == {}
    tokenizer = transformers.MarianTokenizer.from_pretrained(marian)
    texts = ["the red house", "an old car", "a hat </s> and the car"]
    ids = opened.prompts(texts)
    assert ids[:2] == tokenizer(texts[:2])["input_ids"]
    assert [row.count(0) for row in ids] == [1, 1, 1]  # an end that is typed is only text
    found = Beam(beam=3)(opened.model, ids, Stream.of(0, 3), Budget(10))
    for row, prompt in enumerate(ids):
        bad = [[one] for one in tokenizer.all_special_ids if one != 0]
        how = {"num_beams": 3, "length_penalty": 0.0, "early_stopping": "never", "bad_words_ids": bad}
        theirs = opened.module.generate(torch.tensor([prompt]), max_length=11, **how)[0]
        mine = found.texts(0)[row]
        assert mine == [token for token in theirs.tolist()[1:] if token not in (0, tokenizer.pad_token_id)]
        assert opened.text(mine) == tokenizer.decode(mine, skip_special_tokens=True)
    assert any(opened.text(text) for text in found.texts(0))
    assert opened.longest == 24
    assert fingerprint(opened.model) == fingerprint(load_causal(marian).model)


@needs_pieces
def test_a_marian_whose_tokenizer_cannot_be_read(marian, tmp_path, monkeypatch):
    for name in ("config.json", "model.safetensors", "generation_config.json", "vocab.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((marian / name).read_bytes())
    for side in SPOKEN:
        (tmp_path / f"{side}.spm").write_bytes(b"nothing")
    with pytest.raises(BadCheckpoint, match=r"holds no Marian tokenizer .* restore source\.spm"):
        load_causal(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"sentencepiece.*remask\[marian\]"):
        load_causal(tmp_path)


def bart(path, tokenizer, forced):
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 3, "eos_token_id": 2}
    config = transformers.BartConfig(**SHAPE, **ids, decoder_start_token_id=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = shake(transformers.BartForConditionalGeneration(config), scale=0.3)
    model.generation_config.forced_bos_token_id = forced
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_source_has_the_special_tokens_of_its_tokenizer(tmp_path):
    tokenizer = byte_tokenizer()
    template = TemplateProcessing(single="[UNK] $A [END]", special_tokens=[("[UNK]", 3), ("[END]", 2)])
    tokenizer.backend_tokenizer.post_processor = template
    opened = load_causal(bart(tmp_path / "bart", tokenizer, forced=3))
    assert opened.prompts(["ab", "[END]"]) == [[3, 101, 102, 2], [3, *(byte + 4 for byte in b"[END]"), 2]]
    assert opened.model.begun == [2, 3]
    assert opened.model.silent.tolist() == [0, 1, 3]
    with pytest.raises(BadCheckpoint, match=r"none of ours and no T5: remask decode .*bart writes its translations"):
        load_translator(tmp_path / "bart")
