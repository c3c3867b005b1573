"""Decoders: better text from frozen left-to-right models. One file is one algorithm, one row below."""

from remask.core.table import Table

DECODERS = Table("decoder", {})
