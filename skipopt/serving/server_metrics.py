"""What a server counts, as text for Prometheus; names as those of vLLM, after `skipopt:`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skipopt.rounds import Statistics

if TYPE_CHECKING:
    from skipopt.decoding.text import TextStatistics


@dataclass(slots=True)
class ServerMetrics:
    """Sums over all texts.

    Attributes:
        refused: requests that found the queue full.
    """

    texts: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds_to_first_token: float = 0.0
    accepted_at: list[int] = field(default_factory=list)

    def add(self, text: TextStatistics) -> None:
        """Count one text."""
        rounds: Statistics = text.rounds
        self.texts += 1
        self.prompt_tokens += text.prompt_tokens
        self.seconds_to_first_token += text.time_to_first_token or 0.0
        self.new_tokens += rounds.new_tokens
        self.drafts += rounds.drafting_rounds
        self.drafted += rounds.drafted
        self.accepted += rounds.accepted
        self.accepted_at += [0] * (len(rounds.accepted_at) - len(self.accepted_at))
        for position, count in enumerate(rounds.accepted_at):
            self.accepted_at[position] += count

    def text(self, waiting: int) -> str:
        """The text format of Prometheus.

        Args:
            waiting: requests that wait or are answered now.
        """
        return "".join(self._lines(waiting))

    def _lines(self, waiting: int) -> Iterator[str]:
        counters = {
            "request_success_total": self.texts,
            "request_refused_total": self.refused,
            "prompt_tokens_total": self.prompt_tokens,
            "generation_tokens_total": self.new_tokens,
            "time_to_first_token_seconds_sum": self.seconds_to_first_token,
            "spec_decode_num_drafts_total": self.drafts,
            "spec_decode_num_draft_tokens_total": self.drafted,
            "spec_decode_num_accepted_tokens_total": self.accepted,
        }
        for name, value in counters.items():
            yield f"# TYPE skipopt:{name} counter\nskipopt:{name} {value}\n"
        name = "skipopt:spec_decode_num_accepted_tokens_per_pos_total"
        yield f"# TYPE {name} counter\n"
        for position, count in enumerate(self.accepted_at):
            yield f'{name}{{position="{position}"}} {count}\n'
        name = "skipopt:num_requests_running_or_waiting"
        yield f"# TYPE {name} gauge\n{name} {waiting}\n"
