"""A left-to-right net on our own trunk begins a parallel one."""

import torch

from remask.train.recipe import Recipe, Start, Text, Training
from remask.train.run import train
from remask.train.translator import load_translator
from tests.train.test_paired import fit, home  # noqa: F401


def test_it_begins_with_what_the_writer_learnt(home, tmp_path):  # noqa: F811
    (tmp_path / "text.txt").write_text((home / "train.tsv").read_text())
    text = Text(data=(str(tmp_path / "text.txt"),), tokenizer="byte", length=40)
    training = Training(steps=2, batch=2, evaluations=1, bf16=False)
    train(Recipe("mlm", training, text, Start(net="tiny")), tmp_path / "lm")
    fit(home, tmp_path / "causal", "seq2seq", steps=1, start=Start(init=str(tmp_path / "lm"), init_parts="none"))
    writer = load_translator(tmp_path / "causal").net
    begun = Start(init=str(tmp_path / "causal"), length_head="affine")
    fit(home, tmp_path / "parallel", "cmlm", steps=1, start=begun, warmup=0.5)
    opened = load_translator(tmp_path / "parallel").net
    assert not opened.causal
    assert opened.length_kind == "affine"
    old = torch.cat([writer.decoder.model.model.layers[0].attn.get_parameter(f"{p}_proj.weight") for p in "qkv"])
    new = opened.decoder.model.model.layers[0].attn.Wqkv.weight
    assert (new - old).abs().max() < 0.05
