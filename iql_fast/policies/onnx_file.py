"""The policy as an ONNX graph, written node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from iql_fast.policies.portable import MARK, Portable

FloatArray = NDArray[np.float32]

SUFFIX = ".onnx"
#: The newest that onnxruntime 1.17 reads. No operator here has changed since opset 14.
OPSET, IR_VERSION = 20, 9


def encode(policy: Portable, about: Mapping[str, str]) -> bytes:
    """A model from ``observation`` ``[N, O]`` to ``action`` ``[N, A]``, float32 both and float64
    between them, as the policy itself computes.

    Args:
        about: goes into the model's ``metadata_props``.

    Raises:
        ImportError: onnx is not installed.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "observation_mean": policy.obs_mean,
        "observation_scale": policy.obs_scale,
        "action_middle": policy.act_middle,
        "action_half": policy.act_half,
    }
    nodes = [
        helper.make_node("Cast", ["observation"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["wide", "observation_mean"], ["centred"]),
        helper.make_node("Div", ["centred", "observation_scale"], ["hidden_0"]),
    ]
    last = len(policy.layers) - 1
    for i, (weight, bias) in enumerate(policy.layers):
        constants |= {f"weight_{i}": weight, f"bias_{i}": bias}
        after = ("Tanh", "squashed") if i == last else ("Relu", f"hidden_{i + 1}")
        # Not the bias inside of Gemm: onnxruntime 1.17 would fuse Gemm and what follows it to an
        # operator that it has for float32 alone.
        nodes += [
            helper.make_node("Gemm", [f"hidden_{i}", f"weight_{i}"], [f"product_{i}"], transB=1),
            helper.make_node("Add", [f"product_{i}", f"bias_{i}"], [f"output_{i}"]),
            helper.make_node(after[0], [f"output_{i}"], [after[1]]),
        ]
    nodes += [
        helper.make_node("Mul", ["squashed", "action_half"], ["stretched"]),
        helper.make_node("Add", ["stretched", "action_middle"], ["exact"]),
        helper.make_node("Cast", ["exact"], ["action"], to=TensorProto.FLOAT),
    ]

    def batch(name: str, size: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size])

    graph = helper.make_graph(
        nodes,
        "policy",
        [batch("observation", len(policy.obs_mean))],
        [batch("action", len(policy.act_half))],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="iql_fast",
        producer_version=about[MARK],
    )
    helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def decode(content: bytes) -> Callable[[FloatArray], FloatArray]:
    """What the model computes, by onnxruntime on the CPU.

    Raises:
        ImportError: onnxruntime is not installed.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more would be pinned to cores, which containers forbid
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda observations: session.run(["action"], {"observation": observations})[0]
