"""The records of a target: a file of JSON lines that only grows, and that several searches may write to."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dlas import cache
from dlas.errors import StorageError
from dlas.systems.autoschedule import compact
from dlas.systems.autoschedule.record import (
    Group,
    Record,
    Standing,
    digest_of,
    from_line,
    like_of,
    marks,
    standing,
    to_line,
    tvm_version,
)
from dlas.values import Compiler

FOLDER = "tuning"

Say = Callable[[str], None]


def path_of(artifacts: Path, target: str) -> Path:
    """Where the records of a target lie."""
    return artifacts / FOLDER / f"{target}.jsonl"


class Database:
    """The records of one file. Lines are written whole under a lock of the file; threads may share it.

    say gets what was wrong with the file and is no error.
    """

    def __init__(self, path: Path, say: Say = lambda _: None, shipped: Path = compact.FOLDER) -> None:
        self.path = path
        self.say = say
        self._shipped = shipped
        self._mutex = threading.RLock()
        self._forget()

    @classmethod
    def open(cls, path: Path, say: Say = lambda _: None, shipped: Path = compact.FOLDER) -> Database:
        """The records that are there, none where there is no file yet. shipped: as in `compact`.

        Raises StorageError for a damaged line.
        """
        database = cls(path, say, shipped)
        database.refresh()
        return database

    def refresh(self) -> None:
        """Read what others have added. Raises StorageError."""
        with self._mutex:
            if not self.path.is_file():
                return self._forget()
            with self._locked(fcntl.LOCK_SH) as descriptor:
                self._read(descriptor)

    @property
    def groups(self) -> Mapping[Group, Sequence[Record]]:
        """All records, in the order of the file, by the search that they are of."""
        return self._groups

    @property
    def workloads(self) -> tuple[str, ...]:
        """Those that have records, in the order of the file."""
        return tuple(dict.fromkeys(workload for workload, *_ in self._groups))

    def of(self, workload: str, compiler: str, threads: int = 1) -> list[Record]:
        """The records of one search, in their order. compiler: as of `digest_of`."""
        with self._mutex:
            return list(self._groups.get((workload, compiler, threads), ()))

    def standing(self, workload: str, compiler: str, threads: int = 1) -> Standing:
        """How far that search is."""
        with self._mutex:
            return self._standings.get((workload, compiler, threads), Standing())

    def best(self, workload: str, compiler: Compiler, threads: int = 1) -> Record | None:
        """The fastest that was measured with exactly this compiler, if so with as many threads.

        Else `elsewhere`.
        """
        own = digest_of(compiler)
        found = self._fastest(workload, compiler, threads, lambda record: record.compiler == own)
        return found or self.elsewhere(workload, compiler, threads)

    def elsewhere(self, workload: str, compiler: Compiler, threads: int = 1) -> Record | None:
        """The fastest of a like CPU, measured with another compiler, else what ships for one; or None."""
        own = digest_of(compiler)
        found = self._fastest(workload, compiler, threads, lambda record: record.compiler != own)
        return found or compact.find_shipped(workload, like_of(compiler), self._shipped)

    def _fastest(
        self, workload: str, compiler: Compiler, threads: int, fits: Callable[[Record], bool]
    ) -> Record | None:
        like = like_of(compiler)
        with self._mutex:
            records = [
                record
                for group, records in self._groups.items()
                if group[0] == workload
                for record in records
                if record.median_ns and record.like == like and record.tvm == tvm_version() and fits(record)
            ]
        return min(
            records,
            key=lambda record: (record.threads != threads, record.threads, record.median_ns),
            default=None,
        )

    def effort(self, record: Record) -> Standing:
        """How far the search is that a record of `best` comes from."""
        own = self._standings.get(record.group) if record.compiler else None
        return own or standing([record])  # imported ones are of searches of their own

    def append(self, records: Sequence[Record], durable: bool = True) -> list[Record]:
        """Add records and number those that count as trials; returns them so.

        durable: have them on the disk, also after a power cut. Raises StorageError: then none is added, but
        what a failing disk may have.
        """
        with self._mutex, self._locked(fcntl.LOCK_EX) as descriptor:
            self._read(descriptor)
            numbered = self._number(records)
            data = "".join(map(to_line, numbered)).encode()
            self._write(descriptor, data)
            for record in numbered:
                self._add(record)
            if durable:
                os.fsync(descriptor)
            return numbered

    def prune(self) -> tuple[int, int]:
        """Keep of each search what its standing rests on; returns how many records there were, and are.

        Trials and seconds of what goes are kept in the next record that stays.
        """
        with self._mutex:
            if not self.path.is_file():
                return 0, 0
            with self._locked(fcntl.LOCK_EX) as descriptor:
                self._read(descriptor)
                before = sum(map(len, self._groups.values()))
                kept = [record for records in self._groups.values() for record in _pruned(records)]
                cache.atomic_write(self.path, "".join(map(to_line, kept)).encode())
            self.refresh()
            return before, len(kept)

    def _number(self, records: Sequence[Record]) -> list[Record]:
        numbered = []
        counts: dict[Group, int] = {}
        for record in records:
            count = counts.get(record.group, self.standing(*record.group).trials)
            counts[record.group] = count + record.trials
            own = record.compiler and record.counts
            numbered.append(replace(record, trial=counts[record.group]) if own else record)
        return numbered

    def _forget(self) -> None:
        self._groups: dict[Group, list[Record]] = {}
        self._standings: dict[Group, Standing] = {}
        self._inode, self._offset, self._line = 0, 0, 0

    def _add(self, record: Record) -> None:
        self._groups.setdefault(record.group, []).append(record)
        self._standings[record.group] = self.standing(*record.group).after(record)

    def _read(self, descriptor: int) -> None:
        """Take in what is new in the file, from what was read before on."""
        status = os.fstat(descriptor)
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._forget()
            self._inode = status.st_ino
        data = bytearray()
        while piece := os.pread(descriptor, 1 << 24, self._offset + len(data)):
            data += piece
        lines = bytes(data).split(b"\n")
        for line in lines[:-1]:
            self._take(line)
            self._offset += len(line) + 1
        if lines[-1]:
            self._take_last(lines[-1])

    def _take(self, line: bytes) -> None:
        self._line += 1
        if not line:
            return
        try:
            self._add(from_line(line))
        except ValueError as error:
            words = " ".join(str(error).split())[:200]
            next_step = "take that line out; those before and after it count as they are"
            raise StorageError(f"{self.path}:{self._line} is damaged: {words}", next_step) from error

    def _take_last(self, line: bytes) -> None:
        """The last line where it has no end: it was written by hand, or a power cut has torn it."""
        try:
            record = from_line(line)
        except ValueError:
            self.say(f"{self.path}:{self._line + 1} was cut off in writing: that one record is dropped")
            return
        self._line += 1
        self._offset += len(line)
        self._add(record)

    def _write(self, descriptor: int, data: bytes) -> None:
        """Add lines behind what was read; what is torn there goes."""
        os.ftruncate(descriptor, self._offset)
        start = self._offset
        if start and os.pread(descriptor, 1, start - 1) != b"\n":
            data = b"\n" + data
        written = 0
        try:
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError:
            os.ftruncate(descriptor, start)
            raise
        self._offset += len(data)
        self._line += data.count(b"\n") - (data[:1] == b"\n")

    @contextmanager
    def _locked(self, how: int) -> Iterator[int]:
        """The file under its lock, made where it is not there and is to be written. Raises StorageError."""
        descriptor = -1
        try:
            if how == fcntl.LOCK_EX:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            while True:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND if how == fcntl.LOCK_EX else os.O_RDONLY
                descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
                fcntl.flock(descriptor, how)
                # Pruning puts another file in its place: who has waited for the old one must not write there.
                if self.path.exists() and os.stat(self.path).st_ino == os.fstat(descriptor).st_ino:
                    break
                os.close(descriptor)
                descriptor = -1  # should opening it again fail, there is nothing to close
            yield descriptor
        except OSError as error:
            raise cache.storage_error(self.path, error) from error
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _pruned(records: Sequence[Record]) -> list[Record]:
    chosen = set(map(id, marks(records)))
    kept, trials, seconds = [], 0, 0.0
    for record in records:
        if id(record) not in chosen:
            trials += record.trials
            seconds += record.seconds
            continue
        both = {
            "dropped": record.dropped + trials,
            "dropped_seconds": record.dropped_seconds + seconds,
        }
        kept.append(replace(record, **both))  # type: ignore[arg-type]
        trials, seconds = 0, 0.0
    return kept
