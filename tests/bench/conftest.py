"""A small network and the files of its artifact that the benchmark reads; nothing is compiled."""

from __future__ import annotations

import numpy as np
import pytest

from dlas.values import Artifact, ModelSpec, Weights


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    arguments = (("in_channels", 3), ("out_channels", 4), ("kernel_size", 3))
    return ModelSpec("small", "torch.nn:Conv2d", (1, 3, 16, 16), arguments)


@pytest.fixture(scope="session")
def artifact(spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    from dlas.models.loading import load

    model = load(spec, Weights("untrained"))
    folder = tmp_path_factory.mktemp("bench") / "small"
    folder.mkdir()
    np.save(folder / "input.npy", model.input)
    np.save(folder / "oracle.npy", model.output)
    np.save(folder / "float32.npy", model.output)
    return Artifact(
        path=folder,
        key="",
        sha256="",
        data_sha256="",
        output_shape=model.output.shape,
        weights="untrained",
        weights_sha256="",
        ops_total=0,
        ops_as_asked=0,
        ops_depthwise=0,
        ops_integer=0,
        ops_sparse=0,
        fallbacks=(),
        kernels=(),
        level_fraction=0.0,
        weight_sparsity_fraction=0.0,
        mac_sparsity_fraction=0.0,
        weight_bytes=0,
        dense_weight_bytes=0,
        arithmetic="float32",
        layout="NCHW",
        oracle_name="PyTorch",
        calibration="",
        versions={"tvm": "0.1"},
        stage_seconds={},
    )
