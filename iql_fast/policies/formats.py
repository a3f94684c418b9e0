"""The formats of files that a policy can be exported to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from iql_fast.policies import onnx_file, safetensors_file, torch_file
from iql_fast.policies.portable import MARK, Portable

FloatArray = NDArray[np.float32]


class Format(NamedTuple):
    """A format: bytes from a policy, and from the bytes what computes its actions again.

    Either raises ``ImportError`` where the format's own package is not installed.
    """

    suffix: str
    encode: Callable[[Portable, Mapping[str, str]], bytes]
    decode: Callable[[bytes], Callable[[FloatArray], FloatArray]]


FORMATS = {
    "onnx": Format(onnx_file.SUFFIX, onnx_file.encode, onnx_file.decode),
    "torch": Format(torch_file.SUFFIX, torch_file.encode, torch_file.decode),
    "safetensors": Format(
        safetensors_file.SUFFIX, safetensors_file.encode, safetensors_file.decode
    ),
}


def is_export(path: Path) -> bool:
    """Whether a file is one of these. Each holds the keys of its metadata as they are."""
    return path.is_file() and MARK.encode() in path.read_bytes()
