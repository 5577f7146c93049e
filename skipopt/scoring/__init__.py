"""What drafts under a skip mask would get right: traces of many masks, or of one while decoding.

Knows nothing of costs, samplers or the search.
"""

from skipopt.scoring.recent_tokens import score_recent_tokens
from skipopt.scoring.scorer import Scorer
from skipopt.scoring.scorers import AnyScorer, not_scored_reason, scorer_of
from skipopt.scoring.staged_scorer import StagedScorer, stages
from skipopt.scoring.stepwise_scorer import StepwiseScorer
from skipopt.scoring.text_contexts import TextContexts
from skipopt.scoring.trace import ScoredText, Trace

__all__ = [
    "AnyScorer",
    "ScoredText",
    "Scorer",
    "StagedScorer",
    "StepwiseScorer",
    "TextContexts",
    "Trace",
    "not_scored_reason",
    "score_recent_tokens",
    "scorer_of",
    "stages",
]
