"""Whether the operators of ``torch.ops.iql_fast`` are there."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch

from iql_fast.ops import plain
from iql_fast.support import extension

#: Whether the extension is there.
AVAILABLE = not extension.unavailable_reason()

if not AVAILABLE:
    warnings.warn(
        f"iql_fast.ops computes in plain torch: {extension.unavailable_reason()}", stacklevel=2
    )


def operator(name: str) -> Callable[..., Any]:
    """``torch.ops.iql_fast.NAME``; an operator that writes in place is called without gradient.

    While ``torch.export`` traces, the others are plain torch: what it makes, ONNX files too, is for
    programs without this package. It raises NotImplementedError where the extension is missing.
    """
    if not AVAILABLE:
        return functools.partial(_missing, name)
    operator = getattr(torch.ops.iql_fast, name).default
    directly = getattr(extension.load().ops, name)
    in_place = name.endswith("_")
    exported = operator if in_place else getattr(plain, name)

    def call(*arguments: Any) -> Any:
        # torch.compile traces torch.ops alone, and so do proxies of tensors; it takes longer.
        if not torch.compiler.is_compiling():
            try:
                return directly(*arguments)
            except TypeError:
                pass
        elif torch.compiler.is_exporting():
            return exported(*arguments)
        if in_place:
            with torch.no_grad():
                return operator(*arguments)
        return operator(*arguments)

    return call


def _missing(name: str, *_: Any) -> Any:
    raise NotImplementedError(f"{name}: {extension.unavailable_reason()}")
