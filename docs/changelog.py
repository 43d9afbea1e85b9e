"""Prints CHANGELOG.md with what isn't released yet, from the fragments in ``docs/changes``.

``make changelog`` writes that into the file; the site shows it without.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import wd_di

ROOT = Path(__file__).parent.parent
MARK = "<!-- towncrier release notes start -->\n"
UNRELEASED = re.compile(r"^## (?:\[[^]]+\] - unreleased|Unreleased)\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def changelog() -> str:
    """Return what the file would say if it were written now."""
    start, mark, below = (ROOT / "CHANGELOG.md").read_text("utf-8").partition(MARK)
    released = UNRELEASED.sub("", below)
    return f"{start}{mark}{_draft(released)}{released}".rstrip() + "\n"


def _draft(released: str) -> str:
    """What towncrier would write for a release of today."""
    if not any((ROOT / "docs" / "changes").glob("*.md")):
        return ""
    version = "Unreleased" if f"## [{wd_di.__version__}]" in released else wd_di.__version__
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", version, "--date", "unreleased"]
    drafted = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout  # noqa: S603
    return drafted.replace("[Unreleased] - unreleased", "Unreleased")


if __name__ == "__main__":
    sys.stdout.write(changelog())
