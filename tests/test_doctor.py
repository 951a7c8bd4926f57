"""What the doctor says of a device that is not as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from dlas import doctor
from dlas.errors import DeviceBusyError, DeviceError, EngineError
from dlas.hardware import reach, targets
from dlas.hardware.device import DockerDevice
from dlas.hardware.reach import Access
from dlas.values import ContainerImage, DeviceFacts, Target
from tests.hardware.fakes import SSH_FAILED, FakeDocker, image, info

XAVIER = targets.load("xavier")
BASE = XAVIER.image.base if XAVIER.image else ""
CPU = "/sys/devices/system/cpu"
READY = {
    f"{CPU}/online": "0-7\n",
    **{f"{CPU}/cpu{n}/cpufreq/scaling_cur_freq": "2265600\n" for n in range(8)},
    **{f"{CPU}/cpu{n}/cpufreq/scaling_governor": "schedutil\n" for n in range(8)},
    "/sys/class/thermal/thermal_zone0/temp": "41500\n",
    "/proc/meminfo": "MemAvailable:  30000000 kB\n",
    "/etc/nv_tegra_release": "# R35 (release), REVISION: 2.1, GCID: 32413640, BOARD: t186ref\n",
    "/var/lib/nvpmodel/status": "pmode:0000",
}


@dataclass(frozen=True)
class Patient(DockerDevice):
    """A board whose files are these."""

    files: dict[str, str] = field(default_factory=dict)
    is_busy: bool = False

    def probe(self) -> DeviceFacts:
        return DeviceFacts("f", "Carmel")

    def observe(self, patterns: Sequence[str], lock: str = "", mounts: Sequence[str] = ()) -> dict[str, str]:
        if lock and self.is_busy:
            raise DeviceBusyError("the device is busy", "")
        if missing := [path for path in mounts if path not in self.files]:
            raise EngineError(f"the container did not start: bind source path does not exist: {missing[0]}")
        return self.files


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    monkeypatch.setattr(reach, "interface_key", lambda target: "f00")
    fake = FakeDocker(tmp_path, monkeypatch)
    fake.answer("info", info(Runtimes={"nvidia": {}, "runc": {}, "io.containerd.runc.v2": {}}))
    fake.answer("image inspect", image("f00", base=BASE))
    fake.answer("container ls", "")
    return fake


def examine(
    monkeypatch: pytest.MonkeyPatch,
    root: Path,
    files: dict[str, str] = READY,
    *,
    busy: bool = False,
    target: Target = XAVIER,
) -> tuple[list[str], str]:
    """The lines that are said, and the error at the end."""

    def in_containers(target: Target, access: Access, engine: object, *rest: object) -> Patient:
        found = reach.engine_of(target, access)
        return Patient(target, found, ContainerImage("i"), "n", root, files=files, is_busy=busy)

    monkeypatch.setattr(reach, "in_containers", in_containers)
    said: list[str] = []
    try:
        doctor.examine(target, Access(), root, said.append)
    except DeviceError as error:
        return said, str(error)
    return said, ""


def failed(lines: list[str]) -> list[str]:
    return [line.removeprefix("failed").strip() for line in lines if line.startswith("failed")]


def test_a_board_that_is_ready(docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, error = examine(monkeypatch, tmp_path)
    assert error == ""
    assert lines == [
        "ok      engine        Docker 27.0 at ssh://xavier, aarch64",
        "ok      run time      the engine has nvidia",
        f"ok      image         dlas/xavier_cuda sha256:abababababab on {BASE}",
        "ok      start         the runner starts; the processor is Carmel",
        "ok      lock          no job is running",
        "ok      CPU set       0-7",
        "ok      bounds        2265 to 2265 MHz, schedutil, 42 degrees Celsius, 29296 MiB free",
        "ok      system        /etc/nv_tegra_release: # R35",
        "ok      system        /var/lib/nvpmodel/status: pmode:0000",
    ]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {f"{CPU}/cpu3/cpufreq/scaling_cur_freq": "1190400"},
            "bounds        CPU 3 at 1190 MHz, below 2265 MHz; let it cool, and hold its clocks",
        ),
        (
            {"/sys/class/thermal/thermal_zone0/temp": "91000"},
            "bounds        91 degrees Celsius, above 85; let it cool, or give it a fan",
        ),
        (
            {"/proc/meminfo": "MemAvailable: 1024 kB\n"},
            "bounds        1 MiB of memory free, below 1024 MiB; stop what else runs there",
        ),
        ({f"{CPU}/online": "0-3"}, "CPU set       CPUs 4, 5, 6, 7 are offline; bring them online"),
        (
            {"/var/lib/nvpmodel/status": "pmode:0002"},
            "system        /var/lib/nvpmodel/status has no 'pmode:0000', but 'pmode:0002'",
        ),
    ],
    ids=["throttled", "hot", "full", "offline", "power mode"],
)
def test_what_is_not_right_has_its_figure_and_a_remedy(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], line: str
) -> None:
    lines, error = examine(monkeypatch, tmp_path, READY | changes)
    [found] = failed(lines)
    assert found.startswith(line)
    assert error.startswith("xavier_cuda: 1 of 9 checks failed; see the lines above")


def test_a_file_that_is_not_there_is_named(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path: text for path, text in READY.items() if "nv_tegra" not in path}
    [found] = failed(examine(monkeypatch, tmp_path, files)[0])
    assert found.startswith("system        /etc/nv_tegra_release: the container did not start: ")


def test_a_wrong_governor_is_named_with_what_sets_it(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = replace(XAVIER, bounds=replace(XAVIER.bounds, governor="performance"))
    found = failed(examine(monkeypatch, tmp_path, target=strict)[0])
    assert len(found) == 8
    assert found[0].startswith(
        "bounds        governor of CPU 0 is schedutil, not performance; as root there: "
    )


def test_another_processor_is_named(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(XAVIER, system=replace(XAVIER.system, processor="Cortex-A73"))
    [found] = failed(examine(monkeypatch, tmp_path, target=other)[0])
    assert found == "start         the processor is Carmel, and not Cortex-A73; see the target"


def test_a_job_that_runs_is_named(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.answer("container ls", "dlas-xavier_cuda-12345678\n")
    found = failed(examine(monkeypatch, tmp_path, busy=True)[0])
    assert found == ["lock          the device is busy (dlas-xavier_cuda-12345678); wait for it"]


def test_what_a_killed_client_left_is_named(
    docker: FakeDocker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.answer("container ls", "dlas-xavier_cuda-12345678\n")
    [found] = failed(examine(monkeypatch, tmp_path)[0])
    assert found.endswith("if nobody runs jobs: docker --host ssh://xavier rm -f dlas-xavier_cuda-12345678")


@pytest.mark.parametrize(
    ("start", "answer", "line"),
    [
        (
            "info",
            {"err": SSH_FAILED, "code": 1},
            "engine        no Docker engine answers: ssh://xavier: ssh: connect",
        ),
        (
            "info",
            {"out": info("x86_64")},
            "engine        xavier_cuda: ssh://xavier is x86_64, the target is aarch64",
        ),
        (
            "image inspect",
            {"out": image("old", base=BASE)},
            "image         the image holds another runner than this version's; run inv build --target xavier",
        ),
        (
            "info",
            {"out": info()},
            "run time      the engine has no nvidia, but runc; install it on the board",
        ),
    ],
)
def test_what_all_else_rests_on_comes_first(
    docker: FakeDocker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    answer: dict[str, object],
    line: str,
) -> None:
    docker.answer(start, **answer)  # type: ignore[arg-type]
    found = failed(examine(monkeypatch, tmp_path)[0])
    assert found[0].startswith(line)
