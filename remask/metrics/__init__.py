"""Metrics: numbers with standard errors. One row each."""

from remask.core.table import Table

METRICS = Table(
    "metric",
    {
        "nelbo": "remask.metrics.nelbo:nelbo",
        "likelihood": "remask.metrics.likelihood:likelihood",
        "ngram": "remask.metrics.ngram:ngram",
        "detection": "remask.metrics.detection:detection",
        "generative": "remask.metrics.generative:generative",
        "classification": "remask.metrics.agreement:classification",
        "regression": "remask.metrics.agreement:regression",
        "minimal_pairs": "remask.metrics.minimal_pairs:minimal_pairs",
        "probe": "remask.metrics.probe:probe",
    },
)
