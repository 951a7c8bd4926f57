"""What is tuned, and what a search may choose: values that know nothing of TVM."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from typing import Any

from dlas.algorithms.convolution import Conv2d

_ID = re.compile(
    r"(?P<algorithm>\w+)/(?P<format>\w+)/(?P<x>[\dx]+)/(?P<filter>[\dx]+)"
    r"/s(?P<stride>[\dx]+)/p(?P<padding>[\dx]+)/d(?P<dilation>[\dx]+)/g(?P<groups>\d+)/z(?P<zeros>\d+)",
    re.ASCII,
)


@dataclass(frozen=True)
class Workload:
    """One convolution in one algorithm and format: what records are kept of.

    Layers that are alike share it, whatever networks they are of and whatever follows them: it is tuned with
    what mostly does, a bias and a ReLU. zero_percent: of the weights, rounded, for a sparse format; else 0.
    """

    conv: Conv2d
    algorithm: str
    format: str
    zero_percent: int = 0

    @property
    def id(self) -> str:
        """Its one printed name, which `parse` reads.

        >>> Workload(Conv2d(1, 64, 32, 32, 64, 3, 3, padding=(1, 1, 1, 1)), "direct", "dense").id
        'direct/dense/1x64x32x32/64x3x3/s1x1/p1x1x1x1/d1x1/g1/z0'
        """
        conv = self.conv
        return "/".join(
            (
                self.algorithm,
                self.format,
                _join(conv.N, conv.CI, conv.H, conv.W),
                _join(conv.CO, conv.KH, conv.KW),
                f"s{_join(*conv.stride)}",
                f"p{_join(*conv.padding)}",
                f"d{_join(*conv.dilation)}",
                f"g{conv.groups}",
                f"z{self.zero_percent}",
            )
        )


@dataclass(frozen=True)
class Choice:
    """One variant of a workload.

    sketch: which of the space's structures, by name and value, such as its tile. decisions: what MetaSchedule
    sampled within it, in the order of its trace.
    """

    sketch: tuple[tuple[str, int | str], ...]
    decisions: tuple[tuple[int, ...], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"sketch": dict(self.sketch), "decisions": [list(each) for each in self.decisions]}

    @staticmethod
    def from_json(raw: Any) -> Choice:
        """Raises ValueError, KeyError or TypeError for what is none."""
        sketch, decisions = raw["sketch"], raw["decisions"]
        if not all(isinstance(value, int | str) for value in sketch.values()):
            raise ValueError("a sketch holds numbers and words")
        return Choice(tuple(sketch.items()), tuple(tuple(int(n) for n in each) for each in decisions))


def parse(workload_id: str) -> Workload:
    """The workload of an id. Raises ValueError for what is none.

    >>> parse("direct/dense/1x64x32x32/64x3x3/s1x1/p1x1x1x1/d1x1/g1/z0").conv.CO
    64
    """
    match = _ID.fullmatch(workload_id)
    if match is None:
        raise ValueError(f"{workload_id!r} names no workload")
    sizes = (*_numbers(match["x"]), *_numbers(match["filter"]))
    extents: list[Any] = [_numbers(match[name]) for name in ("stride", "padding", "dilation")]
    try:
        conv = Conv2d(*sizes, *extents, groups=int(match["groups"]))  # type: ignore[misc,arg-type]
    except TypeError:
        raise ValueError(f"{workload_id!r} names no workload") from None
    workload = Workload(conv, match["algorithm"], match["format"], int(match["zeros"]))
    if workload.id != workload_id or not all(map(_is_positive, astuple(conv)[:7])):
        raise ValueError(f"{workload_id!r} names no workload")
    return workload


def _join(*numbers: int) -> str:
    return "x".join(map(str, numbers))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("x"))


def _is_positive(number: int) -> bool:
    return number > 0
