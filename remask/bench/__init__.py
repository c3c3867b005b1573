"""Benches: speed as ratios in one run against named baselines, with the quality beside it."""

from remask.core.table import Table

BENCHES = Table(
    "bench",
    {
        "train": "remask.bench.train:Train",
        "encoders": "remask.bench.encoders:Encoders",
        "flops": "remask.bench.flops:Flops",
        "ising": "remask.bench.ising:Ising",
        "translation": "remask.bench.translation:Race",
        "frontier": "remask.bench.frontier:Frontier",
    },
)
