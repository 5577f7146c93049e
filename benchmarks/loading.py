"""Seconds and memory of loading a model and of its first text, in fresh processes.

    python -m benchmarks.loading FOLDER --name NAME --output results/loading

`skipopt.load` in turn with transformers' own `from_pretrained` of model and tokenizer, in float32,
and with a text of greedy tokens afterwards: plain, and with int8 drafts. The order is reversed
from repeat to repeat. Every process imports both libraries and the model's modules first, which is
not timed. A model that is called `random` is made: a Llama with random weights.

Memory is read from /proc/self/status (Linux). The highest resident memory (VmHWM) is reset before
loading. It counts pages of the mapped weight file (RssFile) that were read so far, which the
system may take back, and the process's own memory (RssAnon).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.result_files import environment_lines, write_results
from skipopt.stats import ratio_interval

RANDOM = "random"
RANDOM_LAYERS, RANDOM_WIDTH = 16, 1024
TRANSFORMERS, SKIPOPT = "transformers", "skipopt"
TEXTS = {"plain": "plain", "int8": "layer-skip:gamma=4:quant=int8"}
PROMPT = "Describe a walk through a forest after the rain."
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # see proc(5)
TEXT_REPEATS = 3  # most processes of each kind that decode a text


@dataclass(frozen=True, slots=True)
class Resident:
    """Bytes of this process: the most since the last reset, its own, and of mapped files."""

    peak: int
    own: int
    mapped: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """One process.

    Attributes:
        load: seconds of loading model and tokenizer.
        text: seconds of the first text; None if none was decoded.
        before, after_load, after_text: its memory at these times.
        weights: bytes of the model's weights.
        tokenizer: bytes by which loading the tokenizer alone raised the process's own memory; 0
            where model and tokenizer were loaded by one call.
        copies: bytes of quantized weights that the runtime reports after the text.
    """

    load: float
    text: float | None
    before: Resident
    after_load: Resident
    after_text: Resident
    weights: int
    tokenizer: int
    copies: int


def resident() -> Resident:
    lines = (line.split(":") for line in STATUS.read_text().splitlines())
    sizes = {key: int(value.split()[0]) * 1024 for key, value in lines if value.endswith(" kB")}
    return Resident(sizes["VmHWM"], sizes["RssAnon"], sizes["RssFile"])


def child(folder: str, what: str, tokens: int, threads: int) -> None:
    """Load in this process, decode a text if asked to, and print `Loaded` and environment."""
    import_everything(folder)
    import torch

    torch.set_num_threads(threads)
    CLEAR.write_text(RESET_PEAK)
    loaded, about = (
        by_transformers(folder) if what == TRANSFORMERS else by_skipopt(folder, what, tokens)
    )
    print(json.dumps({"loaded": asdict(loaded), **about}))


def import_everything(folder: str) -> None:
    """Import what both sides use, the classes of the model and its tokenizer included."""
    import transformers
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    assert MODEL_FOR_CAUSAL_LM_MAPPING[type(AutoConfig.from_pretrained(folder))]
    settings = json.loads((Path(folder) / "tokenizer_config.json").read_text(encoding="utf-8"))
    getattr(transformers, settings.get("tokenizer_class", "PreTrainedTokenizerFast"))


def by_transformers(folder: str) -> tuple[Loaded, dict[str, Any]]:
    import time

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    before, began = resident(), time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    between = resident()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    seconds = time.perf_counter() - began
    after = resident()
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    assert tokenizer(PROMPT)["input_ids"]
    own = after.own - between.own
    return Loaded(seconds, None, before, after, after, weights, own, 0), {}


def by_skipopt(folder: str, what: str, tokens: int) -> tuple[Loaded, dict[str, Any]]:
    import time

    import skipopt
    from skipopt.measurement.provenance import environment_of

    before, began = resident(), time.perf_counter()
    target = skipopt.load(folder, dtype="float32", device="cpu")
    seconds = time.perf_counter() - began
    after = resident()
    text, ids = None, []
    if what in TEXTS:
        prompt = target.tokenizer(PROMPT)["input_ids"]
        began = time.perf_counter()
        # So short a text would be decoded plainly; here its drafts are made.
        with target.runtime.break_even.drafting_at_once():
            made = skipopt.generate(target, prompt, method=TEXTS[what], max_new_tokens=tokens)
            ids = [token.id for token in made]
        text = time.perf_counter() - began
    memory = target.memory
    assert memory.quantized_weights or what != "int8", "no quantized copies were made"
    loaded = Loaded(
        seconds, text, before, after, resident(), memory.weights, 0, memory.quantized_weights
    )
    return loaded, {"text": ids, "environment": environment_of(target)}


def run(folder: str, what: str, given: argparse.Namespace) -> dict[str, Any]:
    """What a fresh process measured."""
    command = [sys.executable, "-m", "benchmarks.loading", folder, "--child", what]
    command += ["--tokens", str(given.tokens), "--threads", str(given.threads)]
    ended = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def measure(folder: str, name: str, given: argparse.Namespace) -> dict[str, Any]:
    """All processes, after one that is not counted and brings the files into the page cache."""
    run(folder, SKIPOPT, given)
    kinds = [TRANSFORMERS, SKIPOPT, *TEXTS]
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for repeat in range(given.repeats):
        now = kinds if repeat < TEXT_REPEATS else kinds[: -len(TEXTS)]
        for kind in now[:: -1 if repeat % 2 else 1]:
            found[kind].append(run(folder, kind, given))
    texts = [each["text"] for kind in TEXTS for each in found[kind]]
    assert all(each == texts[0] for each in texts), "the texts differ"
    assert texts[0], "no text"
    command = f"python -m benchmarks.loading {name} --name {name} --tokens {given.tokens}"
    return {
        "model": name,
        "command": f"{command} --repeats {given.repeats} --threads {given.threads}",
        "environment": found[SKIPOPT][-1]["environment"],
        "processes": {kind: [each["loaded"] for each in found[kind]] for kind in kinds},
    }


def save_random(folder: str, layers: int, width: int) -> None:
    """A Llama with random weights, and the built-in model's tokenizer beside it."""
    from transformers import AutoTokenizer

    from benchmarks.runtime_speed import random_llama
    from skipopt.models.loading import builtin_folder

    random_llama(layers, width).save_pretrained(folder)
    AutoTokenizer.from_pretrained(builtin_folder()).save_pretrained(folder)


