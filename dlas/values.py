"""The values that travel between the layers: frozen, and free of any heavy import."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

REPEATS = 150  # PROTOCOL E1: a row with fewer samples is not publishable
EMULATED_REPEATS = 3  # of a row whose times mean nothing
WARMUPS = 5
IMAGES = 1000  # of the test split, at most, that accuracy is taken on
CALIBRATION_IMAGES = 128  # of the validation split, at most, that a network is quantized on
PACKAGES = (
    "torch",
    "torchvision",
    "apache-tvm",
    "apache-tvm-ffi",
    "numpy",
)  # what makes an artifact, with our code
CUDA_PACKAGES = ("nvidia-cuda-nvrtc-cu11", "nvidia-cuda-runtime-cu11")  # for CUDA, these too

Scalar = str | int | float | bool


@dataclass(frozen=True)
class ModelSpec:
    """Which network a cell runs.

    factory is `package.module:function`; called with `arguments` it returns a torch.nn.Module.
    input_shape is (N, C, H, W). weights: a file of the user's with a state dict, empty without one.
    """

    name: str
    factory: str
    input_shape: tuple[int, ...]
    arguments: tuple[tuple[str, Scalar], ...] = ()
    weights: str = ""


@dataclass(frozen=True)
class Data:
    """A dataset that is there. path is its folder, None for one that a package carries.

    sha256 tells its contents from those of another copy; `datasets.catalog.locate` says what it covers.
    """

    name: str
    path: Path | None
    sha256: str


@dataclass(frozen=True)
class Weights:
    """Where a network's parameters come from; known without reading them.

    origin: trained (by a recipe), pretrained (TorchVision's own), given (the user's file), untrained
    (seeded noise). path and sha256 are the file's. recipe, data_sha256 (of the data that it was
    trained on) and seconds (that it took) are of trained ones. reason: why there are none.
    finetuning: the recipe that pruned them and trained them on, which took finetune_seconds from the
    dense network to here; the file then holds zeros where nothing is left. Empty for dense weights.
    """

    origin: str
    path: Path | None = None
    sha256: str = ""
    recipe: str = ""
    data_sha256: str = ""
    seconds: float = 0.0
    reason: str = ""
    finetuning: str = ""
    finetune_seconds: float = 0.0

    @property
    def trained(self) -> bool:
        """Whether an accuracy means anything."""
        return self.origin != "untrained"


@dataclass(frozen=True)
class Compression:
    """How a network is made smaller. `compression.notation` reads and writes its name.

    technique: dense, weight (single weights of all convolutions together), uniform (the same share of each,
    but of the first and of depthwise ones nothing) or channel (whole filters). level_fraction: the share that
    is pruned, 0 for dense, None where it is the elbow and not known yet. shrunk: pruned channels are removed,
    where else they are zero.
    """

    technique: str = "dense"
    level_fraction: float | None = 0.0
    shrunk: bool = False


@dataclass(frozen=True)
class LevelPoint:
    """One level of a pruned and fine-tuned network: its weights, and how often they are right.

    level_fraction: as asked. pruned_fraction: the share of the convolutions' weights that is zero.
    Fractions of right answers are of n images.
    """

    level_fraction: float
    pruned_fraction: float
    val_top1_fraction: float
    val_n: int
    test_top1_fraction: float
    test_n: int
    weights: Weights


@dataclass(frozen=True)
class Cell:
    """One point of a sweep: what was asked for.

    recipe: how its network is trained, and finetuning: how it is trained on when pruned; empty for not at
    all. max_drop_fraction: how much of its accuracy the elbow may cost. None of these is in its id.
    """

    dataset: str
    model: ModelSpec
    compression: str
    precision: str
    format: str
    algorithm: str
    tuning: str
    target: str
    recipe: str = ""
    finetuning: str = ""
    max_drop_fraction: float = 0.01

    @property
    def id(self) -> str:
        """The one printed name of the cell: `--only` globs, log lines, folders and rows all use it."""
        return "/".join(
            (
                self.dataset,
                self.model.name,
                self.compression,
                self.precision,
                self.format,
                self.algorithm,
                self.tuning,
                self.target,
            )
        )


@dataclass(frozen=True)
class Csr:
    """A pruned filter in compressed sparse rows, one row for each output channel.

    data: float32 (nnz,), the weights that are not zero. indices: int32 (nnz,), where in CI/groups * KH * KW
    they are, ascending within a row. indptr: int32 (CO + 1,), where in these each row starts.
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray


