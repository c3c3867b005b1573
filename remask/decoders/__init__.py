"""Decoders: better text from frozen left-to-right models. One file is one algorithm, one row below."""

from remask.core.table import Table

DECODERS = Table(
    "decoder",
    {
        "beam": "remask.decoders.beam:Beam",
        "conditional_beam": "remask.decoders.conditional_beam:ConditionalBeam",
        "exact_mode": "remask.decoders.exact_mode:ExactMode",
        "hidden_state": "remask.decoders.hidden_state:HiddenState",
        "sampling": "remask.decoders.sampling:Sampling",
    },
)
