"""llama.cpp as a peer: decodes what it is asked for on standard input.

Run by `benchmarks.stock_speed` with a Python environment that has `xllamacpp`. For each line
{"ids": [...], "max_new_tokens": n} it writes a line {"tokens": n, "seconds": s, "bytes": b}: the
seconds of decoding without prefill by llama.cpp's own timings, and the process's peak memory.

    python -m venv peers && peers/bin/pip install xllamacpp gguf
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any


def answer(server: Any, request: dict[str, Any]) -> dict[str, float]:
    """Decode one prompt greedily, past the end of the text if it ends."""
    options = {"temperature": 0, "ignore_eos": True, "cache_prompt": False}
    given = {"prompt": request["ids"], "n_predict": request["max_new_tokens"], **options}
    found = server.handle_completions(given)
    found = json.loads(found) if isinstance(found, str | bytes) else found
    timings = found["timings"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = timings["predicted_ms"] / 1000
    return {"tokens": timings["predicted_n"], "seconds": seconds, "bytes": peak}


def main(model: str, threads: int) -> None:
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.n_parallel = model, 2048, 1
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(parameters)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(server, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
