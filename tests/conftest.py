"""Registered before they are imported, so that their failures show the values compared."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("skipopt.testing", "support")