def report(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The Markdown page."""
    yield "# Loading a model, and memory beside its weights"
    yield ""
    yield "Medians over fresh processes, interleaved; the lowest and highest value in parentheses."
    yield "Files were in the page cache, and imports are not in the times. MB are 10⁶ bytes."
    yield f"Texts were decoded in the first {TEXT_REPEATS} repeats only."
    for record in records:
        yield from ("", f"## {record['model']}", "", f"`{record['command']}`", "")
        yield from environment_lines(record["environment"])
        yield ""
        yield from time_lines(record["processes"])
        yield ""
        yield from memory_lines(record["processes"])


def time_lines(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    loads = {kind: [each["load"] for each in found[kind]] for kind in (TRANSFORMERS, SKIPOPT)}
    pairs = zip(loads[SKIPOPT], loads[TRANSFORMERS], strict=True)
    ratio = ratio_interval([[math.log(own / theirs)] for own, theirs in pairs])
    yield "| | seconds |"
    yield "|---|--:|"
    yield f"| `from_pretrained` of model and tokenizer | {_spread(loads[TRANSFORMERS])} |"
    yield f"| `skipopt.load` | {_spread(loads[SKIPOPT])} |"
    yield f"| ratio of pairs (95 %) | {ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f}) |"
    for kind in TEXTS:
        seconds = [each["text"] for each in found[kind]]
        yield f"| first text after it, {kind} | {_spread(seconds)} |"


def memory_lines(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    weights = found[SKIPOPT][0]["weights"]
    tokenizer = median(each["tokenizer"] for each in found[TRANSFORMERS])
    yield (
        f"Weights: {weights / 1e6:.0f} MB. The tokenizer, loaded by transformers, takes "
        f"{tokenizer / 1e6:.0f} MB of the process's own memory."
    )
    yield ""
    yield "| | MB | × weights |"
    yield "|---|--:|--:|"
    for label, kind, before, after, field in MEMORY_ROWS:
        sizes = [each[after][field] - each[before][field] for each in found[kind]]
        shares = [size / weights for size in sizes]
        yield f"| {label} | {median(sizes) / 1e6:.0f} | {_spread(shares)} |"
    copies = median(each["copies"] for each in found["int8"])
    yield f"| of it: int8 copies | {copies / 1e6:.0f} | {copies / weights:.2f} |"


BEFORE, LOADED, DECODED = "before", "after_load", "after_text"
MEMORY_ROWS = (
    ("transformers, loading: highest", TRANSFORMERS, BEFORE, LOADED, "peak"),
    ("skipopt, loading: highest", SKIPOPT, BEFORE, LOADED, "peak"),
    ("then: own memory", SKIPOPT, BEFORE, LOADED, "own"),
    ("then: pages of files", SKIPOPT, BEFORE, LOADED, "mapped"),
    ("loading and a plain text: highest", "plain", BEFORE, DECODED, "peak"),
    ("loading and a text with int8 drafts: highest", "int8", BEFORE, DECODED, "peak"),
    ("beside the weights, a plain text: own memory", "plain", LOADED, DECODED, "own"),
    ("beside the weights, a text with int8 drafts: own memory", "int8", LOADED, DECODED, "own"),
)


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help=f"a folder, or `{RANDOM}`")
    parser.add_argument("--name", help="how the results call the model")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="earlier records in its JSON are kept")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.child is not None:
        child(given.model, given.child, given.tokens, given.threads)
        return
    file = given.output.with_name(f"{given.output.name}.json")
    records = json.loads(file.read_text(encoding="utf-8"))["records"] if file.exists() else []
    name = given.name or Path(given.model).name
    with ExitStack() as stack:
        folder = given.model
        if folder == RANDOM:
            folder = stack.enter_context(TemporaryDirectory())
            save_random(folder, RANDOM_LAYERS, RANDOM_WIDTH)
        found = measure(folder, name, given)
    records = [each for each in records if each["model"] != name] + [found]
    write_results(given.output, {"records": records}, list(report(records)))


if __name__ == "__main__":
    main()
