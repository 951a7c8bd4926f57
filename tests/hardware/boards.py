"""A board that is not there, and commands that are not what they seem."""

from __future__ import annotations

from pathlib import Path

from dlas.values import Board, Compiler, System, Target

CXX = "aarch64-linux-gnu-g++"
# As old as any that a runner is promised to start on.
OLD_SYSTEM = System(release="an old system", glibc="2.31", glibcxx="3.4.28")
BOARD = Target(
    name="test_board",
    aliases=(),
    description="a board of the tests",
    protocol_id="",
    compiler=Compiler("llvm", "aarch64", "aarch64-linux-gnu", "cortex-a73", ("+neon",), 4, 32, 1 << 19, CXX),
    board=Board(runners=(), threads=2),
    image=None,
    system=OLD_SYSTEM,
)


def write_command(path: Path, script: str) -> Path:
    """A command of the shell."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path
