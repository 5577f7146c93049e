"""Samplers with fresh and with coupled noise."""

from __future__ import annotations

import torch

from skipopt.sampling import SamplingOptions, TokenSampler

CPU = torch.device("cpu")


WARM = SamplingOptions(temperature=1.0, seed=0)


GREEDY = SamplingOptions()


def fresh(options: SamplingOptions = WARM) -> TokenSampler:
    return TokenSampler(options, CPU, coupled=False)


def coupled(options: SamplingOptions) -> TokenSampler:
    return TokenSampler(options, CPU, coupled=True)
