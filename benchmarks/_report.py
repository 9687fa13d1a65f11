"""What every benchmark's report shares: the machine, the commit, and the two files that are written."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

REPORTS = Path(__file__).resolve().parent / "reports"


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Describe the processor, the cores at hand, the memory (GiB), and the versions of `packages`."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": model,
        "cores": cores,
        "memory_gib": round(memory, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def _commit() -> str:
    """The commit that is measured, with "+" when files that git knows have been changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "../src", ".", ":!reports")
    return (git("rev-parse", "HEAD") or "unknown") + ("+" if changed else "")


# Read when the program starts: what is measured is what was there then.
COMMIT = _commit()


def command() -> str:
    """The command line that ran, from the program's name on."""
    return shlex.join(
        ["python", os.path.relpath(sys.argv[0], Path(__file__).resolve().parents[1]), *sys.argv[1:]]
    )


def spread(values: Sequence[float], digits: int = 4) -> dict[str, Any]:
    """Median, least, greatest and number of repeated measurements."""
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "repeats": len(values),
    }


def write(
    program: str,
    *,
    headline: dict[str, Any],
    rows: list[dict[str, Any]],
    packages: Sequence[str],
    text: str,
) -> Path:
    """Write reports/<program>.json and .md; `text` is the part of the latter below the headline (Markdown).

    Each row is one object per measured row, with its "seeds" and spread. Returns the path of the JSON file.
    """
    for row in rows:
        if "seeds" not in row:
            raise ValueError(f"a row of {program} does not say its seeds: {row}")
    described = machine(packages)
    report = {
        "command": command(),
        "commit": COMMIT,
        "machine": described,
        "headline": headline,
        "rows": rows,
    }
    REPORTS.mkdir(exist_ok=True)
    path = REPORTS / f"{program}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    lines = [
        f"# {program}",
        "",
        f"`{report['command']}` at `{report['commit']}`",
        "",
        f"{described['processor']}, {described['cores']} cores, {described['memory_gib']} GiB, "
        f"load {described['load_average'][0]}; Python {described['python']}; "
        + ", ".join(f"{name} {number}" for name, number in described["packages"].items()),
        "",
        *(f"- {name}: **{value}**" for name, value in headline.items()),
        "",
        text.strip(),
        "",
    ]
    path.with_suffix(".md").write_text("\n".join(lines))
    return path
