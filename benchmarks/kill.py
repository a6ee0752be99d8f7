"""Kill every cell of a comparison at random moments, resume it, and compare with an undisturbed run.

    python benchmarks/kill.py --out OUT [--config FILE] [--arms ewc,er+sleep] [--learning bptt] [--kills 3]

Each arm with each learner is a run of its own, ``python -m continual_ep run``, once to the end and once
killed by SIGKILL, with all its processes, ``--kills`` times while its cell is trained, and resumed by the
same command. Moments are drawn uniformly from the time that the cell takes undisturbed. A cell that was
complete before its last kill is tried again from the start. Compared are results.csv byte by byte,
result.json of the cell but for seconds, and all values of its last checkpoint.

Commands are run by forks of one process that has imported the libraries; --cold starts an interpreter for
each. OUT/kill.json holds the table; the exit code is 1 if anything differs.
"""

import argparse
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba  # noqa: F401 - imported once, for all forks, as the next two
import sklearn.datasets  # noqa: F401
import torch
import yaml

import continual_ep.cli
import continual_ep.experiments.run  # noqa: F401
from continual_ep.arms import MECHANISMS
from continual_ep.experiments.cells import CHECKPOINT, RESULT
from continual_ep.experiments.checkpoint import load_checkpoint

COMBINATIONS = (
    "ewc+sleep",
    "owm+sleep",
    "labels-trick+sleep",
    "lwf+sleep",
    "er+sleep",
    "icarl+sleep",
    "sleep:downscaling",
    "sleep:class-mean-replay",
)
LEARNERS = ("equilibrium-propagation", "bptt", "backprop")

#: Digits in five experiences, with some seconds of work for each cell.
CONFIG: dict[str, Any] = {
    "stream": {"name": "digits", "experiences": 5, "per_class": 60},
    "network": {"hidden": [32]},
    "training": {"epochs": 2, "batch_size": 8, "momentum": 0.5},
    "sleep": {"steps": 1000},
    "mechanisms": {"gdumb": {"epochs": 6}},
    "seeds": [0],
    "workers": 1,
}

#: Starts of a cell before it is given up as too short to be killed so often.
TRIES = 10
INTERVAL = 0.002


