"""Brokers, network and writers are hurt at random while writers commit, then a reader proves what was reported.

``make chaos MINUTES=30 SEED=1``. Ends with 0 if everything that was reported is true; else a folder has all of it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from tests.chaos.report import markdown, tables, write_up
from tests.chaos.running import Options, run

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 118


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    given = _parser().parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    options = Options(60 * given.minutes, seed, calm=10.0, haste=given.haste)
    folder = Path(given.folder or tempfile.mkdtemp(prefix="wd_di-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=given.markdown, width=WIDTH)
    console.print(f"seed {seed}, {given.minutes:g} minutes; {folder} has what happens", highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that brokers and writers are stopped, as after Ctrl-C
    try:
        result = run(options, folder)
    except BaseException:
        console.print(f"it came to no end: see {folder}", highlight=False)
        raise
    for table in tables(result):
        console.print(table, highlight=False)
    if given.markdown:
        sys.stdout.write(markdown(result))
    if result.violations:
        write_up(result, folder)
        console.print(f"{len(result.violations)} violations: {folder}/README.md has their stories", highlight=False)
        return 1
    if not given.folder:
        shutil.rmtree(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="for how long faults are made (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, help="the same gives the same faults; by default another one each time")
    parser.add_argument("--haste", type=float, default=1.0, help="how many times shorter the pauses between faults are")
    parser.add_argument("--folder", help="where what happens is kept, also if all goes well")
    parser.add_argument("--markdown", action="store_true", help="the summary for a page, on standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
