"""Greedy texts of every drafting method on tiny random models of many architectures.

Each text is compared with plain decoding, token by token, without penalties and with a repetition
penalty and no repeated n-grams; plain decoding is compared with `generate` of transformers. A mask
that is often wrong makes sure that drafts are rejected as well as accepted.

    python -m benchmarks.identity --output results/identity --tokens 100000

An interrupted run goes on by the same command. The models are those of the contract suite in
`tests/`, and more of `benchmarks/identity_models.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.identity_models import Checkpoints, Model, models, quantized_always
from benchmarks.result_files import earlier_record, log, page_head, save_results, write_results
from skipopt.environment import environment_record
from skipopt.errors import SkipoptError
from skipopt.models.target import Target
from skipopt.profile import Profile
from skipopt.rounds import Statistics
from skipopt.sampling import SamplingOptions

PLAIN = "plain"
METHODS = (
    "layer-skip:gamma=4",
    "layer-skip:gamma=4:quant=int8",
    "layer-skip:gamma=6:tau=0.3:window=8",
    "swift:auto_disable=no",
    "prompt-lookup",
    "suffix",
    "token-recycling",
    "jacobi",
    "lookahead",
    "blockwise:checkpoint={ffn}:min_path_prob=0.0",
    "spec-drafter:checkpoint={whole}:min_path_prob=0.0",
    "rsd-c",
    "rsd-s",
    "cascade:auto_disable=no",
)
PENALTIES: Mapping[bool, Mapping[str, Any]] = {
    False: {},
    True: {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3},
}
NEW_TOKENS = 40
SHORTEST, LONGEST = 3, 30  # prompts
MOST_TOLD = 20  # differences that are described


@dataclass(slots=True)
class Cell:
    """The texts of one method on one model.

    Attributes:
        tokens: that were compared.
        differences: texts that are not those of plain decoding.
        refused: why the method does not run on this model, if it does not.
    """

    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    differences: int = 0
    refused: str | None = None


@dataclass(slots=True)
class Row:
    """One architecture, with or without penalties.

    Attributes:
        plain_tokens: of plain decoding.
        other_than_generate: its texts that are not those of `generate`.
        methods: by their text.
        told: some of the differences.
    """

    architecture: str
    penalties: bool
    plain_tokens: int = 0
    other_than_generate: int = 0
    methods: dict[str, Cell] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Row:
        """From a file of results."""
        cells = {name: Cell(**cell) for name, cell in record["methods"].items()}
        return cls(**{**record, "methods": cells})

    @property
    def tokens(self) -> int:
        """Of all methods."""
        return sum(cell.tokens for cell in self.methods.values())

    @property
    def differences(self) -> int:
        """Of all methods, and of plain decoding from `generate`."""
        own = sum(cell.differences for cell in self.methods.values())
        return own + self.other_than_generate


Text = tuple[int, ...]


class Texts:
    """Greedy texts of one target with some penalties."""

    def __init__(self, target: Target, penalties: Mapping[str, Any]) -> None:
        self._target = target
        self._penalties = penalties
        depth = target.depth
        self._profile = Profile.by_hand(target, attention=[1], mlp=[depth - 1], gamma=4)

    def decode(self, prompt: Sequence[int], method: str, total: Statistics) -> Text:
        """The text of a method; `total` takes in its rounds."""
        from skipopt.decoding.api import generate_rounds

        profile = None if method == PLAIN else self._profile
        found: list[int] = []
        with self._target.runtime.capture_immediately():
            for each in generate_rounds(
                self._target,
                prompt,
                profile=profile,
                method=method,
                max_new_tokens=NEW_TOKENS,
                options=SamplingOptions(**self._penalties),
            ):
                total.add(each)
                found += each.emitted
        return tuple(found)

    def generate(self, prompt: Sequence[int], count: int) -> Text:
        """The text of transformers."""
        import torch

        ids = torch.tensor([prompt])
        with torch.inference_mode():
            whole = self._target.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
                **self._penalties,
            )
        return tuple(whole[0, len(prompt) :].tolist())


def prompts_of(count: int, vocabulary: int, name: str) -> list[Text]:
    """Random prompts; every third repeats itself, for drafts that are copied."""
    random = Random(name)
    found = []
    for number in range(count):
        length = random.randint(SHORTEST, LONGEST)
        distinct = length if number % 3 else max(1, length // 3)
        some = [random.randrange(2, vocabulary) for _ in range(distinct)]
        found.append(tuple((some * length)[:length]))
    return found


def compare(
    model: Model, methods: Sequence[str], tokens: int, runtime: str, checkpoints: Checkpoints
) -> Iterator[Row]:
    """The rows of one architecture, each with about so many tokens of drafting methods.

    Args:
        checkpoints: makes those that methods name, of a target.
    """
    target = model.target(runtime)
    names = checkpoints(target)
    count = max(1, round(tokens / (len(methods) * NEW_TOKENS)))
    for penalties, options in PENALTIES.items():
        row = Row(model.name, penalties)
        texts = Texts(target, options)
        expected = {}
        for prompt in prompts_of(count, target.vocab_size, model.name):
            plain = expected[prompt] = texts.decode(prompt, PLAIN, Statistics())
            row.plain_tokens += len(plain)
            theirs = texts.generate(prompt, len(plain))
            if theirs != plain:
                row.other_than_generate += 1
                tell(row, "generate", prompt, plain, theirs)
        for method in methods:
            row.methods[method] = compare_method(row, texts, method, expected, names)
        yield row


def compare_method(
    row: Row,
    texts: Texts,
    method: str,
    expected: Mapping[Text, Text],
    checkpoints: Mapping[str, str],
) -> Cell:
    """All texts of one method."""
    cell, total = Cell(), Statistics()
    for prompt, plain in expected.items():
        try:
            found = texts.decode(prompt, method.format(**checkpoints), total)
        except SkipoptError as error:
            cell.refused = str(error)
            break
        cell.tokens += len(plain)
        if found != plain:
            cell.differences += 1
            tell(row, method, prompt, plain, found)
    cell.drafted, cell.accepted = total.drafted, total.accepted
    return cell


def tell(row: Row, method: str, prompt: Text, plain: Text, found: Text) -> None:
    """Note a difference."""
    if len(row.told) < MOST_TOLD:
        pairs = enumerate(zip(plain, found, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(plain), len(found)))
        row.told.append(
            {"method": method, "prompt": prompt, "at": at, "plain": plain, "found": found}
        )


def page(record: Mapping[str, Any]) -> list[str]:
    """The results in Markdown."""
    rows = [Row.of(each) for each in record["rows"]]
    lines = page_head("The same tokens as plain decoding", record)
    lines += ["", *_summary(rows), "", *_by_architecture(rows), "", *_by_method(rows)]
    return [*lines, "", *_told(rows)]


def _summary(rows: Sequence[Row]) -> Iterator[str]:
    names = dict.fromkeys(row.architecture for row in rows)
    for penalties in PENALTIES:
        own = [row for row in rows if row.penalties is penalties]
        yield (
            f"- {_words(penalties)}: {sum(row.tokens for row in own)} tokens on "
            f"{len(names)} models, {sum(row.differences for row in own)} differences"
        )


def _words(penalties: bool) -> str:
    return "with penalties" if penalties else "without penalties"


def _by_architecture(rows: Iterable[Row]) -> Iterator[str]:
    yield "| architecture | penalties | methods | tokens | accepted | differences | vs generate |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for row in rows:
        ran = [cell for cell in row.methods.values() if cell.refused is None]
        share = _share(sum(c.accepted for c in ran), sum(c.drafted for c in ran))
        penalties = "yes" if row.penalties else "no"
        own = row.differences - row.other_than_generate
        yield (
            f"| {row.architecture} | {penalties} | {len(ran)} | {row.tokens} | {share} "
            f"| {own} | {row.other_than_generate} |"
        )


def _by_method(rows: Sequence[Row]) -> Iterator[str]:
    yield "| method | models | tokens | drafted | accepted | differences | refused by |"
    yield "|---|--:|--:|--:|--:|--:|---|"
    for method in dict.fromkeys(name for row in rows for name in row.methods):
        cells = [(row.architecture, row.methods[method]) for row in rows if method in row.methods]
        ran = [cell for _, cell in cells if cell.refused is None]
        refused = dict.fromkeys(name for name, cell in cells if cell.refused is not None)
        models = {name for name, cell in cells if cell.refused is None}
        drafted = sum(cell.drafted for cell in ran)
        yield (
            f"| {method} | {len(models)} | {sum(cell.tokens for cell in ran)} | {drafted} "
            f"| {_share(sum(cell.accepted for cell in ran), drafted)} "
            f"| {sum(cell.differences for cell in ran)} | {', '.join(refused)} |"
        )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else ""


def _told(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        for each in row.told:
            yield (
                f"- {row.architecture}, {_words(row.penalties)}, {each['method']}: "
                f"another token at {each['at']} after {list(each['prompt'])}"
            )


def run(
    prefix: Path, chosen: Sequence[Model], methods: Sequence[str], tokens: int, runtime: str,
    command: str,
) -> dict[str, Any]:  # fmt: skip
    """All architectures that an earlier run has not done; each is saved at once."""
    environment = environment_record("cpu", "float32", runtime, 1)
    new: dict[str, Any] = {
        "command": command,
        "environment": environment,
        "seconds": 0.0,
        "rows": [],
    }
    record = earlier_record(prefix, command) or new
    done = {row["architecture"] for row in record["rows"]}
    share = -(-tokens // len(chosen))
    with (
        tempfile.TemporaryDirectory(prefix="skipopt-identity-") as folder,
        quantized_always(),
    ):
        checkpoints = Checkpoints(Path(folder))
        for model in chosen:
            if model.name in done:
                continue
            began = time.monotonic()
            rows = list(compare(model, methods, share, runtime, checkpoints))
            seconds = time.monotonic() - began
            record["seconds"] += seconds
            record["rows"] += map(asdict, rows)
            save_results(prefix, record, page(record))
            differences = sum(row.differences for row in rows)
            log(f"{model.name}: {rows[0].tokens} tokens twice, {differences} differences, "
                f"{seconds:.0f} s")  # fmt: skip
    return record


def main() -> None:
    """Compare, and write the results."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000, help="without and with penalties")
    parser.add_argument("--architectures", help="names, separated by commas; all by default")
    parser.add_argument("--methods", help="separated by commas; all by default")
    parser.add_argument("--runtime", default="eager")
    parser.add_argument("--output", type=Path, default=Path("identity"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # the models are tiny
    command = f"python -m benchmarks.identity {' '.join(sys.argv[1:])}".rstrip()
    methods = options.methods.split(",") if options.methods else METHODS
    chosen = models(options.architectures.split(",") if options.architectures else None)
    record = run(options.output, chosen, methods, options.tokens, options.runtime, command)
    write_results(options.output, record, page(record))
    sys.exit(any(Row.of(row).differences for row in record["rows"]))


if __name__ == "__main__":
    main()
