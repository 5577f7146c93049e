"""What drafts under a skip mask would get right: traces of many masks, or of one while decoding.

Knows nothing of costs, samplers or the search.
"""

from skipopt.scoring.recent_tokens import score_recent_tokens
from skipopt.scoring.scorer import Scorer
from skipopt.scoring.staged_scorer import StagedScorer, stages
from skipopt.scoring.text_contexts import TextContexts
from skipopt.scoring.trace import ScoredText, Trace

__all__ = [
    "ScoredText",
    "Scorer",
    "StagedScorer",
    "TextContexts",
    "Trace",
    "score_recent_tokens",
    "stages",
]