@dataclass(frozen=True)
class Compiler:
    """How code for a target is generated: the `[compiler]` table of its TOML.

    vector_lanes: float32 elements in one vector register; vector_registers: how many there are;
    l2_bytes: the cache one core has to itself (or its share); all 0 on a GPU.
    gpu_arch: sm_NN, of kind cuda only. int8_activations: uint8 or int8, what the precision int8 quantizes to.
    """

    kind: str  # llvm | opencl | cuda
    arch: str  # of the CPU that runs the host part: x86_64 | aarch64
    mtriple: str
    mcpu: str
    mattr: tuple[str, ...]
    vector_lanes: int
    vector_registers: int
    l2_bytes: int
    cxx: str
    gpu_arch: str = ""
    int8_activations: str = "uint8"

    @property
    def is_gpu(self) -> bool:
        """Whether a network's kernels are for a GPU; what calls them is for the CPU of `arch`."""
        return self.kind != "llvm"


@dataclass(frozen=True)
class Board:
    """Where code for a target runs: the `[board]` table of its TOML. Paths and names are the board's."""

    runners: tuple[str, ...]  # what can measure on it today: local, docker; empty when nothing can
    threads: int
    host: str = ""  # of its container engine, as in DOCKER_HOST: ssh://hikey; empty is this machine
    cpu_set: str = ""  # as in taskset: "0-3,6"; empty is every CPU that the process may use
    devices: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    container_runtime: str = ""


@dataclass(frozen=True)
class Image:
    """The container image of a target: the `[image]` table of its TOML."""

    dockerfile: str  # relative to the repository's root
    base: str  # pinned by digest
    platform: str  # linux/amd64 | linux/arm64
    stand_in: str = "bookworm"  # the Debian release that takes the base's place where that cannot be pulled
    id: str = ""  # of the one image that may be used, sha256:...; empty is whatever this version builds


@dataclass(frozen=True)
class System:
    """What programs in an image find: the `[system]` table of its TOML. Versions as in 2.31; empty: unknown.

    shows: "file: text" each, what a file of the board contains when it is set up as it should be.
    """

    release: str = ""
    processor: str = ""  # what its kernel must call it, or a part of that
    glibc: str = ""  # the newest symbols of the C library that a program may need there
    glibcxx: str = ""  # and of libstdc++
    cuda: str = ""
    shows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bounds:
    """Within what a measurement counts: the `[bounds]` table of its TOML. 0 and "" are no bound.

    Clocks, governor and other_percent are those of the CPUs of the CPU set.
    """

    governor: str = ""
    least_mhz: int = 0
    most_celsius: int = 0
    most_other_percent: int = 0  # of the CPUs' time, what other processes may have had
    least_free_mib: int = 0


NO_BOUNDS = Bounds()


@dataclass(frozen=True)
class Gpu:
    """Which GPU of a board a network runs on, and how: the `[gpu]` table of its TOML.

    device: a text in its name, or in its OpenCL platform's; empty takes the first GPU there is. timer: wall,
    from an idle GPU to an idle GPU; or events, as the driver's events time it: of OpenCL the sum of the
    kernels, of CUDA from the first to the last, with the gaps in between.
    """

    device: str = ""
    timer: str = "wall"


NO_GPU = Gpu()


