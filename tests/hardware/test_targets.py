from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlas.errors import TargetError
from dlas.hardware import targets
from dlas.hardware.cpu import Cpu
from dlas.values import NO_BOUNDS, Board, Bounds, Compiler, Gpu, System

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("hikey970_neon", "hikey970_opencl", "opencl_pocl", "x86_avx", "xavier_cuda", "xavier_neon")
DIGEST = "0123456789abcdef" * 4

BOARD = f"""
description = "a board on a desk"
aliases = ["desk"]
protocol_id = ""

[compiler]
kind = "llvm"
arch = "aarch64"
mtriple = "aarch64-linux-gnu"
mcpu = "cortex-a72"
mattr = ["+neon"]
vector_lanes = 4
vector_registers = 32
l2_bytes = 262144
cxx = "aarch64-linux-gnu-g++"

[board]
runners = ["local", "docker"]
threads = 4

[image]
dockerfile = "docker/runner/Dockerfile"
base = "debian:bookworm-slim@sha256:{DIGEST}"
platform = "linux/arm64"
"""

WORKSTATION = BOARD.replace("aarch64", "x86_64").replace("linux/arm64", "linux/amd64")


def host(**changes: object) -> Cpu:
    values = {
        "vectors": "AVX2",
        "mcpu": "x86-64-v3",
        "mattr": ("+avxvnni",),
        "vector_lanes": 8,
        "vector_registers": 16,
        "l2_bytes": 512 * 1024,
        "l2_read": True,
        "cores": (0, 2, 4),
        "cores_read": True,
        "threads": 3,
    }
    return Cpu(**(values | changes))  # type: ignore[arg-type]


