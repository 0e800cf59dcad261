"""What an import found wrong: counted by reason, with the first examples, and optionally every record in a file."""

import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

EXAMPLES: Final = 3
"""Records that a finding quotes."""

VALUE_BYTES: Final = 200
"""Bytes of a record that an example or the quarantine file quotes; a line of 10 GB is quoted by its start."""


@dataclass(frozen=True)
class Example:
    """One record that is not as it should be.

    Attributes:
        file: the file's name, with the folder or archive it lies in.
        where: the record's place in it: `line 12`, `row 7`, `byte 240`.
        value: the start of it, with unprintable bytes escaped.
    """

    file: str
    where: str
    value: str


@dataclass(frozen=True)
class Finding:
    """Records with one fault.

    Attributes:
        reason: what is wrong with them.
        kept: whether they are in the trace all the same (a fact to know), or were left out (malformed).
        count: how many records.
        examples: the first of them.
    """

    reason: str
    kept: bool
    count: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Report:
    """What an import read and what it left out; nothing is left out that is not counted here.

    Attributes:
        format: the log's format.
        files: the files that were read, in order.
        requests: requests in the trace.
        findings: by reason, those that were left out first.
        columns: names of the columns that were used, by role (object, time, epoch, size), where the format names them;
            joined by commas where files call one differently.
    """

    format: str
    files: tuple[str, ...]
    requests: int
    findings: tuple[Finding, ...]
    columns: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def quarantined(self) -> int:
        """Records that were left out."""
        return sum(finding.count for finding in self.findings if not finding.kept)

    def count(self, reason: str) -> int:
        """Return how many records a reason was found for, 0 if none."""
        return sum(finding.count for finding in self.findings if finding.reason == reason)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        left = f", {self.quarantined} malformed records left out" if self.quarantined else ""
        head = f"{self.format}: {self.requests} requests from {len(self.files)} file(s){left}"
        return [head, *(_describe(finding) for finding in self.findings)]


def _describe(finding: Finding) -> str:
    quoted = "; ".join(
        f"{e.file}, {e.where}: {e.value}" if e.value else f"{e.file}, {e.where}" for e in finding.examples
    )
    more = "; ..." if finding.count > len(finding.examples) else ""
    return f"{'kept' if finding.kept else 'left out'}: {finding.count} x {finding.reason} ({quoted}{more})"


@dataclass
class _Tally:
    kept: bool
    count: int = 0
    examples: list[Example] = field(default_factory=list[Example])


class Quarantine:
    """Collects what is wrong while a log is read.

    Args:
        file: where every record that is left out is written as a line of JSON (file, where, reason, value; count, where
            one line stands for several), or None.
    """

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file
        self._tallies: dict[str, _Tally] = {}

    def drop(self, reason: str, file: str, where: str, value: object = "", *, count: int = 1) -> None:
        """Count one record that is left out, or `count` that lie together and cannot be told apart."""
        example = Example(file, where, quote(value))
        self._add(reason, example, count, kept=False)
        if self._file is not None:
            record: dict[str, object] = {"file": file, "where": where, "reason": reason, "value": example.value}
            if count != 1:
                record["count"] = count
            self._file.write(json.dumps(record, ensure_ascii=True) + "\n")

    def note(self, reason: str, file: str, where: str, value: object = "", *, count: int = 1) -> None:
        """Count records that are odd but kept."""
        self._add(reason, Example(file, where, quote(value)), count, kept=True)

    def findings(self) -> tuple[Finding, ...]:
        """Return what was found, by reason, the records that were left out first."""
        found = [Finding(reason, t.kept, t.count, tuple(t.examples)) for reason, t in self._tallies.items()]
        return tuple(sorted(found, key=lambda finding: (finding.kept, finding.reason)))

    def _add(self, reason: str, example: Example, count: int, *, kept: bool) -> None:
        tally = self._tallies.setdefault(reason, _Tally(kept))
        tally.count += count
        if len(tally.examples) < EXAMPLES:
            tally.examples.append(example)


@contextmanager
def open_quarantine(path: Path | None) -> Generator[Quarantine]:
    """Yield a collector that writes the records left out to `path`; the file is made even if there are none."""
    if path is None:
        yield Quarantine()
    else:
        with path.open("w", encoding="ascii") as file:
            yield Quarantine(file)


def quote(value: object) -> str:
    """Return the start of a record, printable whatever it holds."""
    if isinstance(value, bytes):
        cut = value[: VALUE_BYTES + 1]
        text = cut[:VALUE_BYTES].decode("utf-8", "backslashreplace")
    else:
        cut = str(value)[: VALUE_BYTES + 1]
        text = cut[:VALUE_BYTES]
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return printable + ("..." if len(cut) > VALUE_BYTES else "")


def summary(findings: Sequence[Finding]) -> str:
    """Return the reasons in a few words, for an error message."""
    return "; ".join(f"{finding.count} x {finding.reason}" for finding in findings) or "nothing malformed"