@dataclass(frozen=True)
class Target:
    """One device, all facts: a file of `targets/`, or a user's own TOML."""

    name: str
    aliases: tuple[str, ...]
    description: str
    protocol_id: str  # row of the paper's set-up, empty for a user's own board
    compiler: Compiler
    board: Board
    image: Image | None
    system: System = System()
    bounds: Bounds = NO_BOUNDS
    gpu: Gpu = NO_GPU
    detected: str = ""  # what was found out on this host, in words; empty when all was written down

    @property
    def image_tag(self) -> str:
        return f"dlas/{self.name}"

    @property
    def processor(self) -> str:
        """What a network runs on: cpu, opencl or cuda."""
        return self.compiler.kind if self.compiler.is_gpu else "cpu"

    @property
    def compiles_kernels(self) -> bool:
        """Whether the device itself compiles a network's kernels, from their source, and may keep them."""
        return self.processor == "opencl"

    @property
    def packages(self) -> tuple[str, ...]:
        """Of Python: those that make an artifact, with our code."""
        return (*PACKAGES, *CUDA_PACKAGES) if self.processor == "cuda" else PACKAGES


@dataclass(frozen=True)
class Contents:
    """What is in an artifact, and what it must compute: facts of a network that is about to be compiled.

    oracle: float32, the output for the network's input of whom oracle_name names; float32: PyTorch's. The
    others are as in `Artifact`.
    """

    weights: Weights
    level_fraction: float
    oracle_name: str
    oracle: np.ndarray
    float32: np.ndarray
    calibration: str
    stage_seconds: Mapping[str, float]


@dataclass(frozen=True)
class Artifact:
    """A compiled network in its own folder: `model.so`, `manifest.json`, and the arrays of the methods below.

    ops_* count convolutions, ops_integer those that sum integers, ops_sparse those computed from CSR,
    ops_tuned those with a choice of a search. kernels are the symbols of the compiled functions, in call
    order. weights and weights_sha256 are origin and file of the parameters inside, as in `Weights`.
    level_fraction: as in `Compression`. weight_sparsity_fraction: the share of the convolutions' weights in
    it that is zero, mac_sparsity_fraction: of their multiply-adds, those with such a weight; only sparse
    kernels leave them out. weight_bytes: of all constants in it; dense_weight_bytes: if each of the network's
    parameters were a float32. arithmetic: what it computes with, in words, and layout how its activations
    lie. oracle_name: whose the oracle is. calibration: on what it was quantized, in words, else empty.
    stage_seconds: what making it took, by stage.
    """

    path: Path
    key: str  # hash of all that it was made from
    sha256: str  # of model.so
    data_sha256: str  # of input.npy and oracle.npy
    output_shape: tuple[int, ...]
    weights: str
    weights_sha256: str
    ops_total: int
    ops_as_asked: int
    ops_depthwise: int
    ops_integer: int
    ops_sparse: int
    fallbacks: tuple[str, ...]
    kernels: tuple[str, ...]
    level_fraction: float
    weight_sparsity_fraction: float
    mac_sparsity_fraction: float
    weight_bytes: int
    dense_weight_bytes: int
    arithmetic: str
    layout: str
    oracle_name: str
    calibration: str
    versions: Mapping[str, str]
    stage_seconds: Mapping[str, float]
    ops_tuned: int = 0

    @property
    def module(self) -> Path:
        return self.path / "model.so"

    def input(self) -> np.ndarray:
        """float32, the shape of the model's input."""
        return self._array("input")

    def oracle(self) -> np.ndarray:
        """What it must compute for `input()`: PyTorch's output, or ONNX Runtime's of a quantized network."""
        return self._array("oracle")

    def float32(self) -> np.ndarray:
        """PyTorch's output for `input()`, of the network as it was before its numbers were made smaller."""
        return self._array("float32")

    def _array(self, name: str) -> np.ndarray:
        import numpy as np

        array: np.ndarray = np.load(self.path / f"{name}.npy", allow_pickle=False)
        return array


