"""Operations that only scripted code can hand to TorchScript.

Without `from __future__ import annotations`: the script compiler reads annotations as they stand.
"""

from typing import List, Optional  # noqa: UP035  (the script compiler knows these names)

import torch


def packed_linear(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: Optional[torch.Tensor],  # noqa: UP045
    attr: str,
    scalars: List[int],  # noqa: UP006
    algorithm: str,
) -> torch.Tensor:
    """`mkldnn._linear_pointwise`, whose list of scalars the tracer cannot write down."""
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        input, weight, bias, attr, [], algorithm
    )
    return product
