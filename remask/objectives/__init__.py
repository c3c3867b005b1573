"""Objectives: what a net is taught. One file is one paper, one row below."""

from remask.core.table import Table

OBJECTIVES = Table(
    "objective",
    {
        "mlm": "remask.objectives.mlm:MLM",
        "electra": "remask.objectives.electra:ELECTRA",
        "gmlm": "remask.objectives.gmlm:GMLM",
        "mdlm": "remask.objectives.mdlm:MDLM",
        "d3pm": "remask.objectives.d3pm:D3PM",
        "sedd": "remask.objectives.sedd:SEDD",
        "block_diffusion": "remask.objectives.block_diffusion:BlockDiffusion",
        "autoregressive": "remask.objectives.autoregressive:Autoregressive",
        "recurrent": "remask.objectives.recurrent:Recurrent",
        "cmlm": "remask.objectives.cmlm:CMLM",
        "padir": "remask.objectives.padir:PaDIR",
        "axe": "remask.objectives.axe:AXE",
        "sundae": "remask.objectives.sundae:SUNDAE",
        "seq2seq": "remask.objectives.seq2seq:Seq2Seq",
    },
)
