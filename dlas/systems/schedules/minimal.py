"""The paper's untuned schedule (PROTOCOL S1): threads over the outer loop, the rest left to LLVM.

The computes are those of `scheduled`, packed filters and tiles included; the loops are left as they come.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx

from dlas.systems.schedules import conversions, roles
from dlas.values import Compiler

OUTER_AXES = 2


def schedule(func: tirx.PrimFunc, compiler: Compiler) -> tirx.PrimFunc:
    """Run the first two spatial axes of every block on threads."""
    sch = s_tir.Schedule(tvm.IRModule({"main": func}))
    conversions.inline(sch, kept=conversions.names(sch, roles.find(sch, *roles.CONVOLUTION_ROLES)))
    for block in roles.blocks(sch):
        outer = roles.spatial_loops(sch, block)[:OUTER_AXES]
        if outer:
            sch.parallel(sch.fuse(*outer))
    return sch.mod["main"]
