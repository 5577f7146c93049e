"""Register the support modules for assertion rewriting before they are imported."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("skipopt.testing", "support")
