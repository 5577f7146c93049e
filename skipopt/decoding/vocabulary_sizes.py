"""Refuses what a model cannot decode whose embedding and output projection differ in size."""

from __future__ import annotations

from collections.abc import Sequence

from skipopt.errors import ModelError, PromptError
from skipopt.models.target import Target
from skipopt.sampling import SamplingOptions


def check_output_size(target: Target) -> None:
    """Refuse an output projection with more tokens than the embedding.

    Raises:
        ModelError: the model predicts tokens that it cannot read.
    """
    predicted = _predicted_tokens(target)
    if predicted > target.vocab_size:
        raise ModelError(
            f"{target.architecture} predicts {predicted} tokens, but it can read only the first "
            f"{target.vocab_size} of them",
            hint="give embedding and output projection the same size",
        )


def check_penalties(target: Target, prompt: Sequence[int], options: SamplingOptions) -> None:
    """Refuse penalties on a token that has no logit; in transformers they are an index error.

    Raises:
        PromptError: a token of the prompt is not among those that the model predicts.
    """
    if options.repetition_penalty == 1.0 and not options.no_repeat_ngram_size:
        return
    predicted = _predicted_tokens(target)
    if unknown := [token for token in prompt if token >= predicted]:
        raise PromptError(
            f"the prompt has the token {unknown[0]}, but {target.architecture} predicts only "
            f"{predicted} tokens, so a penalty has no logit to change",
            hint="leave out repetition-penalty and no-repeat-ngram-size",
        )


def _predicted_tokens(target: Target) -> int:
    """Rows of the output projection; those of the embedding where it is not known."""
    projection = target.model.get_output_embeddings()
    return int(getattr(projection, "out_features", target.vocab_size))
