"""The first text of a process: its wall time, decoded plainly and with a method.

    python -m benchmarks.first_text MODEL --method layer-skip:gamma=4:quant=int8 \\
        --output results/first-text

Every text is decoded in a process of its own, plain and with the method in turn, in an order that
is reversed from pair to pair. The request's time includes everything that the first text has to
do: choosing kernels and making quantized copies, prefill, recording steps. Then the same process
decodes the same text again, which is the steady state.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.result_files import environment_lines, write_results
from skipopt.stats import ratio_interval

PROMPTS = (
    "Write a persuasive e-mail to convince a friend to volunteer at a local library.",
    "Explain how photosynthesis works to a ten year old.",
    "Describe a walk through a forest after the rain.",
    "Tell a short story about a clockmaker who loses her hearing.",
)
PLAIN = "plain"
LATER = 3  # texts after the first


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one process.

    Attributes:
        load: imports and loading of the model.
        first: wall time from the request to the end of the first text.
        first_to: the same, up to a number of new tokens.
        later: median wall time of the same text afterwards.
        later_to: the same, up to a number of new tokens.
        start: seconds of parts of the first text that later ones do not have.
    """

    load: float
    first: float
    first_to: dict[str, float]
    later: float
    later_to: dict[str, float]
    start: dict[str, float]


def child(
    model: str, method: str, profile: Path | None, prompt: str, tokens: int, threads: int
) -> None:
    """Decode in this process and print its `Times` and environment."""
    import time

    began = time.perf_counter()
    from dataclasses import replace

    import torch

    from benchmarks.start_account import account
    from skipopt.cli.model_options import without_collection
    from skipopt.decoding.api import resolve_method
    from skipopt.detokenizer import encode_prompt
    from skipopt.measurement.provenance import environment_of
    from skipopt.measurement.runners import SkipoptRunner
    from skipopt.measurement.timing import LENGTHS, Decoding
    from skipopt.profile import Profile
    from skipopt.runtime.load import load

    torch.set_num_threads(threads)
    with without_collection():  # as the command line loads models
        target = replace(load(model, device="cpu"), eos_ids=frozenset())
    loaded = time.perf_counter() - began
    chat = getattr(target.tokenizer, "chat_template", None) is not None
    ids = encode_prompt(target.tokenizer, prompt, chat=chat)
    given = None if profile is None or method == PLAIN else Profile.load(profile)
    runner = SkipoptRunner(target, resolve_method(given, method), given)

    def seconds_to(decoding: Decoding) -> dict[str, float]:
        at = {str(n): decoding.seconds_to(n) for n in (*LENGTHS, tokens)}
        return {n: seconds for n, seconds in at.items() if seconds is not None}

    with account() as start:
        first = runner.decode_fresh(ids, tokens, time.perf_counter)
    later = [runner.decode(ids, tokens, time.perf_counter) for _ in range(LATER)]
    assert all(each.tokens == first.tokens for each in later), "the texts differ"
    middle = sorted(later, key=lambda each: each.total_seconds)[LATER // 2]
    first_to, later_to = seconds_to(first), seconds_to(middle)
    seconds = first.total_seconds, first_to, middle.total_seconds, later_to
    times = Times(loaded, *seconds, start)
    found = {"times": asdict(times), "text": first.tokens, "environment": environment_of(target)}
    print(json.dumps(found))


def run(given: argparse.Namespace, method: str, prompt: str) -> dict[str, Any]:
    """What a fresh process measured."""
    arguments = [given.model, "--child", method, "--prompt", prompt]
    arguments += ["--tokens", str(given.tokens), "--threads", str(given.threads)]
    arguments += ["--profile", str(given.profile)] if given.profile else []
    command = [sys.executable, "-m", "benchmarks.first_text", *arguments]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All processes: in each repeat, plain and method for each prompt, their order reversed from
    pair to pair.
    """
    times: dict[str, list[dict[str, Any]]] = {PLAIN: [], given.method: []}
    environment: dict[str, Any] = {}
    for number, prompt in enumerate(PROMPTS[: given.prompts] * given.repeats):
        texts = {}
        order = list(times)[:: -1 if number % 2 else 1]
        for method in order:
            found = run(given, method, prompt)
            times[method].append(found["times"])
            texts[method], environment = found["text"], found["environment"]
        assert texts[PLAIN] == texts[given.method], "the method's text is not that of plain"
    command = f"python -m benchmarks.first_text {Path(given.model).name} --method {given.method}"
    command += f" --profile {given.profile}" if given.profile else ""
    command += f" --tokens {given.tokens} --prompts {given.prompts}"
    command += f" --repeats {given.repeats} --threads {given.threads}"
    found = {"command": command, "environment": environment}
    return {**found, "prompts": given.prompts, "times": times}


def report(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The Markdown page."""
    yield "# The first text of a process"
    for record in records:
        yield ""
        yield f"`{record['command']}`"
        yield ""
        yield from environment_lines(record["environment"])
        yield ""
        yield (
            "| | load, s | first text, s | same text later, s | lost to the start, s | "
            "of the first text |"
        )
        yield "|---|--:|--:|--:|--:|--:|"
        for method, times in record["times"].items():
            load, first, later = (
                median(each[key] for each in times) for key in ("load", "first", "later")
            )
            lost = median(each["first"] - each["later"] for each in times)
            yield (
                f"| {method} | {load:.2f} | {first:.2f} | {later:.2f} | {lost:.2f} "
                f"| {lost / first:.0%} |"
            )
        yield ""
        yield from start_lines(record["times"])
        yield ""
        yield "| new tokens | first text, × plain | later, × plain |"
        yield "|--:|--:|--:|"
        plain, method = record["times"].values()
        for length in plain[0]["first_to"]:
            prompts = record.get("prompts", len(plain))
            keys = ("first_to", "later_to")
            cells = (_ratio(plain, method, prompts, key, length) for key in keys)
            yield f"| {length} | {' | '.join(cells)} |"


def start_lines(times: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Seconds that the first text spends in each part, in the median."""
    yield f"| seconds of the first text | {' | '.join(times)} |"
    yield f"|---|{'--:|' * len(times)}"
    parts = next(iter(times.values()))[0]["start"]
    for part in parts:
        spent = (median(each["start"][part] for each in of) for of in times.values())
        yield f"| {part} | {' | '.join(f'{seconds:.3f}' for seconds in spent)} |"


def _ratio(
    plain: Sequence[Mapping[str, Any]],
    method: Sequence[Mapping[str, Any]],
    prompts: int,
    key: str,
    length: str,
) -> str:
    """The speedup with its interval over prompts, each of which has a pair in every repeat."""
    pairs = zip(plain, method, strict=True)
    logs = [math.log(p[key][length] / m[key][length]) for p, m in pairs]
    found = ratio_interval([logs[i::prompts] for i in range(prompts)])
    return f"{found.median:.2f} ({found.low:.2f}–{found.high:.2f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--method", default="layer-skip:gamma=4:quant=int8")
    parser.add_argument("--profile", type=Path, help="of the method")
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--repeats", type=int, default=1, help="pairs of each prompt")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="earlier records in its JSON are kept")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--prompt", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.child is not None:
        child(given.model, given.child, given.profile, given.prompt, given.tokens, given.threads)
        return
    file = given.output.with_name(f"{given.output.name}.json")
    records = json.loads(file.read_text(encoding="utf-8"))["records"] if file.exists() else []
    found = measure(given)
    records = [each for each in records if each["command"] != found["command"]] + [found]
    write_results(given.output, {"records": records}, list(report(records)))


if __name__ == "__main__":
    main()
