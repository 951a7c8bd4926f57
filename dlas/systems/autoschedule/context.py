"""MetaSchedule's context of a search, without what takes half a minute to import."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import _ffi_api
from tvm.s_tir.meta_schedule.logging import get_logger, get_logging_func
from tvm.s_tir.meta_schedule.search_strategy import SearchStrategy
from tvm.s_tir.meta_schedule.space_generator import SpaceGenerator


class Context(ms.TuneContext):  # type: ignore[misc]  # of a package without types
    """A TuneContext of one function; its own constructor imports TVM's tensor intrinsics, which take long."""

    def __init__(
        self,
        func: tirx.PrimFunc,
        target: tvm.target.Target,
        space: SpaceGenerator,
        strategy: SearchStrategy,
        seed: int,
    ) -> None:
        self.__init_handle_by_constructor__(
            _ffi_api.TuneContext,
            to_module(func),
            target,
            space,
            strategy,
            "main",
            1,
            seed,
            get_logging_func(get_logger(__name__)),
        )
        _ffi_api.TuneContextInitialize(self)


def to_module(func: tirx.PrimFunc) -> tvm.IRModule:
    """The function as `main`."""
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