def no_detection() -> Cpu:
    raise AssertionError("looked at the CPU, though the file leaves nothing to detect")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    path = tmp_path / "desk_board.toml"
    path.write_text(BOARD)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped targets with two boards in it."""
    path = tmp_path / "targets"
    path.mkdir()
    (path / "one.toml").write_text(BOARD.replace('["desk"]', '["first", "desk"]'))
    (path / "two.toml").write_text(BOARD.replace('["desk"]', "[]"))
    monkeypatch.setattr(targets, "FOLDER", path)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_targets_are_whole(name: str) -> None:
    target = targets.load(name, detect=host)
    assert target.name == name
    assert target.image_tag == f"dlas/{name}"
    if target.image:
        assert (ROOT / target.image.dockerfile).is_file()


def test_shipped_targets_are_the_papers_devices() -> None:
    assert tuple(target.name for target in targets.known()) == SHIPPED
    assert sorted(target.protocol_id for target in targets.known()) == ["", "", "H1", "H2", "H3", "H4"]


def test_hikey_is_the_papers() -> None:
    target = targets.load("hikey970_neon", detect=no_detection)
    assert target.compiler == Compiler(
        kind="llvm",
        arch="aarch64",
        mtriple="aarch64-linux-gnu",
        mcpu="cortex-a73",
        mattr=("+neon",),
        vector_lanes=4,
        vector_registers=32,
        l2_bytes=512 * 1024,
        cxx="aarch64-linux-gnu-g++",
        int8_activations="int8",
    )
    assert target.board == Board(runners=("docker",), threads=4, host="ssh://hikey", cpu_set="4-7")
    assert target.bounds == Bounds("performance", 2300, 85, 5, 512)
    assert target.detected == ""


def test_integers_are_unsigned_where_a_board_does_not_say(board: Path) -> None:
    assert targets.load(str(board)).compiler.int8_activations == "uint8"
    assert targets.load("x86_avx", detect=host).compiler.int8_activations == "uint8"


def test_gpus_tell_what_their_containers_need() -> None:
    mali, xavier = targets.load("hikey970_opencl"), targets.load("xavier_cuda")
    assert mali.compiler.kind == "opencl"
    assert mali.board.devices == ("/dev/mali0",)
    assert any("libOpenCL" in mount for mount in mali.board.mounts)
    assert (xavier.compiler.kind, xavier.compiler.gpu_arch) == ("cuda", "sm_72")
    assert xavier.board.container_runtime == "nvidia"
    assert mali.board.runners == xavier.board.runners == ("docker",)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("x86", "x86_avx"), ("host", "x86_avx"), ("hikey", "hikey970_neon"), ("xavier", "xavier_cuda")],
)
def test_aliases(alias: str, name: str) -> None:
    assert targets.load(alias, detect=host).name == name


def test_detected_values_are_used_and_told() -> None:
    target = targets.load("x86_avx", detect=host)
    assert target.compiler.mcpu == "x86-64-v3"
    assert target.compiler.mattr == ("+avxvnni",)
    assert (target.compiler.vector_lanes, target.compiler.vector_registers) == (8, 16)
    assert target.compiler.l2_bytes == 512 * 1024
    assert (target.board.threads, target.board.cpu_set) == (3, "0,2,4")
    assert target.detected == "AVX2 (8 lanes), 3 physical cores, 512 KiB L2"


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            host(vectors="AVX-512", vector_lanes=16, l2_bytes=2**20, cores=(0, 1), threads=2),
            "AVX-512 (16 lanes), 2 physical cores, 1 MiB L2",
        ),
        (host(cores=(3,), threads=1), "AVX2 (8 lanes), 1 physical core, 512 KiB L2"),
        (host(threads=1), "AVX2 (8 lanes), 3 physical cores (a CPU limit leaves 1), 512 KiB L2"),
        (host(cores_read=False, l2_read=False), "AVX2 (8 lanes), 3 CPUs, L2 not readable, 512 KiB assumed"),
    ],
)
def test_words_of_detection(found: Cpu, words: str) -> None:
    assert targets.load("x86", detect=lambda: found).detected == words


def test_written_values_stay_beside_detected_ones(tmp_path: Path) -> None:
    path = tmp_path / "workstation.toml"
    path.write_text(WORKSTATION.replace("threads = 4", 'threads = "detect"'))
    target = targets.load(str(path), detect=host)
    assert (target.board.threads, target.compiler.vector_lanes) == (3, 4)
    assert target.detected == "3 physical cores"


def test_known_survives_a_machine_that_cannot_be_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Cpu:
        raise TargetError("this machine's CPU lacks avx2", "write the values")

    monkeypatch.setattr("dlas.hardware.cpu.detect", fail)
    target = next(target for target in targets.known() if target.name == "x86_avx")
    assert target.board.runners == ()
    assert target.detected == "cannot be used here: this machine's CPU lacks avx2"


def test_a_board_of_ones_own(board: Path) -> None:
    target = targets.load(str(board), detect=no_detection)
    assert (target.name, target.aliases, target.board.threads) == ("desk_board", ("desk",), 4)
    assert target.board == Board(runners=("local", "docker"), threads=4)


def test_image_is_optional(board: Path) -> None:
    text = BOARD.partition("[image]")[0].replace('["local", "docker"]', '["local"]')
    board.write_text(text)
    assert targets.load(str(board)).image is None


@pytest.mark.parametrize("name", SHIPPED)
def test_a_copy_of_a_shipped_target_is_a_start(tmp_path: Path, name: str) -> None:
    text = (ROOT / "targets" / f"{name}.toml").read_text()
    path = tmp_path / "my_board.toml"
    path.write_text(re.sub("^aliases = .*$", "aliases = []", text, flags=re.MULTILINE))
    copy, original = targets.load(str(path), detect=host), targets.load(name, detect=host)
    assert copy.name == "my_board"
    assert (copy.compiler, copy.board, copy.image) == (original.compiler, original.board, original.image)


def test_a_shipped_target_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert targets.load("targets/hikey970_neon.toml") == targets.load("hikey")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'kind = "llvm"',
            'kind = "lvm"',
            "[compiler] kind is 'lvm', allowed: llvm, opencl, cuda; correct the file",
        ),
        (
            'arch = "aarch64"',
            'arch = "arm64"',
            "[compiler] arch is 'arm64', allowed: x86_64, aarch64; correct the file",
        ),
        (
            "vector_lanes = 4",
            'vector_lanes = 4\nint8_activations = "int4"',
            "[compiler] int8_activations is 'int4', allowed: uint8, int8; correct the file",
        ),
        (
            "vector_lanes = 4",
            "vector_lane = 4",
            "[compiler] unknown key 'vector_lane', allowed: kind, arch, mtriple, mcpu, mattr, vector_lanes, "
            "vector_registers, l2_bytes, cxx, gpu_arch, int8_activations; did you mean vector_lanes?",
        ),
        (
            "threads = 4",
            "",
            "[board] threads is missing, the keys are runners, threads, host, cpu_set, devices, mounts, "
            "groups, container_runtime; add it",
        ),
        (
            'protocol_id = ""',
            "",
            "protocol_id is missing, the keys are description, aliases, protocol_id, compiler, board, image, "
            "system, bounds, gpu; add it",
        ),
        (
            'protocol_id = ""',
            'protocol = ""',
            "unknown key 'protocol', allowed: description, aliases, protocol_id, compiler, board, image, "
            "system, bounds, gpu; did you mean protocol_id?",
        ),
        ("threads = 4", "threads = 0", "[board] threads is 0, allowed: 1 and more; correct the file"),
        (
            "threads = 4",
            "threads = true",
            '[board] threads is True, allowed is a whole number or "detect"; correct the file',
        ),
        (
            "threads = 4",
            'threads = "all"',
            "[board] threads is 'all', allowed is a whole number or \"detect\"; correct the file",
        ),
        (
            'mattr = ["+neon"]',
            'mattr = "+neon"',
            "[compiler] mattr is '+neon', allowed is a list of strings or \"detect\"; correct the file",
        ),
        (
            'mattr = ["+neon"]',
            'mattr = ["neon"]',
            "[compiler] mattr is 'neon', allowed: an LLVM feature after + or -; correct the file",
        ),
        (
            'aliases = ["desk"]',
            "aliases = [1]",
            "aliases is [1], allowed is a list of strings; correct the file",
        ),
        (
            'aliases = ["desk"]',
            'aliases = ["My Desk"]',
            "aliases is 'My Desk', allowed: small letters, digits, underscores; correct the file",
        ),
        (
            'aliases = ["desk"]',
            'aliases = ["hikey"]',
            "'hikey' is already a name of targets/hikey970_neon.toml; choose another",
        ),
        (
            'runners = ["local", "docker"]',
            'runners = ["local", "ssh"]',
            "[board] runners is 'ssh', allowed: local, docker; correct the file",
        ),
        (
            "threads = 4",
            'threads = 4\ncpu_set = "four"',
            "[board] cpu_set is 'four', allowed: CPUs as in taskset, such as 0-3,6; correct the file",
        ),
        (
            "threads = 4",
            'threads = 4\nmounts = ["lib:/lib"]',
            "[board] mounts is 'lib:/lib', allowed: /host/path:/container/path, with :ro for read-only; "
            "correct the file",
        ),
        (
            "threads = 4",
            'threads = 4\ndevices = ["mali0"]',
            "[board] devices is 'mali0', allowed: an absolute path; correct the file",
        ),
        (
            f"@sha256:{DIGEST}",
            "",
            "[image] base is 'debian:bookworm-slim', allowed: an image by its digest, name@sha256:...; "
            "correct the file",
        ),
        (
            "vector_lanes = 4",
            "vector_lanes = 0",
            "[compiler] vector_lanes, vector_registers, l2_bytes are 0 on a GPU and 1 or more on a CPU; "
            "kind is llvm; correct the file",
        ),
        (
            'kind = "llvm"',
            'kind = "llvm"\ngpu_arch = "sm_72"',
            "[compiler] gpu_arch is needed for kind cuda, and only there; kind is llvm; correct the file",
        ),
        (
            'kind = "llvm"',
            'kind = "cuda"',
            "[compiler] gpu_arch is needed for kind cuda, and only there; kind is cuda; correct the file",
        ),
        (
            "threads = 4",
            'threads = "detect"',
            'threads: "detect" is only for kind llvm and arch x86_64; correct the file',
        ),
        (
            "linux/arm64",
            "linux/amd64",
            "[image] platform for arch aarch64 is linux/arm64; correct the file",
        ),
        (
            BOARD[BOARD.index("[image]") :],
            "",
            "[board] runners has docker, but there is no [image]; correct the file",
        ),
        (
            BOARD[BOARD.index("[board]") :],
            "",
            "board is missing, the keys are description, aliases, protocol_id, compiler, board, image, "
            "system, bounds, gpu; add it",
        ),
        (
            BOARD,
            'description = "x"\naliases = []\nprotocol_id = ""\ncompiler = 3\nboard = 4\n',
            "compiler is not a table; write it as [compiler]",
        ),
        (
            "threads = 4",
            "threads = ",
            "not TOML: Invalid value (at line 19, column 11); correct the file",
        ),
    ],
)
def test_malformed_files_are_refused_by_name(board: Path, old: str, new: str, message: str) -> None:
    assert old in BOARD
    board.write_text(BOARD.replace(old, new))
    with pytest.raises(TargetError) as caught:
        targets.load(str(board))
    assert str(caught.value) == f"{board}: {message}"


def test_a_file_that_is_no_text(board: Path) -> None:
    board.write_bytes(b"\xff\xfe")
    with pytest.raises(TargetError, match=r"desk_board\.toml: not TOML: 'utf-8' codec"):
        targets.load(str(board))


def test_a_name_of_the_file_that_cannot_be_a_target(board: Path) -> None:
    path = board.rename(board.with_name("My-Board.toml"))
    with pytest.raises(TargetError) as caught:
        targets.load(str(path))
    assert str(caught.value) == (
        f"{path}: names the target 'My-Board', allowed: small letters, digits, underscores; rename the file"
    )


def test_an_own_board_cannot_take_a_shipped_name(board: Path) -> None:
    path = board.rename(board.with_name("xavier_cuda.toml"))
    with pytest.raises(TargetError) as caught:
        targets.load(str(path))
    assert str(caught.value) == (
        f"{path}: 'xavier_cuda' is already a name of targets/xavier_cuda.toml; choose another"
    )


@pytest.mark.parametrize(
    ("name", "next_step"),
    [
        ("hikey970_noen", "did you mean hikey970_neon?"),
        ("xavir", "did you mean xavier?"),
        ("raspberry", "give one of them, or a path that ends in .toml"),
    ],
)
def test_unknown_names(name: str, next_step: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.load(name)
    assert str(caught.value) == (
        f"unknown target {name!r}, known are hikey, hikey970_neon, hikey970_opencl, host, opencl_pocl, "
        f"pocl, x86, x86_avx, xavier, xavier_cpu, xavier_cuda, xavier_neon; {next_step}"
    )


def test_a_path_to_nothing() -> None:
    with pytest.raises(TargetError) as caught:
        targets.load("boards/nothing.toml")
    assert (
        str(caught.value) == "boards/nothing.toml: no such file; give a target's name or the path of its file"
    )


def test_shipped_names_and_aliases_are_found(folder: Path) -> None:
    assert targets.load("first").name == targets.load("desk").name == targets.load("one").name == "one"
    assert targets.load("two").name == "two"


@pytest.mark.parametrize("alias", ["first", "one"])
def test_clashing_aliases_are_refused(folder: Path, alias: str) -> None:
    (folder / "two.toml").write_text(BOARD.replace('["desk"]', f'["{alias}"]'))
    with pytest.raises(TargetError) as caught:
        targets.load("one")
    assert str(caught.value) == (
        f"{folder / 'two.toml'}: {alias!r} is already a name of {folder / 'one.toml'}; choose another"
    )


def test_no_targets_name_is_in_the_code() -> None:
    names = re.compile("|".join(SHIPPED))
    sources = sorted((ROOT / "dlas").rglob("*.py"))
    assert len(sources) > 3
    assert [str(path) for path in sources if names.search(path.read_text())] == []


def test_a_board_says_which_gpu_it_means_and_how_it_is_timed(board: Path) -> None:
    text = re.sub(r"(vector_lanes|vector_registers|l2_bytes) = \d+", r"\1 = 0", BOARD)
    text = text.replace('"llvm"', '"opencl"')
    board.write_text(text)
    assert targets.load(str(board)).gpu == Gpu(device="", timer="wall")
    board.write_text(f'{text}\n[gpu]\ndevice = "Mali-G72"\ntimer = "events"\n')
    target = targets.load(str(board))
    assert target.gpu == Gpu("Mali-G72", "events")
    assert target.processor == "opencl"


def test_a_board_says_how_it_is_reached_what_is_on_it_and_when_it_counts(board: Path) -> None:
    bare = targets.load(str(board))
    assert (bare.board.host, bare.system, bare.bounds) == ("", System(), NO_BOUNDS)
    assert bare.image is not None
    assert (bare.image.stand_in, bare.image.id) == ("bookworm", "")
    text = BOARD.replace("threads = 4", 'threads = 4\nhost = "ssh://me@desk:2222"')
    board.write_text(
        f"""{text}
