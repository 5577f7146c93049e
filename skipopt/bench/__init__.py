"""Speed and exactness: paired timing of runners, the methods table, the regression gate, costs.

The package has the name of its main function, and calls it: `skipopt.bench(target, prompts)` is
`skipopt.bench.methods_table.bench`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skipopt.bench.methods_table import BenchResult


class _Package(ModuleType):
    """This package, as a function."""

    def __call__(self, *args: Any, **options: Any) -> BenchResult:
        from skipopt.bench.methods_table import bench

        return bench(*args, **options)


sys.modules[__name__].__class__ = _Package
