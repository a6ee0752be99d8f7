"""Fill the table of measured and published figures in docs/arms.md from the results of runs.

    python benchmarks/arms_table.py benchmarks/results/arms_feedforward benchmarks/results/arms_ep

Each folder holds the ``summary.csv`` and ``results.csv`` that ``continual-ep compare RUN... --out``
writes; the first is the feed-forward network's, the second the EP network's. With ``--check`` nothing
is written, and the exit code says whether the page agrees with the files.
"""

import argparse
import csv
import sys
from pathlib import Path

import yaml

from continual_ep.experiments.report import readable_bytes

PAGE = Path(__file__).parents[1] / "docs" / "arms.md"
CONFIG = Path(__file__).parent / "arms_feedforward.yaml"
START, END = "<!-- figures -->", "<!-- end of figures -->"
HEADER = (
    "| mechanism | kept | feed-forward | EP | published | source of published |\n"
    "|---|---|---|---|---|---|"
)


def read(folder: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Accuracy with its interval, and kept bytes, by arm."""
    accuracies, kept = {}, {}
    with (folder / "summary.csv").open() as stream:
        for row in csv.DictReader(stream):
            if row["metric"] == "pooled_accuracy":
                mean, low, high = (100 * float(row[k]) for k in ("mean", "low_95", "high_95"))
                accuracies[row["arm"]] = f"{mean:.1f} [{low:.1f}, {high:.1f}]"
    with (folder / "results.csv").open() as stream:
        for row in csv.DictReader(stream):
            kept[row["arm"]] = max(int(row["kept_bytes"]), kept.get(row["arm"], 0))
    return accuracies, kept


def filled(page: str, folders: list[Path]) -> str:
    """The page with the measured columns from the files; published figures stay."""
    head, rest = page.split(START)
    table, tail = rest.split(END)
    published = {}
    for line in table.strip().splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        published[cells[0].strip("`")] = cells[4:6]
    measured = [read(folder) for folder in folders]
    order = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["arms"]
    arms = [arm for arm in order if any(arm in accuracies for accuracies, _ in measured)]
    lines = [HEADER]
    for arm in arms:
        kept = max(sizes.get(arm, 0) for _, sizes in measured)
        figures = [accuracies.get(arm, "") for accuracies, _ in measured]
        base = arm if arm in published else arm.partition(":")[0]
        other = published.get(base, ["", ""])
        lines.append("| " + " | ".join([f"`{arm}`", readable_bytes(kept), *figures, *other]) + " |")
    return f"{head}{START}\n\n" + "\n".join(lines) + f"\n\n{END}{tail}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs=2, type=Path, help="feed-forward, EP")
    parser.add_argument("--check", action="store_true", help="write nothing")
    given = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    new = filled(page, given.folders)
    if given.check:
        return int(new != page)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