id = "sha256:{DIGEST}"
stand_in = "bullseye"
[system]
glibc = "2.31"
glibcxx = "3.4.28"
cuda = "11.4"
shows = ["/etc/nv_tegra_release: # R35"]
[bounds]
least_mhz = 1500
"""
    )
    target = targets.load(str(board))
    assert target.board.host == "ssh://me@desk:2222"
    assert target.image is not None
    assert (target.image.stand_in, target.image.id) == ("bullseye", f"sha256:{DIGEST}")
    assert target.system == System("", "", "2.31", "3.4.28", "11.4", ("/etc/nv_tegra_release: # R35",))
    assert target.bounds == Bounds(least_mhz=1500)


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("board", 'host = "desk"', "[board] host is 'desk', allowed: ssh://NAME, as in your ssh"),
        ("board", 'host = "tcp://desk:2375"', "[board] host is 'tcp://desk:2375', allowed: ssh://NAME"),
        ("image", 'id = "latest"', "[image] id is 'latest', allowed: an image id"),
        ("image", 'stand_in = "../x"', "[image] stand_in is '../x', allowed: the name of a Debian release"),
        ("system", 'glibc = "new"', "[system] glibc is 'new', allowed: a version such as 2.31"),
        ("system", 'shows = ["R35"]', "[system] shows is 'R35', allowed: /path/of/a/file: a text in it"),
        ("bounds", "least_mhz = -1", "[bounds] least_mhz is -1, allowed: 0 and more"),
        ("gpu", 'timer = "clock"', "[gpu] timer is 'clock', allowed: wall, events"),
        ("gpu", 'device = "a\\nb"', "[gpu] device is 'a\\nb', allowed: a text without a line break"),
        ("gpu", 'device = "Mali"', "[gpu] is only for a GPU; kind is llvm"),
        ("bounds", 'most_celsius = "hot"', "[bounds] most_celsius is 'hot', allowed is a whole number"),
    ],
)
def test_what_a_board_cannot_say_is_refused(board: Path, table: str, line: str, message: str) -> None:
    heading = f"[{table}]"
    known = BOARD if heading in BOARD else f"{BOARD}\n{heading}\n"
    board.write_text(known.replace(heading, f"{heading}\n{line}"))
    with pytest.raises(TargetError) as failure:
        targets.load(str(board))
    assert message in str(failure.value)
