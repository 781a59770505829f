"""The verbs as functions: each composes the floors below and returns what it made."""

from resvision.api.answering import evaluate, predict, tune_exits
from resvision.api.deploying import benchmark, compress, export
from resvision.api.examining import depth, overfit, study
from resvision.api.learning import TrainingResult, demo, import_weights, train

__all__ = [
    "TrainingResult",
    "benchmark",
    "compress",
    "demo",
    "depth",
    "evaluate",
    "export",
    "import_weights",
    "overfit",
    "predict",
    "study",
    "train",
    "tune_exits",
]
