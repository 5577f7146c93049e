"""A model for the contract suite of drafters, and the check of stop strings."""

from __future__ import annotations

from typing import Any

from skipopt.detokenizer import decode_text
from skipopt.models.target import Target
from skipopt.rounds import Round
from skipopt.testing.drafters import PROMPTS, Case, emitted, run
from support.tiny import byte_tokenizer, tiny_llama, tiny_target


def check_stop_strings(case: Case) -> None:
    """A stop string ends the text where it is complete, also in the middle of a draft.

    The case's model must have the vocabulary of `byte_tokenizer`.
    """
    tokenizer, prompt = byte_tokenizer(), PROMPTS[4]
    whole = written(tokenizer, run(Case(case.target, "plain"), prompt))
    for stop in (whole[0][2], *(whole[0][i : i + 2] for i in (1, 3, 5, 6))):
        expected = written(tokenizer, run(Case(case.target, "plain"), prompt), stop)
        assert written(tokenizer, run(case, prompt), stop) == expected
        assert expected[2] == "stop"


def written(tokenizer: Any, rounds: list[Round], *stops: str) -> tuple[str, list[int], str | None]:
    """The text, its tokens and the finish reason."""
    parts = list(decode_text(tokenizer, rounds, stops))
    tokens = emitted(part.round for part in parts)
    return "".join(part.text for part in parts), tokens, parts[-1].round.stop


def small_target(context: int = 256, vocabulary: int = 64) -> Target:
    """A target of three layers; a search for masks never skips the first or the last."""
    return tiny_target(tiny_llama(layers=3, context=context, vocabulary=vocabulary))
