"""Objectives: what a net is taught. One file is one paper, one row below."""

from remask.core.table import Table

OBJECTIVES = Table(
    "objective",
    {
        "mlm": "remask.objectives.mlm:MLM",
        "electra": "remask.objectives.electra:ELECTRA",
        "gmlm": "remask.objectives.gmlm:GMLM",
        "mdlm": "remask.objectives.mdlm:MDLM",
        "autoregressive": "remask.objectives.autoregressive:Autoregressive",
    },
)
