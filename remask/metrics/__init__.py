"""Metrics: numbers with standard errors. One row each."""

from remask.core.table import Table

METRICS = Table(
    "metric",
    {
        "nelbo": "remask.metrics.nelbo:nelbo",
        "likelihood": "remask.metrics.likelihood:likelihood",
        "ngram": "remask.metrics.ngram:ngram",
        "generative": "remask.metrics.generative:generative",
    },
)
