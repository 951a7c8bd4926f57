"""From many comparisons to one word: the rules by which a statement holds, fails, or stays undecided.

A comparison is right with a chosen risk of error. What one comparison alone can decide is given a part of the
risk, so that all comparisons of a statement together are wrong in at most 5% of cases, however they depend on
each other (Bonferroni). What takes all comparisons to decide needs no such part: to say that all are so where
one is not, that one has to be wrong, which has its own 5% (the intersection-union test; Berger 1982,
Technometrics 24, 295-300).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlas.results.accuracy import FAILS, HOLDS, UNDECIDED
from dlas.results.statistics import CONFIDENCE, MIN_DRAWN
from dlas.results.tables import count

RISK = 1 - CONFIDENCE
_EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """One comparison in words, with its ratio and the 95% interval of that alone. word: what it says itself.

    ids: of all rows that it rests on.
    """

    word: str
    text: str
    ids: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """What rows say of a statement. word: holds, fails or undecided; because: how many comparisons say so."""

    word: str
    statement: str
    because: str
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Contest:
    """A comparison that has not been decided yet.

    judge: its word, where it may be wrong in `holds` and in `fails` with these risks. clearness: for the
    order of examples, the larger the clearer. is_few: whether it has too few processes to decide anything.
    """

    judge: Callable[[float, float], str]
    text: str
    ids: tuple[str, ...]
    clearness: float
    is_few: bool = False


def some(statement: str, contests: Sequence[Contest], missing: str) -> Finding:
    """Of what is so at least once: holds with one comparison, fails when each says the contrary.

    missing: what to measure, for where there is no comparison.
    """
    words = _words(contests, RISK / max(len(contests), 1), RISK)
    return _found(statement, contests, words, missing, HOLDS if HOLDS in words else _unanimous(words))


def every(statement: str, contests: Sequence[Contest], missing: str) -> Finding:
    """Of what is always so: holds when each comparison says so, fails with one that says the contrary."""
    words = _words(contests, RISK, RISK / max(len(contests), 1))
    return _found(statement, contests, words, missing, FAILS if FAILS in words else _unanimous(words))


def most(statement: str, contests: Sequence[Contest], missing: str) -> Finding:
    """Of a tendency: holds when more than half of all comparisons say so, fails when they say the contrary.

    The comparisons are those that were asked for and no sample of others: half is counted, not estimated.
    """
    risk = RISK / max(len(contests), 1)
    words = _words(contests, risk, risk)
    word, number = max(Counter(words).items(), key=lambda item: item[1], default=(UNDECIDED, 0))
    return _found(statement, contests, words, missing, word if 2 * number > len(words) else UNDECIDED)


def describe(findings: Sequence[Finding]) -> str:
    """For the terminal: word, statement and reason of each, then its examples. No newline at the end."""
    parts = []
    for found in findings:
        lines = [f"{found.word}: {found.statement}", f"  {found.because}"]
        for example in found.examples:
            lines += [f"  - {example.word}: {example.text}", f"    rows {' '.join(example.ids)}"]
        parts.append("\n".join(lines))
    if any(found.examples for found in findings):
        parts.append(
            "Intervals are those of one comparison, at 95%. Words rest on wider ones, with which all\n"
            "comparisons of a statement are right together. Only publishable rows count."
        )
    return "\n\n".join(parts)


def _words(contests: Sequence[Contest], holds_risk: float, fails_risk: float) -> list[str]:
    return [contest.judge(holds_risk, fails_risk) for contest in contests]


def _unanimous(words: Sequence[str]) -> str:
    return words[0] if len(set(words)) == 1 else UNDECIDED


def _found(
    statement: str, contests: Sequence[Contest], words: Sequence[str], missing: str, word: str
) -> Finding:
    if not contests:
        return Finding(UNDECIDED, statement, f"Nothing to compare: {missing}.")
    ranked = sorted(
        zip(words, contests, strict=True),
        key=lambda pair: (pair[0] != word, pair[0] == UNDECIDED, -pair[1].clearness),
    )
    examples = tuple(Example(each, contest.text, contest.ids) for each, contest in ranked[:_EXAMPLES])
    tally = Counter(words)
    because = (
        f"So in {tally[HOLDS]} of {count(len(words), 'comparison')}, not so in {tally[FAILS]}, undecided in "
        f"{tally[UNDECIDED]}."
    )
    if few := sum(contest.is_few for contest in contests):
        because += (
            f" {few} {'has' if few == 1 else 'have'} fewer than {MIN_DRAWN} processes; "
            f"`invoke run --replicates {MIN_DRAWN}` adds them."
        )
    because += f" {'Such as' if word == UNDECIDED else 'The clearest'}: {examples[0].text}."
    return Finding(word, statement, because, examples)
