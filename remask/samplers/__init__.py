"""Samplers: conditionals to text. One file is one algorithm, one row below."""

from remask.core.table import Table

SAMPLERS = Table(
    "sampler",
    {
        "ancestral": "remask.samplers.ancestral:Ancestral",
        "first_hitting": "remask.samplers.first_hitting:FirstHitting",
        "gibbs": "remask.samplers.gibbs:Gibbs",
        "blocks": "remask.samplers.blocks:Blocks",
    },
)
