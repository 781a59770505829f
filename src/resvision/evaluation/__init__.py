"""How good a classifier is: accuracy with its uncertainty, per class, and how far its probabilities can be trusted."""

from resvision.evaluation.evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