@dataclass(frozen=True)
class Job:
    """What a device is asked to do: run `module` on each of `inputs`, then time it on the last of them.

    inputs: float32 (count, *shape), shape being that of the network's input; sent one at a time, so
    that a memory-mapped array of any length will do. output_shape is that of one run and bounds
    what is read back. repeats and warmups may both be 0: then nothing is timed. observe are files
    of the device whose contents are wanted before and after. flush_bytes are written elsewhere before
    each sample, so that what the network reads comes from memory.
    """

    module: Path
    inputs: np.ndarray
    output_shape: tuple[int, ...]
    threads: int
    repeats: int = REPEATS
    warmups: int = WARMUPS
    observe: tuple[str, ...] = ()
    timeout_s: float = 600.0
    flush_bytes: int = 0


@dataclass(frozen=True)
class JobResult:
    """What came back from a device, checked for form but not for truth.

    outputs: float32 (count, *output_shape), in the order of the inputs. output_stable says whether
    one more run on the last input, after the last sample, gave the same bytes as the first on it.
    samples_ns, warmup_ns: one per run, in order; the first warm-up is the very first run.
    before and after map each observed file that exists to its contents. run_seconds: from the
    module's arrival to the answer; ship_seconds: all the rest but the wait for the device's lock,
    so starting the runner, sending the module, reading the answer. gpu: platform, device and driver of
    what it ran on, empty for a CPU.
    """

    outputs: np.ndarray
    output_stable: bool
    warmup_ns: tuple[int, ...]
    samples_ns: tuple[int, ...]
    threads: int
    cpu_set: str
    peak_rss_bytes: int
    before: Mapping[str, str]
    after: Mapping[str, str]
    run_seconds: float
    ship_seconds: float
    log: str = ""
    gpu: str = ""


@dataclass(frozen=True)
class ContainerImage:
    """A container image that an engine has; its id is empty for jobs that run in none.

    base: what it is built on. stand_in: whether that is not the target's own base. runner: the key of the
    runner inside. platform: as in `Image`.
    """

    id: str = ""
    base: str = ""
    stand_in: bool = False
    runner: str = ""
    platform: str = ""
    size_bytes: int = 0


NO_IMAGE = ContainerImage()


@dataclass(frozen=True)
class DeviceFacts:
    """Who a device is. fingerprint is one for all runners of a machine, and differs between machines."""

    fingerprint: str
    cpu_model: str
    files: Mapping[str, str] = field(default_factory=dict)


class Session(Protocol):
    """A runner that is kept for one job after another, all from one thread: it ends with that thread."""

    def run(self, job: Job) -> JobResult:
        """Raises DeviceError for what this job broke, DeviceBusyError, StorageError, or EngineError, which
        is DeviceLostError when the device is gone. The next run works again, when it is back.
        """


class Device(Protocol):
    """A device that runs one job at a time; its lock is held only while a job runs."""

    @property
    def target(self) -> Target:
        """What it runs as: an emulated one has not all that the target's board has."""

    @property
    def runner(self) -> str:
        """local or docker."""

    @property
    def emulated(self) -> bool:
        """Whether another kind of processor imitates the target's: then times mean nothing."""

    @property
    def image(self) -> ContainerImage:
        """What its jobs run in."""

    def probe(self) -> DeviceFacts: ...

    def run(self, job: Job) -> JobResult:
        """Raises DeviceError, DeviceBusyError or EngineError."""

    def session(self, timeout_s: float) -> AbstractContextManager[Session]:
        """One runner for many jobs, started with the first: each may take timeout_s, whatever its own says.

        The lock is held only while one runs.
        """


@dataclass(frozen=True)
class Samples:
    """One measurement of an artifact, after its output was compared with the oracle.

    float32_error_over_scale: how far it is from what the network computes in float32.
    """

    status: str  # measured | wrong_output | emulated | quarantined
    reason: str
    max_error_over_scale: float
    float32_error_over_scale: float
    result: JobResult


