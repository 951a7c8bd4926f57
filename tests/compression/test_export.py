"""Networks as ONNX files: the same function, float32 alone, and nothing of the machine that wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from dlas.compression.export import OPSET, export_onnx
from dlas.compression.quantize import predict
from dlas.errors import ModelError, StorageError
from dlas.models.loading import load
from dlas.values import ModelSpec, Weights

CIFAR = {"resnet:resnet18": 8, "mobilenet:mobilenetv1": 8, "mobilenet:mobilenetv2": 8, "vgg:vgg16": 8}
IMAGENET = ("mobilenetv2", "resnet50", "efficientnetb0", "densenet161")


def small(name: str, width: int) -> ModelSpec:
    return ModelSpec(name, f"dlas.models.{name}", (1, 3, 32, 32), (("width", width),))


def large(name: str) -> ModelSpec:
    return ModelSpec(name, f"dlas.models.imagenet:{name}", (1, 3, 64, 64))


SPECS = [small(name, width) for name, width in CIFAR.items()] + [
    pytest.param(large(name), marks=pytest.mark.slow, id=name) for name in IMAGENET
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_file_computes_what_its_network_does(spec: ModelSpec, tmp_path: Path) -> None:
    model = load(spec, Weights("untrained"))
    path = tmp_path / "new" / "model.onnx"
    export_onnx(model.module, model.input, path)
    scale = np.abs(model.output).max()
    np.testing.assert_allclose(predict(path, model.input), model.output, rtol=0, atol=1e-4 * scale)

    proto = onnx.load(path)
    onnx.checker.check_model(proto)
    assert [opset.version for opset in proto.opset_import if not opset.domain] == [OPSET]
    producers = {name: node for node in proto.graph.node for name in node.output}
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert not any(producers[node.input[0]].op_type == "Conv" for node in norms if node.input[0] in producers)
    assert list(path.parent.iterdir()) == [path]


def test_a_file_tells_nothing_of_its_making(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    x = np.zeros((1, 3, 8, 8), np.float32)
    for name in ("first", "second"):
        export_onnx(module, x, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    assert b"pkg.torch" not in (tmp_path / "first").read_bytes()
    assert all(not node.metadata_props for node in onnx.load(tmp_path / "first").graph.node)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_network_that_cannot_be_exported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ModelError, match=r"^Branching cannot be exported to ONNX: \w+: .+; write its"
    ) as caught:
        export_onnx(Branching(), np.zeros((1, 3, 8, 8), np.float32), tmp_path / "model.onnx")
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(StorageError, match="file"):
        export_onnx(nn.ReLU(), np.zeros((1, 3, 8, 8), np.float32), tmp_path / "file" / "model.onnx")
