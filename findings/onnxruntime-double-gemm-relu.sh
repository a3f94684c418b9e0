#!/usr/bin/env bash
# onnxruntime 1.17.3 cannot run a double-precision Gemm that is followed by Relu: on a CPU it fuses the
# two into com.microsoft.FusedGemm, which has a kernel for float alone, and the session is refused as
# NOT_IMPLEMENTED. With the bias in an Add of its own between the two, the same network runs. (1.32.0
# runs both.)
#
# Seen with Python 3.11, onnx 1.16.0: the fused one refused, the other gives the right product.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3.11 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet onnxruntime==1.17.3 onnx==1.16.0 "numpy<2"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

weight, bias = np.eye(3), np.ones(3)


def session(nodes):
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [2, 3])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


relu = helper.make_node("Relu", ["h"], ["y"])
try:
    session([helper.make_node("Gemm", ["x", "w", "b"], ["h"]), relu])
except Exception as error:
    print(f"Gemm, Relu: {type(error).__name__}: {str(error)[:90]}")
    assert "FusedGemm" in str(error)
else:
    raise SystemExit("Gemm followed by Relu runs in double precision")

apart = [
    helper.make_node("Gemm", ["x", "w"], ["g"]),
    helper.make_node("Add", ["g", "b"], ["h"]),
    relu,
]
(y,) = session(apart).run(None, {"x": -2 * np.ones((2, 3))})
print("Gemm, Add, Relu runs:", y.tolist())
assert not y.any()
PYTHON
