"""The theory lab: laws that are known, and what can be proved of the ways to learn and to sample them."""

from remask.core.table import Table

EXPERIMENTS = Table(
    "experiment",
    {
        "efficiency": "remask.lab.efficiency:Efficiency",
        "mixing": "remask.lab.mixing:Mixing",
        "parallel": "remask.lab.parallel:Parallel",
        "diagnose": "remask.lab.diagnose:Diagnose",
        "gumbel": "remask.lab.gumbel:Gumbel",
        "modes": "remask.lab.modes:Modes",
    },
)
