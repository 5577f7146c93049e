"""skipopt: speed up LLM decoding with layer-skip self-speculation; output is unchanged.

    target = skipopt.load("builtin")
    profile = skipopt.search(target, timeout=60)
    for piece in skipopt.stream_generate(target, "def main():", profile=profile): ...

Names are imported when first used, so that `import skipopt` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "skipopt.runtime.load",
    "Target": "skipopt.models.target",
    "SkipMask": "skipopt.masks",
    "Profile": "skipopt.profile",
    "generate": "skipopt.decoding.api",
    "generate_rounds": "skipopt.decoding.api",
    "stream_generate": "skipopt.decoding.text",
    "complete": "skipopt.decoding.text",
    "Chat": "skipopt.decoding.chat",
    "ChatOptions": "skipopt.decoding.options",
    "PrefixCache": "skipopt.decoding.prefix_cache",
    "LogprobRecorder": "skipopt.decoding.logprobs",
    "generate_batch": "skipopt.decoding.batch_text",
    "bench": "skipopt.measurement.methods_table",
    "compare": "skipopt.measurement.compare",
    "check": "skipopt.measurement.regression_gate",
    "DraftMemory": "skipopt.draft_memory.memory",
    "DecodingOptions": "skipopt.decoding.options",
    "export": "skipopt.serving.model_folder",
    "decoder": "skipopt.decoding.transformers_integration",
    "Statistics": "skipopt.rounds",
    "search": "skipopt.study.study",
    "SearchConfig": "skipopt.study.config",
    "SkipoptError": "skipopt.errors",
}

if TYPE_CHECKING:
    from skipopt.decoding.api import generate as generate
    from skipopt.decoding.api import generate_rounds as generate_rounds
    from skipopt.decoding.batch_text import generate_batch as generate_batch
    from skipopt.decoding.chat import Chat as Chat
    from skipopt.decoding.logprobs import LogprobRecorder as LogprobRecorder
    from skipopt.decoding.options import ChatOptions as ChatOptions
    from skipopt.decoding.options import DecodingOptions as DecodingOptions
    from skipopt.decoding.prefix_cache import PrefixCache as PrefixCache
    from skipopt.decoding.text import complete as complete
    from skipopt.decoding.text import stream_generate as stream_generate
    from skipopt.decoding.transformers_integration import decoder as decoder
    from skipopt.draft_memory.memory import DraftMemory as DraftMemory
    from skipopt.errors import SkipoptError as SkipoptError
    from skipopt.masks import SkipMask as SkipMask
    from skipopt.measurement.compare import compare as compare
    from skipopt.measurement.methods_table import bench as bench
    from skipopt.measurement.regression_gate import check as check
    from skipopt.models.target import Target as Target
    from skipopt.profile import Profile as Profile
    from skipopt.rounds import Statistics as Statistics
    from skipopt.runtime.load import load as load
    from skipopt.serving.model_folder import export as export
    from skipopt.study.config import SearchConfig as SearchConfig
    from skipopt.study.study import search as search

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'skipopt' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
