"""Each convolution and linear layer of a quantized network as a network of its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

LAYERS = ("Conv", "Gemm", "MatMul")


def layers(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto, float]]:
    """Name, network and the output's scale of each layer whose input and output are quantized.

    The network takes float32, quantizes it as the layer's input is, and gives what the layer's integers mean.
    """
    graph = model.graph
    made = {output: node for node in graph.node for output in node.output}
    read: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            read.setdefault(name, []).append(node)
    constants = {each.name: each for each in graph.initializer}
    for node in graph.node:
        if node.op_type not in LAYERS:
            continue
        source, sink = made.get(node.input[0]), node
        while sink.op_type != "QuantizeLinear" and len(read.get(sink.output[0], [])) == 1:
            sink = read[sink.output[0]][0]
        if source is None or source.op_type != "DequantizeLinear" or sink.op_type != "QuantizeLinear":
            continue
        yield (
            node.name,
            _network(model, made, constants, node, source, sink),
            _value(constants, sink.input[1]),
        )


def run(model: onnx.ModelProto, x: np.ndarray, level: ort.GraphOptimizationLevel) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {"x": x})[0]
    return output


def _network(
    model: onnx.ModelProto,
    made: dict[str, onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
    node: onnx.NodeProto,
    source: onnx.NodeProto,
    sink: onnx.NodeProto,
) -> onnx.ModelProto:
    chain = [sink]
    while chain[-1] is not node:
        chain.append(made[chain[-1].input[0]])
    weights = [made[name] for name in node.input[1:] if name in made]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *source.input[1:]], ["quantized"]),
        helper.make_node("DequantizeLinear", ["quantized", *source.input[1:]], [node.input[0]]),
        *weights,
        *reversed(chain),
        helper.make_node("DequantizeLinear", [sink.output[0], *sink.input[1:]], ["y"]),
    ]
    known = {each.name: [d.dim_value for d in each.type.tensor_type.shape.dim] for each in _shapes(model)}
    shapes = known[node.input[0]], known[node.output[0]]
    names = {name for each in nodes for name in each.input}
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in zip("xy", shapes, strict=True)
    ]
    graph = helper.make_graph(
        nodes, "layer", ends[:1], ends[1:], [constants[name] for name in sorted(names & constants.keys())]
    )
    opsets = [each for each in model.opset_import if not each.domain]
    return helper.make_model(graph, opset_imports=opsets, ir_version=min(model.ir_version, 10))


def _shapes(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return [*inferred.value_info, *inferred.input, *inferred.output]


def _value(constants: dict[str, onnx.TensorProto], name: str) -> float:
    return float(numpy_helper.to_array(constants[name]).item())
