"""What can go wrong, one class per kind. Each has an exit code and carries its next step."""

from collections.abc import Iterable
from difflib import get_close_matches


class DlasError(Exception):
    """A failure that a user can act on: prints as one line, `cause; next step`.

    >>> print(UsageError("unknown sweep 'cifra'", "try cifar"))
    unknown sweep 'cifra'; try cifar
    """

    exit_code = 1

    def __init__(self, cause: str, next_step: str = "") -> None:
        super().__init__(cause, next_step)
        self.cause = cause
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.cause}; {self.next_step}" if self.next_step else self.cause


class UsageError(DlasError):
    """The command line or a file the user wrote does not say something that can be done."""

    exit_code = 2


class TargetError(UsageError):
    """A target is unknown, or its TOML is malformed."""


class SweepError(UsageError):
    """A sweep is unknown, its TOML is malformed, or it selects no cell."""


class ModelError(UsageError):
    """A model cannot be found, made or exported."""


class DataError(DlasError):
    """A dataset is not there, or is not what it should be."""

    exit_code = 9


class TrainingError(DlasError):
    """A network could not be trained: a recipe that diverges, a checkpoint that does not fit."""

    exit_code = 10


class BuildError(DlasError):
    """An artifact, the runner or an image could not be built."""

    exit_code = 3


class ScheduleError(BuildError):
    """A schedule does not apply to a function. Never swallowed: unscheduled code is ~80x slower."""


class EngineError(DlasError):
    """The container engine or the image is missing or refused the request."""

    exit_code = 4


class DeviceLostError(EngineError):
    """A device went away: its engine does not answer, or a job's container is gone. It may come back."""


class DeviceError(DlasError):
    """A job did not come back from the device: crash, time-out, or an answer that breaks the protocol."""

    exit_code = 5


class DeviceBusyError(DeviceError):
    """Another job holds the device's lock."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class StorageError(DlasError):
    """Results or artifacts could not be written or read: full disk, damaged file, no permission."""

    exit_code = 6


class SweepIncomplete(DlasError):
    """A sweep ended, and some of its cells failed."""

    exit_code = 7


class PeerError(DlasError):
    """A peer of the benchmark is missing, failed or gave a wrong output: there is nothing to compare with."""

    exit_code = 8


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The next step for a misspelt word, empty when nothing is like it.

    >>> did_you_mean("cifra", ["smoke", "cifar"])
    'did you mean cifar?'
    """
    close = get_close_matches(word, list(words), n=1, cutoff=0.65)
    return f"did you mean {close[0]}?" if close else ""
