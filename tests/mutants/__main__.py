"""Whether a test fails for each small mistake in what must not be wrong: ``make mutants``.

It exits with 1 if too few mutants are killed, if one survives that ``explained.toml`` doesn't explain, or if that file
explains what isn't there any more.

It is a program of our own since those on the index number their mutants, so that an explanation is of another one after
the next change; take out no statement and leave properties alone, though a state machine is made of both; or start
Python anew for each mutant, which takes hours here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.mutants.groups import ENOUGH, EXPLAINED, GROUPS, explained, key
from tests.mutants.mutations import Source
from tests.mutants.trying import Trial, Trials, collect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.mutants.groups import Group, Key
    from tests.mutants.mutations import Mutant

NOT_TRIED = Trial("survived", None, 0.0)
SURVIVORS = Path(".venv/mutants.json")
WIDTH = 118


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    options = _parser().parse_args(arguments)
    groups = {name: GROUPS[name] for name in options.groups or GROUPS}
    sources = {file: Source(Path(file)) for group in groups.values() for file in group.files}
    run = _Run(groups, sources, _chosen(sources, options), again=options.explained)
    with _own_output() as output:
        run.show = Console(file=output, width=WIDTH if not output.isatty() else None, highlight=False)
        tests = dict.fromkeys(test for group in groups.values() for test in group.tests)
        ended = collect(list(tests), Trials(list(sources.values()), run.try_all))
        return ended or run.report(whole=not (options.only or options.survivors))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="default: all", metavar="|".join(GROUPS))
    parser.add_argument("--only", metavar="TEXT", help="mutants whose file, function or change has this text in it")
    parser.add_argument("--survivors", action="store_true", help="those that were not killed the last time")
    parser.add_argument("--explained", action="store_true", help="also those that no test can notice, which takes long")
    return parser


def _chosen(sources: dict[str, Source], options: argparse.Namespace) -> set[Mutant]:
    mutants = {mutant for source in sources.values() for mutant in source.mutants}
    if options.only:
        mutants = {mutant for mutant in mutants if options.only in " ".join(key(mutant))}
    if options.survivors:
        before = {tuple(entry) for entry in json.loads(SURVIVORS.read_text("utf-8"))}
        mutants = {mutant for mutant in mutants if key(mutant) in before}
    return mutants


@contextmanager
def _own_output() -> Iterator[IO[str]]:
    """Keep standard output for ourselves: what the tests print is of no use, since mutants confuse them."""
    with os.fdopen(os.dup(1), "w") as output, Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield output
        finally:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)


class _Run:
    """What is to be tried, and what became of it."""

    def __init__(
        self, groups: dict[str, Group], sources: dict[str, Source], chosen: set[Mutant], *, again: bool
    ) -> None:
        self._groups = groups
        self._sources = sources
        self._chosen = chosen
        self._again = again
        self._explained = explained()
        self._tried: dict[Mutant, Trial] = {}
        self._started = time.monotonic()
        self.show = Console()

    def try_all(self, trials: Trials) -> None:
        """Try them, once the tests are there."""
        if trials.clean.failed:
            self._say(f"left out, for it fails without a mutant, too: {', '.join(trials.clean.failed)}")
        seconds = sum(trials.clean.seconds.values())
        self.show.print(f"{len(trials.clean.seconds)} tests, which take {seconds:.0f} s without a mutant")
        for group in self._groups.values():
            for file in group.files:
                mutants = [mutant for mutant in self._sources[file].mutants if mutant in self._chosen]
                for mutant in track(mutants, file, console=self.show):
                    known = key(mutant) in self._explained
                    trial = NOT_TRIED if known and not self._again else trials.try_out(mutant, group.tests)
                    self._tried[mutant] = trial
                    if known and trial.killed:
                        self._say(f"{file}:{mutant.line} {mutant.inside.where}: {mutant.what}  [explained, and killed]")
                    if not known and not trial.killed:
                        self._say(f"{file}:{mutant.line} {mutant.inside.where}: {mutant.what}  [{trial.verdict}]")
        left = [key(mutant) for mutant, trial in self._tried.items() if not trial.killed]
        SURVIVORS.write_text(json.dumps(left, indent=1, ensure_ascii=False), "utf-8")

    def report(self, *, whole: bool) -> int:
        """Show how many are killed; the status to exit with."""
        shares = [self._share(group) for group in self._groups.values()]
        unexplained = [mutant for mutant, trial in self._tried.items() if not self._accounted(mutant, trial)]
        stale = self._stale() if whole else []
        for where in stale:
            self._say(f"{EXPLAINED.name} explains what isn't there: {' '.join(where)}")
        self.show.print(f"in {(time.monotonic() - self._started) / 60:.1f} min")
        return int(bool(unexplained or stale or (whole and min(shares) < ENOUGH)))

    def _share(self, group: Group) -> float:
        table = Table("file", "mutants", "killed", "hung", "explained", "unexplained", title=group.what)
        for column in table.columns[1:]:
            column.justify = "right"
        killed = of = 0
        for file in group.files:
            tried = [(mutant, trial) for mutant, trial in self._tried.items() if mutant.source is self._sources[file]]
            dead = [trial for _, trial in tried if trial.killed]
            left = [mutant for mutant, trial in tried if not trial.killed]
            known = [mutant for mutant in left if key(mutant) in self._explained]
            hung = sum(trial.verdict == "hung" for trial in dead)
            counts = (len(tried), len(dead), hung, len(known), len(left) - len(known))
            table.add_row(file, *map(str, counts))
            killed, of = killed + len(dead), of + len(tried)
        share = killed / of if of else 1.0
        table.caption = f"killed {killed} of {of}: {share:.1%}"
        self.show.print(table)
        return share

    def _say(self, text: str) -> None:
        self.show.print(text, soft_wrap=True, markup=False)

    def _accounted(self, mutant: Mutant, trial: Trial) -> bool:
        return trial.killed or key(mutant) in self._explained

    def _stale(self) -> list[Key]:
        there = {key(mutant) for mutant in self._tried}
        return [where for where in self._explained if where[0] in self._sources and where not in there]


if __name__ == "__main__":
    sys.exit(main())