@dataclass
class Process:
    """A running command, the first of a process group of its own."""

    pid: int
    log: Path
    status: int | None = None

    def running(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = status if pid else None
        return self.status is None

    def wait(self) -> int:
        """The exit code, negative for a signal."""
        while self.running():
            time.sleep(INTERVAL)
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    def kill(self) -> None:
        if self.running():
            os.killpg(self.pid, signal.SIGKILL)
            self.wait()


def start(arguments: list[str], log: Path, cold: bool) -> Process:
    """Start ``python -m continual_ep ARGUMENTS``."""
    log.touch()
    if cold:
        with log.open("wb") as stream:
            command = [sys.executable, "-m", "continual_ep", *arguments]
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
        return Process(process.pid, log)
    pid = os.fork()
    if pid:
        return Process(pid, log)
    code = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.argv[1:] = arguments
        runpy.run_module("continual_ep", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@dataclass
class Pair:
    """One arm of one learner, undisturbed and killed.

    :param folder: of both runs; :param cell: of the cell in a run, once it is known.
    """

    learner: str
    arm: str
    file: Path
    folder: Path
    cold: bool
    draw: random.Random
    cell: Path = Path()
    #: Seconds from its start to each checkpoint, and to its result.
    checkpoints: list[float] = field(default_factory=list)
    span: float = 0.0
    kills: list[dict[str, Any]] = field(default_factory=list)
    starts: int = 0

    def command(self, name: str) -> list[str]:
        options = ["--learning", self.learner, "--arms", self.arm, "--out", str(self.folder / name)]
        return ["run", str(self.file), *options]

    def start(self, name: str) -> Process:
        # An earlier try may have left a group to be killed or a log to be read: one log for each start.
        self.starts += 1
        log = self.folder / f"{name}-{self.starts}.txt"
        return start(self.command(name), log, self.cold)

    def undisturbed(self) -> str | None:
        """Run to the end and measure the span of the cell; return why it is refused, or None."""
        whole, begun, ended = self.folder / "whole", 0.0, 0.0
        shutil.rmtree(whole, ignore_errors=True)
        process = self.start("whole")
        times: dict[int, float] = {}
        while process.running():
            now = time.monotonic()
            for cell in [] if ended else list(whole.glob("*/*/seed-*")):
                begun = begun or now
                if (cell / CHECKPOINT).exists():
                    times.setdefault((cell / CHECKPOINT).stat().st_mtime_ns, now - begun)
                ended = now if (cell / RESULT).exists() else 0.0
            time.sleep(INTERVAL)
        code, text = process.wait(), process.log.read_text()
        if code == 2 and not whole.exists():
            return text.strip().removeprefix("error: ")
        if code:
            raise RuntimeError(f"{self.learner} | {self.arm} ended with code {code}:\n{text}")
        (result,) = whole.glob(f"*/*/*/{RESULT}")
        self.cell, self.span = result.parent.relative_to(whole), ended - begun
        self.checkpoints = [0.0, *times.values()]
        return None

    def disturbed(self, count: int) -> bool:
        """Kill the run so many times while its cell is trained, then let it end.

        :returns: False if the cell was complete too early.
        """
        killed = self.folder / "killed"
        shutil.rmtree(killed, ignore_errors=True)
        self.kills = []
        for moment in sorted(self.draw.uniform(0.0, self.span) for _ in range(count)):
            done = self.progress(killed)["resumed"]
            process = self.start("killed")
            if not self.await_cell(process, killed / self.cell):
                return False
            time.sleep(max(0.0, moment - self.checkpoints[min(done, len(self.checkpoints) - 1)]))
            process.kill()
            if (killed / self.cell / RESULT).exists():
                return False
            self.kills.append(self.progress(killed))
        process = self.start("killed")
        if process.wait():
            raise RuntimeError(f"{' '.join(self.command('killed'))}:\n{process.log.read_text()}")
        return True

    def await_cell(self, process: Process, cell: Path) -> bool:
        """Wait until the process works on the cell."""
        fresh = not cell.exists()
        while process.running():
            if fresh and cell.exists():
                return True
            if not fresh and re.search("resumed after|starts again", process.log.read_text()):
                return True
            time.sleep(INTERVAL)
        return False

    def progress(self, run: Path) -> dict[str, Any]:
        """Experiences in the checkpoint of the cell, and whether a file is half written."""
        cell = run / self.cell
        state = load_checkpoint(cell / CHECKPOINT)
        done = 0 if state is None else int(state["experiences"])
        # With one call for the whole stream there is one checkpoint, and a start anew.
        resumed = done if len(self.checkpoints) > 2 else 0
        return {"done": done, "resumed": resumed, "writing": bool(list(cell.glob("*.tmp")))}

    def differences(self) -> list[str]:
        """What differs between both runs."""
        whole, killed = self.folder / "whole", self.folder / "killed"
        names = []
        if (whole / "results.csv").read_bytes() != (killed / "results.csv").read_bytes():
            names.append("results.csv")
        one, other = (json.loads((run / self.cell / RESULT).read_text()) for run in (whole, killed))
        names += [f"{RESULT}{place}" for place in unequal(one, other)]
        one, other = (load_checkpoint(run / self.cell / CHECKPOINT) for run in (whole, killed))
        names += [f"{CHECKPOINT}{place}" for place in unequal(one, other)]
        return names


def unequal(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """The places where nested values differ; seconds are not compared."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield place
    elif isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if key not in one or key not in other:
                yield f"{place}.{key}"
            elif key != "seconds":
                yield from unequal(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield place
        for number, pair in enumerate(zip(one, other, strict=False)):
            yield from unequal(*pair, f"{place}[{number}]")
    elif one != other and not (one != one and other != other):
        yield place


def measure(pair: Pair, kills: int) -> dict[str, Any]:
    """One line of the table."""
    line: dict[str, Any] = {"arm": pair.arm, "learner": pair.learner}
    try:
        for attempt in range(1, TRIES + 1):
            tries = attempt
            # Measured again for each try: the machine may have been busier then.
            refused = pair.undisturbed()
            if refused is not None:
                return {**line, "outcome": "refused", "reason": refused}
            if pair.disturbed(kills):
                break
        else:
            return {**line, "outcome": "too short", "seconds": round(pair.span, 2)}
        differences = pair.differences()
    except RuntimeError as error:
        return {**line, "outcome": "failed", "reason": str(error)[-2000:]}
    return {
        **line,
        "outcome": "different" if differences else "same",
        **({"differences": differences[:20]} if differences else {}),
        "kills": len(pair.kills),
        "before_a_checkpoint": sum(not kill["done"] for kill in pair.kills),
        "while_writing": sum(kill["writing"] for kill in pair.kills),
        "experiences_done": [kill["done"] for kill in pair.kills],
        "seconds": round(pair.span, 2),
        "tries": tries,
    }


def shown(line: dict[str, Any]) -> str:
    text = f"{line['arm']:<26}{line['learner']:<26}{line['outcome']:<10}"
    if "kills" in line:
        done = ", ".join(str(number) for number in line["experiences_done"])
        text += f" killed {line['kills']} times, after {done} experiences"
        text += f"; {line['while_writing']} while writing" if line["while_writing"] else ""
    return "\n   ".join(
        [text + " ".join(line.get("reason", "").split()), *line.get("differences", [])]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    arms = ",".join(["sequential", *MECHANISMS, *COMBINATIONS])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, help="YAML file, as of continual-ep run")
    parser.add_argument("--arms", default=arms)
    parser.add_argument("--learning", default=",".join(LEARNERS))
    parser.add_argument("--kills", type=int, default=3, help="of each cell")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--cold", action="store_true", help="a new interpreter for each start")
    options = parser.parse_args()
    config = CONFIG if options.config is None else yaml.safe_load(options.config.read_text())
    if len(config.get("seeds", [0])) != 1:
        parser.error("give one seed in the configuration: each run is one cell")
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    lines, references = [], set()
    for learner in options.learning.split(","):
        for arm in options.arms.split(","):
            if arm in references:
                continue
            folder = options.out / learner / arm
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            draw = random.Random(f"{options.seed}/{learner}/{arm}")
            pair = Pair(learner, arm, file, folder, options.cold, draw)
            line = measure(pair, options.kills)
            if pair.cell.parts[:1] == ("reference",):
                references.add(arm)
                line["learner"] = "reference"
            lines.append(line)
            print(shown(line), flush=True)
            table = ",\n".join(json.dumps(each) for each in lines)
            (options.out / "kill.json").write_text(f"[\n{table}\n]\n")
    outcomes = [line["outcome"] for line in lines]
    print(", ".join(f"{outcomes.count(name)} {name}" for name in sorted(set(outcomes))))
    print(f"{sum(line.get('kills', 0) for line in lines)} kills")
    sys.exit(1 if {"different", "failed", "too short"} & set(outcomes) else 0)


if __name__ == "__main__":
    main()
