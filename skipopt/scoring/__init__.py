"""Which tokens a draft under each of many masks would get right, found in one pass."""

from skipopt.scoring.scorer import Scorer
from skipopt.scoring.trace import ScoredText, Trace

__all__ = ["ScoredText", "Scorer", "Trace"]
