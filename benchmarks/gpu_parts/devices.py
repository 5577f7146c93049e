"""Copy bandwidth, kernel time and memory of a device.

Times on a GPU come from events on its stream.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

import torch

WARM_UPS, COPIES = 3, 20


def device_facts(device: torch.device) -> dict[str, Any]:
    """Entries for a GPU that the environment record does not have; empty on a CPU."""
    if device.type != "cuda":
        return {}
    found = torch.cuda.get_device_properties(device)
    return {
        "cuda": torch.version.cuda,
        "compute_capability": f"{found.major}.{found.minor}",
        "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
    }


def free_memory(device: torch.device) -> None:
    """Release unused memory, and reset the peak statistics."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Most bytes of tensors held at once since `free_memory`; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def copy_bandwidth(device: torch.device, size: int) -> float:
    """Bytes per second of a copy within the device; bytes read and bytes written both count.

    Args:
        size: bytes of the buffer; several times the last-level cache of the device.
    """
    # Random: zeros may move faster than data does.
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    sink = torch.empty_like(source)
    seconds = [elapsed(device, lambda: sink.copy_(source)) for _ in range(WARM_UPS + COPIES)]
    return 2 * size / median(seconds[WARM_UPS:])


def elapsed(device: torch.device, run: Callable[[], Any]) -> float:
    """Seconds of `run` on the device."""
    if device.type != "cuda":
        began = time.perf_counter()
        run()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def busy_seconds(device: torch.device, run: Callable[[], Any]) -> float | None:
    """Seconds during `run` in which the device worked on any kernel, copy or fill.

    On a CPU: in which torch operations ran, without the Python between them. None if the profiler
    saw no work.
    """
    from torch.autograd import DeviceType  # type: ignore[attr-defined]
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    with profile(activities=[activity]) as profiler:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    events = [event for event in profiler.events() or () if event.device_type == kind]
    if not events:
        return None
    return covered((e.time_range.start, e.time_range.end) for e in events) / 1e6


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of spans, so that overlaps count once."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
