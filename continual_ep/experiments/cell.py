"""One cell: trains the experiences that are not done yet, with a checkpoint after each."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped] # with scikit-learn

from continual_ep.arms import kept_bytes
from continual_ep.atomic_files import write_csv, write_json
from continual_ep.errors import CheckpointError, warnings_to
from continual_ep.experiments.build import Built, build_cell
from continual_ep.experiments.cells import CHECKPOINT, RESULT, Cell, Event, EventKind, Listener
from continual_ep.experiments.checkpoint import (
    load_checkpoint,
    restore_strategy,
    save_checkpoint,
    strategy_state,
)
from continual_ep.experiments.compare import FORMAT
from continual_ep.experiments.config import RunConfig
from continual_ep.experiments.dead import dead_network
from continual_ep.experiments.randomness import preserved_rng, seed_everything
from continual_ep.sleep import NightReport
from continual_ep.streams import ContinualBenchmark
from continual_ep.streams.experiences import part_of

#: Folder of the diaries of nights.
NIGHTS = "nights"


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Torch's and NumPy's threads: more of them than cores slow every process down, a hundredfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


class EpochListener(SupervisedPlugin):
    """Emits an event at the end of each epoch.

    :param part: the part of an experience that is trained in an epoch.
    """

    def __init__(self, emit: Any, part: float) -> None:
        super().__init__()
        self.emit, self.part = emit, part

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if part_of(strategy.experience).is_last:
            self.emit("epoch", part=self.part)


class CellRun:
    """Trains a cell to its end, from wherever an earlier session was stopped.

    :param folder: of the run.
    :param listener: is called with every epoch, experience and warning.
    """

    def __init__(
        self,
        config: RunConfig,
        cell: Cell,
        benchmark: ContinualBenchmark,
        folder: Path,
        listener: Listener,
    ) -> None:
        self.config, self.cell, self.benchmark = config, cell, benchmark
        self.folder = cell.folder(folder)
        self.listener = listener
        self.nights: list[dict[str, Any]] = []
        self.seconds = 0.0
        #: The most bytes kept after any experience, by mechanism.
        self.kept_bytes: dict[str, int] = {}

    def run(self) -> None:
        """Trains, and leaves ``result.json`` as the last file: it says that the cell is complete.

        :raises CheckpointError: for a checkpoint that is damaged or of other settings.
        """
        begun = self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            limited_threads(self.config.threads),
            preserved_rng(),
            warnings_to(lambda text: self._emit("warning", message=text)),
        ):
            self._train(begun)
        self._emit("finished")

    def _train(self, begun: bool) -> None:
        # Before anything is built, so that whatever draws from the global generators is seeded.
        seed_everything(self.cell.seed, "training")
        log = self.folder / "tensorboard" if self.config.tensorboard else None
        built = self._build(log)
        assembly, stream = built.assembly, self.benchmark.train_stream
        together = len(self.benchmark.test_stream) if assembly.whole_stream else 1
        built.strategy.plugins.insert(0, EpochListener(self._emit, together / assembly.epochs))
        done, again = 0, "it has no checkpoint yet"
        if assembly.whole_stream:
            again = "it trains all experiences in one call"
        elif not assembly.resumes:
            again = "a mechanism of its arm cannot be saved"
        else:
            done = self._restore(built)
        number = part_of(stream[done - 1]).experience + 1 if done else 0
        self._emit("started", done=number, again=again if begun and not done else None)
        if assembly.whole_stream:
            self._learn(built, stream[0], stream)
        else:
            # Not a slice: its experiences would take it for the whole stream.
            for number in range(done, len(stream)):
                self._learn(built, stream[number], stream[number])
        self._write_result(built)

    def _build(self, log: Path | None) -> Built:
        return build_cell(self.config, self.cell, self.benchmark, log)

    def _restore(self, built: Built) -> int:
        path = self.folder / CHECKPOINT
        state = load_checkpoint(path)
        if state is None:
            return 0
        if state.get("data") != self.benchmark.fingerprint():
            raise CheckpointError(
                f"the data of stream {self.benchmark.name!r} have changed since the checkpoint {path} was "
                "written. It was left as it is. Bring the old data back, or, to train this part anew, "
                "move it away and give the same command again"
            )
        if json.loads(state["settings"]) != self._settings():
            raise CheckpointError(
                f"the checkpoint {path} belongs to other settings. It was left as it is. To train "
                "this part anew, move it away and give the same command again"
            )
        self.nights = json.loads(state["nights"])
        self.seconds = float(state["seconds"])
        self.kept_bytes = dict(state["kept_bytes"])
        try:
            return restore_strategy(built.strategy, built.states, state)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint {path} does not fit this version ({error}). It was left as it is. "
                "To train this part anew, move it away and give the same command again"
            ) from error

    def _learn(self, built: Built, experience: Any, data: Any) -> None:
        """Train an experience.

        :param data: what is trained: the experience, or the whole stream.
        """
        started = time.perf_counter()
        strategy, sleep = built.strategy, built.sleep
        if self.config.training.reset_optimizer:
            strategy.optimizer.state.clear()
        before = None if sleep is None else sleep.last_night
        strategy.train(data, eval_streams=[])
        part = part_of(experience)
        if sleep is not None and sleep.last_night is not before:
            self._note_night(sleep, part.experience)
        seconds = time.perf_counter() - started
        self.seconds += seconds
        if not part.is_last:  # of an online stream: too small for a checkpoint of its own
            return
        for name, state in built.assembly.states.items():
            self.kept_bytes[name] = max(kept_bytes(state), self.kept_bytes.get(name, 0))
        if built.assembly.resumes:
            self._save(built, experience.current_experience + 1)
        record = built.accuracy.record
        self._emit(
            "experience",
            number=part.experience + 1,
            awake=float(record.pooled_awake[-1]),
            asleep=float(record.pooled_asleep[-1]),
            slept=record.slept[-1],
            night=self._outcome_after(part.experience),
            seconds=seconds,
        )

    def _outcome_after(self, experience: int) -> str | None:
        """What became of the night after an experience; None without one."""
        nights = (n for n in self.nights[-1:] if n["after_experience"] == experience)
        return next((str(night["outcome"]) for night in nights), None)

    def _note_night(self, sleep: Any, experience: int) -> None:
        night: NightReport = sleep.last_night
        self.nights.append({"after_experience": experience, **night.summary()})
        if not sleep.keep_diaries:
            return
        sleep.diaries.clear()  # written below, so need not fill the memory
        (self.folder / NIGHTS).mkdir(exist_ok=True)
        path = self.folder / NIGHTS / f"after-experience-{experience}.json"
        write_json(path, {"after_experience": experience, **night.to_dict()})

    def _save(self, built: Built, done: int) -> None:
        state = strategy_state(built.strategy, built.states, done)
        # As JSON text: plain values of any depth, whatever torch's loader permits.
        state["settings"] = json.dumps(self._settings())
        state["data"] = self.benchmark.fingerprint()
        state["nights"] = json.dumps(self.nights)
        state["seconds"] = self.seconds
        state["kept_bytes"] = self.kept_bytes
        save_checkpoint(self.folder / CHECKPOINT, state)

    def _settings(self) -> dict[str, Any]:
        settings = self.cell.settings(self.config)
        return {**settings, "seed": self.cell.seed, "arm": self.cell.arm.label}

    def _write_result(self, built: Built) -> None:
        record, benchmark = built.accuracy.record, self.benchmark
        model: Any = built.strategy.model
        dead = None if self.cell.learning is None else self._dead(built)
        metrics = record.summary()
        if built.probe is not None:
            metrics |= built.probe.summary()
        result = {
            "format": FORMAT,
            "number": self.cell.number,
            "learning": self.cell.label,
            "arm": self.cell.arm.label,
            "seed": self.cell.seed,
            "settings": self.cell.settings(self.config),
            "stream": {
                "name": benchmark.name,
                "class_order": benchmark.class_order,
                "classes_per_experience": benchmark.classes_per_experience,
                "class_names": benchmark.class_names,
                "label_values": benchmark.label_values,
            },
            "record": record.to_dict(),
            "metrics": metrics,
            "probe": None if built.probe is None else built.probe.to_dict(),
            "nights": self.nights,
            "kept_bytes": sum(self.kept_bytes.values()),
            "kept_bytes_of": self.kept_bytes,
            "needs": self.cell.arm.needs._asdict(),
            "network": {"sizes": model.sizes, "description": repr(model)},
            "dead": dead,
            "seconds": self.seconds,
        }
        write_csv(self.folder / "accuracies.csv", *_accuracy_table(record.to_dict()))
        write_csv(self.folder / "metrics.csv", ["metric", "value"], metrics.items())
        write_json(self.folder / RESULT, result)

    def _dead(self, built: Built) -> str | None:
        """Why the trained network is dead; also warns."""
        reason = dead_network(built.strategy, self.benchmark.streams[self.config.evaluate])
        if reason is not None:
            self._emit("warning", message=f"the network is dead after training: {reason}")
        return reason

    def _emit(self, kind: EventKind, **data: Any) -> None:
        self.listener(Event(self.cell.number, kind, data))


def _accuracy_table(record: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """The matrices in long form: one line for each number."""
    lines = [
        [learned, phase, evaluated, accuracy]
        for phase in ("awake", "asleep")
        for learned, row in zip(record["trained"], record[phase], strict=True)
        for evaluated, accuracy in enumerate(row)
    ]
    return ["learned", "phase", "evaluated", "accuracy"], lines
