"""One peer, in a process of its own: its output is compared with the oracle, then it is timed.

`python -m dlas.bench.peers PEER MODEL INPUT.npy ORACLE.npy --threads N` prints one line of JSON with
samples_ns and version. MODEL is an ONNX file, quantized where --precision is; for torch, which runs the
network itself, it is the network as JSON. What is wrong goes to stderr in one line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from importlib.metadata import version

import numpy as np

from dlas.bench.export import parse_network
from dlas.errors import PeerError
from dlas.measurement.measure import TOLERANCE, error_over_scale
from dlas.values import REPEATS, WARMUPS

Infer = Callable[[], np.ndarray]

# Error over output scale. A peer's integer kernels round sums in their own way, and each step that is off
# grows through the layers: OpenVINO reached 0.16 on an untrained MobileNetV2 and 0.06 on other networks, ONNX
# Runtime 0.06. Another network, or other weights, are off by about the whole scale.
ALLOWED = {"fp32": TOLERANCE["fp32"], "int8": 0.3, "int8_ort_default": 0.3}


def onnxruntime(model: str, array: np.ndarray, threads: int) -> Infer:
    """All graph optimisations, one operator at a time on all threads.

    They also make integer operators of a quantized model. With unsigned activations all convolutions and
    residual additions become such, and nothing that was tried on x86 is faster: signed activations leave
    most convolutions float32 between conversions, `session.qdqisint8allowed` makes these slower still, and
    the extended optimisations alone go through more layouts.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: array}
    return lambda: session.run(None, feed)[0]


def openvino(model: str, array: np.ndarray, threads: int) -> Infer:
    """The latency hint, one stream on all threads; float32 also where the CPU has bfloat16.

    A quantized model has integer convolutions all the same: the hint is for the rest.
    """
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    core = ov.Core()
    request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(array))

    def infer() -> np.ndarray:
        request.infer()
        return np.asarray(request.get_output_tensor().data)

    return infer


def torch(model: str, array: np.ndarray, threads: int) -> Infer:
    """Eager, without autograd, in the channels-last layout that oneDNN prefers."""
    import torch

    from dlas.compression.compressed import load

    torch.set_num_threads(threads)
    module = load(*parse_network(model)).module
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # documented, but not in its types
    tensor = torch.from_numpy(array).to(memory_format=torch.channels_last)

    def infer() -> np.ndarray:
        with torch.inference_mode():
            output: np.ndarray = module(tensor).numpy()
        return output

    return infer


PEERS: dict[str, Callable[[str, np.ndarray, int], Infer]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "torch": torch,
}


def time_samples(
    infer: Infer, oracle: np.ndarray, warmups: int, repeats: int, allowed: float = ALLOWED["fp32"]
) -> list[int]:
    """Nanoseconds of each inference after the warm-ups. The first and the last output must be the oracle's.

    allowed: how far they may be off, over the oracle's scale. Raises PeerError.
    """
    _check(infer(), oracle, allowed)
    for _ in range(warmups):
        infer()
    samples_ns = []
    for _ in range(repeats):
        began = time.perf_counter_ns()
        output = infer()
        samples_ns.append(time.perf_counter_ns() - began)
    _check(output, oracle, allowed)
    return samples_ns


def _check(output: np.ndarray, oracle: np.ndarray, allowed: float) -> None:
    if output.shape != oracle.shape:
        raise PeerError(f"its output is wrong: shape {output.shape}, not {oracle.shape}")
    error = error_over_scale(output, oracle)
    if not error <= allowed:
        raise PeerError(f"its output is wrong: {error:.2g} of its scale off, allowed is {allowed:.0e}")


def main(arguments: list[str]) -> None:
    """Raises PeerError."""
    parser = ArgumentParser(prog="dlas.bench.peers")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("model")
    parser.add_argument("input")
    parser.add_argument("oracle")
    parser.add_argument("--precision", choices=ALLOWED, default="fp32")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cpus", type=int, nargs="*", help="run on these alone")
    parser.add_argument("--warmups", type=int, default=WARMUPS)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args(arguments)
    if options.cpus:
        os.sched_setaffinity(0, options.cpus)  # before the peer makes its threads, which inherit it
    oracle = np.load(options.oracle, allow_pickle=False)
    infer = PEERS[options.peer](options.model, np.load(options.input, allow_pickle=False), options.threads)
    allowed = ALLOWED[options.precision]
    samples_ns = time_samples(infer, oracle, options.warmups, options.repeats, allowed)
    print(json.dumps({"samples_ns": samples_ns, "version": version(options.peer)}))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PeerError as error:
        sys.exit(str(error))
