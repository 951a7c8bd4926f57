"""What a network can do on a board that it is shipped to: nothing but compute."""

from __future__ import annotations

import errno
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dlas.errors import DeviceError
from dlas.hardware.commands import container_mib
from dlas.hardware.device import DockerDevice
from dlas.values import Job
from tests.integration.watching import is_there, running

pytestmark = [pytest.mark.docker, pytest.mark.board]

# Each line of it: what it tries, and the number of the error that came of it, 0 for none.
TRIES = r"""
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#define TRY(name, call) errno = 0, fprintf(stderr, "try " name " %d\n", (call) < 0 ? errno : 0)
static int call_home(void) {
  struct sockaddr_in away = {.sin_family = AF_INET, .sin_port = htons(53)};
  inet_pton(AF_INET, "192.0.2.1", &away.sin_addr);
  return connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&away, sizeof away);
}
static int fill(void) {
  static char chunk[1 << 20];
  int file = open("/job/full", O_CREAT | O_WRONLY, 0600), mib = 0;
  while (write(file, memset(chunk, 1, sizeof chunk), sizeof chunk) == sizeof chunk) ++mib;
  fprintf(stderr, "filled %d\n", mib);
  return unlink("/job/full");
}
__attribute__((constructor)) static void act(void) {
  TRY("nothing", 0);
  TRY("write_root", open("/x", O_CREAT | O_WRONLY, 0600));
  TRY("write_runner", open("/opt/dlas/runner", O_WRONLY));
  TRY("write_lock", open("/lock/x", O_CREAT | O_WRONLY, 0600));
  TRY("write_sysctl", open("/proc/sys/kernel/core_pattern", O_WRONLY));
  TRY("write_sysfs", open("/sys/power/state", O_WRONLY));
  TRY("read_shadow", open("/etc/shadow", O_RDONLY));
  TRY("read_memory", open("/proc/kcore", O_RDONLY));
  TRY("engine", open("/var/run/docker.sock", O_RDWR));
  TRY("connect", call_home());
  TRY("raw_socket", socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
  TRY("setuid", setuid(0));
  TRY("setgid", setgid(0));
  TRY("chroot", chroot("/job"));
  TRY("mount", mount("none", "/job", "tmpfs", 0, ""));
  TRY("user_namespace", unshare(CLONE_NEWUSER));
  TRY("hostname", sethostname("x", 1));
  TRY("device", mknod("/job/sda", S_IFBLK | 0600, 0x800));
  TRY("priority", nice(-5));
  fill();
  _exit(0);
}
"""
ALLOWED = {"nothing"}
OBSERVED = (
    "/proc/self/status",
    "/proc/net/*",
    "/proc/self/mounts",
    "/proc/self/environ",
    "/job/*",
    "/lock/*",
)


@pytest.fixture
def trying(job: Job, tmp_path: Path) -> Job:
    path = tmp_path / "tries.so"
    command = ["g++", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=TRIES.encode(), check=True)
    return replace(job, module=path)


def test_a_network_can_do_nothing_but_compute(remote: DockerDevice, trying: Job) -> None:
    with pytest.raises(DeviceError, match="the network ended the job's process") as failure:
        remote.run(trying)
    (log,) = failure.value.__notes__
    tries = {name: int(number) for name, number in re.findall(r"^try (\w+) (\d+)$", log, re.MULTILINE)}
    assert {name for name, number in tries.items() if number == 0} == ALLOWED
    assert len(tries) == TRIES.count('TRY("')
    assert tries["write_root"] == tries["write_lock"] == errno.EROFS
    assert tries["connect"] == errno.ENETUNREACH
    (filled,) = map(int, re.findall(r"filled (\d+)", log))
    assert 0 < filled <= container_mib(trying)[0]
    assert not is_there(remote.name)


BREED = """
int born = 0;
for (int child; (child = fork()) >= 0; ++born) if (child == 0) for (;;) pause();
fprintf(stderr, "born %d\\n", born);
_exit(0);
"""
BOMB = "for (;;) if (fork() < 0) usleep(1000);"


def test_a_network_has_few_processes_and_they_end_with_it(
    remote: DockerDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    breeding = replace(job, module=evil(BREED), timeout_s=10)
    with pytest.raises(DeviceError, match="the network ended the job's process") as failure:
        replace(remote, grace_s=5.0).run(breeding)
    (born,) = map(int, re.findall(r"born (\d+)", failure.value.__notes__[0]))
    assert 0 < born < 64
    assert not is_there(remote.name)


def test_a_fork_bomb_is_over_when_its_time_is(
    remote: DockerDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    with pytest.raises(DeviceError, match="the job took longer than it may"):
        replace(remote, grace_s=5.0).run(replace(job, module=evil(BOMB), timeout_s=1))
    assert not is_there(remote.name)
    assert remote.run(job).output_stable


def test_a_container_on_a_board_is_sealed(remote: DockerDevice, job: Job) -> None:
    seen = remote.run(replace(job, observe=OBSERVED)).after
    status = dict(line.split(":\t", 1) for line in seen["/proc/self/status"].splitlines() if ":\t" in line)
    assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
    assert {int(status[name], 16) for name in ("CapInh", "CapEff", "CapPrm", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert [line.split(":")[0].strip() for line in seen["/proc/net/dev"].splitlines()[2:]] == ["lo"]
    assert len(seen["/proc/net/tcp"].splitlines()) == len(seen["/proc/net/udp"].splitlines()) == 1
    mounts = {line.split()[1]: line.split()[3].split(",") for line in seen["/proc/self/mounts"].splitlines()}
    assert "ro" in mounts["/"]
    assert "ro" in mounts["/lock"]
    assert {"rw", "nosuid"} < set(mounts["/job"])
    assert not [path for path in seen if path.startswith(("/job/", "/lock/"))]
    names = {entry.split("=")[0] for entry in seen["/proc/self/environ"].split("\0") if entry}
    assert names <= {"PATH", "HOSTNAME", "HOME"}  # nothing of the shell's that started the sweep


def listeners() -> set[str]:
    """Addresses of this machine on which something waits for connections or packets."""
    command = ["ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    return {" ".join([*line.split()[:2], line.split()[4]]) for line in said.stdout.splitlines()}


def test_nothing_listens_because_a_job_runs(
    remote: DockerDevice, job: Job, evil: Callable[[str], Path]
) -> None:
    before = listeners()
    hanging = replace(job, module=evil("for (;;) pause();"), timeout_s=300)
    with running(remote, hanging):
        during = listeners()
        ports = remote.engine.ask("port", remote.name)
    assert during <= before
    assert ports == ""