@dataclass(frozen=True)
class Evaluation:
    """What accuracy is taken on, and what the network that is the oracle makes of it.

    images: float32 (n, C, H, W), memory-mapped. labels: int64 (n,). logits: float32 (n, classes),
    those of the network in PyTorch, or of the quantized one in ONNX Runtime, which took `seconds`.
    dataset_sha256 is `Data.sha256`.
    """

    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    dataset_sha256: str
    seconds: float


@dataclass(frozen=True)
class Accuracy:
    """How often an artifact is right, on the device. Fractions are of n images.

    top5_fraction is None where there are too few classes for it to tell anything. predictions_sha256 hashes
    the predicted classes (int64, little-endian). misclassified: int64, the indices of the images that it gets
    wrong, so that two artifacts can be compared image by image. reference_top1_fraction is the oracle's on
    the same images; differing counts images on which the artifact predicts another class than the oracle.
    status, reason and max_error_over_scale (of all outputs) are as in `Samples`, the seconds as in
    `JobResult`.
    """

    status: str  # measured | wrong_output
    reason: str
    max_error_over_scale: float
    top1_fraction: float
    top5_fraction: float | None
    n: int
    predictions_sha256: str
    misclassified: np.ndarray
    reference_top1_fraction: float
    differing: int
    run_seconds: float
    ship_seconds: float


@dataclass(frozen=True)
class Row:
    """One line of the results, and the schema of their Parquet: the field's type is the column's.

    Times are nanoseconds, sizes bytes. A row that was not measured has empty lists and None. level_fraction:
    what compression became, 0 for dense. oracle: pytorch or onnxruntime, whose outputs are compared with, and
    whose predictions the reference_ and predictions_ columns speak of. accuracy_reason: why there is no
    accuracy. misclassified: indices of the images that the artifact got wrong. commit: of dlas, with `-dirty`
    behind it where sources were changed since; empty outside git. gpu: as in `JobResult`; timer: as in `Gpu`,
    wall on a CPU. stage_seconds: what each stage took, also where its outcome was cached. Of a tuned cell:
    tuning_trials and tuning_seconds are those of the searches that its choices come from, however old;
    tuning_sha256 is of the choices, tuned_fraction the share of its convolutions that has one.
    """

    schema_version: int
    cell: str
    sweep: str
    dataset: str
    model: str
    compression: str
    level_fraction: float | None
    weight_sparsity_fraction: float | None
    mac_sparsity_fraction: float | None
    weight_bytes: int | None
    dense_weight_bytes: int | None
    precision: str
    arithmetic: str
    format: str
    layout: str
    algorithm: str
    tuning: str
    tuning_trials: int
    tuning_seconds: float
    tuning_sha256: str
    tuned_fraction: float | None
    target: str
    runner: str
    device: str
    device_model: str
    replicate: int
    emulated: bool
    status: str
    reason: str
    publishable: bool
    repeats: int
    samples_ns: list[int]
    warmup_ns: list[int]
    max_error_over_scale: float | None
    float32_error_over_scale: float | None
    oracle: str
    top1_fraction: float | None
    top5_fraction: float | None
    top1_n: int | None
    reference_top1_fraction: float | None
    predictions_differing: int | None
    predictions_sha256: str
    misclassified: list[int]
    accuracy_reason: str
    trained: bool | None
    weights: str
    weights_sha256: str
    recipe: str
    finetuning: str
    calibration: str
    dataset_sha256: str
    artifact_sha256: str
    image_id: str
    image_base: str
    stand_in: bool
    gpu: str
    timer: str
    threads: int
    cpu_set: str
    ops_total: int | None
    ops_as_asked: int | None
    ops_depthwise: int | None
    ops_integer: int | None
    ops_sparse: int | None
    fallbacks: list[str]
    kernels: list[str]
    versions: dict[str, str]
    environment_before: dict[str, str]
    environment_after: dict[str, str]
    started_at: datetime
    stage_seconds: dict[str, float]
    peak_rss_bytes: int | None
    inputs_key: str
    commit: str
    log: str
