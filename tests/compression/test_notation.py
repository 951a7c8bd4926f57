"""Names of compressions, and what they ask for."""

from __future__ import annotations

import pytest

from dlas.compression import notation
from dlas.errors import UsageError
from dlas.values import Compression

NAMES = {
    "dense": Compression("dense", 0.0, False),
    "weight90": Compression("weight", 0.9, False),
    "weight01": Compression("weight", 0.01, False),
    "weight@elbow": Compression("weight", None, False),
    "uniform05": Compression("uniform", 0.05, False),
    "channel40": Compression("channel", 0.4, False),
    "channel29_shrunk": Compression("channel", 0.29, True),
    "channel@elbow_shrunk": Compression("channel", None, True),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_are_read_and_written(name: str) -> None:
    assert notation.parse(name) == NAMES[name]
    assert notation.write(NAMES[name]) == name


def test_every_whole_per_cent_has_one_name() -> None:
    for percent in range(1, 100):
        assert (
            notation.parse(notation.write(Compression("weight", percent / 100))).level_fraction
            == percent / 100
        )


@pytest.mark.parametrize(
    ("name", "next_step"),
    [
        ("weight9", "did you mean weight09?"),
        ("weigth90", "did you mean weight90?"),
        ("weight90_shrunk", "did you mean weight90?"),
        ("channel_40", "did you mean channel40?"),
        ("uniforn90", "did you mean uniform90?"),
        ("uniform90_shrunk", "did you mean uniform90?"),
        ("channel@elbow_shrink", "did you mean channel@elbow_shrunk?"),
        ("Dense", "did you mean dense?"),
        ("weight00", "write one of them"),
        ("weight100", "write one of them"),
        ("weight\u0669\u0660", "write one of them"),
        ("weight90\n", "did you mean weight90?"),
        ("none", "write one of them"),
    ],
)
def test_other_names_are_refused_with_the_closest(name: str, next_step: str) -> None:
    with pytest.raises(UsageError) as caught:
        notation.parse(name)
    assert str(caught.value) == f"unknown compression {name!r}, allowed: {notation.RULE}; {next_step}"


def test_uniform_pruning_has_no_elbow() -> None:
    with pytest.raises(UsageError, match="'uniform@elbow': uniform pruning has no elbow; write weight@elbow"):
        notation.parse("uniform@elbow")


@pytest.mark.parametrize(
    ("compression", "message"),
    [
        (Compression("weight", 0.995), "level 0.995 is no whole per cent; give one, as in 0.9"),
        (Compression("weight", 0.001), "level 0.001 is no whole per cent; give one, as in 0.9"),
        (Compression("weight", 0.0), "level 0.0 is not between 0 and 1; give a share, as in 0.9"),
        (Compression("weight", float("nan")), "level nan is not between 0 and 1; give a share, as in 0.9"),
        (Compression("weight", 0.9, shrunk=True), "unknown compression 'weight90_shrunk', .*"),
        (Compression("knife", 0.9), "unknown compression 'knife90', .*"),
    ],
)
def test_what_has_no_name(compression: Compression, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        notation.write(compression)
