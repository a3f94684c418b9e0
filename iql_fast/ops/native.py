"""Whether the operators of ``torch.ops.iql_fast`` are there."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from iql_fast import extension

#: Whether the extension is there.
AVAILABLE = not extension.unavailable_reason()

if not AVAILABLE:
    warnings.warn(
        f"iql_fast.ops computes in plain torch: {extension.unavailable_reason()}", stacklevel=2
    )


def operator(name: str) -> Any:
    """``torch.ops.iql_fast.NAME``; None where the extension is missing."""
    return getattr(torch.ops.iql_fast, name).default if AVAILABLE else None
