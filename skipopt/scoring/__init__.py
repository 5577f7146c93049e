"""Which tokens a draft under each of many masks would get right, found in one pass."""

from skipopt.scoring.scorer import Scorer
from skipopt.scoring.traces import Text, Trace

__all__ = ["Scorer", "Text", "Trace"]
