"""Samplers: conditionals to text. One file is one algorithm, one row below."""

from remask.core.table import Table

SAMPLERS = Table(
    "sampler",
    {
        "ancestral": "remask.samplers.ancestral:Ancestral",
        "first_hitting": "remask.samplers.first_hitting:FirstHitting",
        "confidence": "remask.samplers.confidence:Confidence",
        "entropy_bound": "remask.samplers.entropy_bound:EntropyBound",
        "mask_predict": "remask.samplers.mask_predict:MaskPredict",
        "padir": "remask.samplers.padir:PaDIR",
        "remdm": "remask.samplers.remdm:ReMDM",
        "p2": "remask.samplers.p2:PathPlanning",
        "sundae": "remask.samplers.sundae:Sundae",
        "gibbs": "remask.samplers.gibbs:Gibbs",
        "parallel_gibbs": "remask.samplers.parallel_gibbs:ParallelGibbs",
        "blocks": "remask.samplers.blocks:Blocks",
    },
)
