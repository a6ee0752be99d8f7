"""Sleep as an Avalanche plugin: one line makes any strategy sleep."""

import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from avalanche.models.utils import avalanche_forward
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from continual_ep.errors import CheckpointError, WarnOnce, reading_state
from continual_ep.forward_passes import evaluating
from continual_ep.metrics.evaluation import batches_of
from continual_ep.plugins.newest_samples import classes_of, newest_samples, refuse_without_samples
from continual_ep.plugins.night_reports import log_night, publish_night, restored_warning
from continual_ep.plugins.strategy_model import evaluate_batch, forward_of
from continual_ep.plugins.when_to_sleep import (
    is_scheduled,
    keeps_answers,
    may_forget,
    separate_heads,
)
from continual_ep.seeding import generator_from
from continual_ep.sleep.activity import ActivityMaxima
from continual_ep.sleep.algorithm import Night, SleepAlgorithm, run_algorithm
from continual_ep.sleep.diary import NightReport
from continual_ep.sleep.guard import (
    MAX_COST,
    accuracy_on,
    class_scores,
    guarded_night,
    largest_cost,
)
from continual_ep.sleep.hooks import call_sleep_begins, call_sleep_ends
from continual_ep.sleep.layers import Chain, plastic_layers
from continual_ep.sleep.need import (
    MIN_NEED,
    MIN_NEED_OF_KEPT_ANSWERS,
    need_of_sleep,
    reason_to_skip,
)
from continual_ep.sleep.recording import SpikeRecorder
from continual_ep.sleep.registry import SleepSchedule, make_algorithm
from continual_ep.sleep.statistics import InputStatistics, RunningMean
from continual_ep.sleep.walk import find_chains, unknown_layers_warning
from continual_ep.streams.experiences import benchmark_of, part_of, refuse_empty

#: Format of the state dict; raised when its meaning changes.
STATE_FORMAT = 2

#: Samples of an experience that a night replays, at most; and their values, 256 MiB in float32.
REPLAYED_SAMPLES = 1000
REPLAYED_VALUES = 1 << 26


class SleepReplay(SupervisedPlugin):
    """Lets the model sleep after experiences, so that it forgets less of the earlier ones.

    Works with any strategy and any model: networks with a method ``synapses()`` name their layers
    themselves; in other modules Linear and Conv2d layers are found by watching one batch. It stores no
    samples beyond their experience, only running means. It does not touch the optimizer, other layers, or
    the random streams of the training. It sleeps in ``after_training_exp``, before the evaluator and the
    evaluation at the end of an experience. ``eval_every`` > 0 may evaluate the last epoch before the sleep.
    Plugins that inherit from :class:`~continual_ep.sleep.SleepHooks` are called around each night.

    Main arguments:

    :param algorithm: how weights change: ``"src"`` (sleep replay consolidation),
        another name in :data:`continual_ep.sleep.SLEEP_ALGORITHMS`, or a
        :class:`~continual_ep.sleep.SleepAlgorithm`.
    :param when: ``"auto"``, after the first experience, and after others where there is something to
        recover (older classes whose outputs compete with the newest, a need of at least ``min_need``);
        ``"every"`` experience, the ``"last"`` one of the stream, or a list of experiences by
        their number in the whole stream, from 0 (``experience.current_experience``). On online streams
        nights follow the last small experience of each one that was cut.
    :param seed: of the plugin's own generators, one for each night.
    :param guard: compare the network before and after a night on samples of the experience at hand, and
        weaken or take back a night that costs too much.
    :param max_cost: share of the accuracy on the newest classes, in [0, 1], that a night may cost, times
        the share of older classes among all, which counts as at least 0.2.

    Other arguments:

    :param min_need: for ``when="auto"``: share of replay inputs, in [0, 1], on which the newest classes
        win over the older ones.
    :param exclude: names of layers whose weights stay as they are (they still pass spikes on);
        layers that do not require gradients stay as they are anyway.
    :param kernels: whether the kernels of convolutions change too; nights are then long.
    :param diary: keep what happened in each night in ``diaries``; the last one, or why it was
        skipped, is always in ``last_night``.
    :param options: of the algorithm; of ``"src"`` those of
        :class:`~continual_ep.sleep.SleepReplayConsolidation`: ``preset``, ``steps``, ``dreams``, ....
        Nights are counted by experiences learned, not by nights slept: with ``growth`` the night after
        the fifth experience is as long when it is the only one.
    :raises ConfigurationError: for an unknown option or a value out of its range.
    """

    supports_distributed = False

    def __init__(
        self,
        algorithm: str | SleepAlgorithm = "src",
        *,
        when: str | Sequence[int] = "auto",
        seed: int = 0,
        guard: bool = True,
        max_cost: float = MAX_COST,
        min_need: float = MIN_NEED,
        exclude: Sequence[str] = (),
        kernels: bool = False,
        diary: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.algorithm = make_algorithm(algorithm, options)
        excluded = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self.schedule = SleepSchedule(
            when=when,  # type: ignore[arg-type]
            min_need=min_need,
            guard=guard,
            max_cost=max_cost,
            exclude=excluded,
            kernels=kernels,
            diary=diary,
        )
        self.seed = seed
        self.diaries: list[NightReport] = []
        self.last_night: NightReport | None = None
        #: Set one to keep which units spike when, for pictures.
        self.recorder: SpikeRecorder | None = None
        self.statistics = self._new_statistics()
        #: Experiences trained on so far.
        self.experiences = 0
        #: Classes of these experiences.
        self.classes: set[int] = set()
        self._chains: list[Chain] | None = None
        self._unknown: list[str] = []
        self._inner: dict[str, RunningMean] = {}
        self._hooks: list[Any] = []
        self._warnings = WarnOnce()

    @property
    def keep_diaries(self) -> bool:
        """Whether ``diaries`` keeps all nights."""
        return self.schedule.diary

    def check(self, strategy: Any, experience: Any, example: Tensor) -> None:
        """Find out before anything is trained what would go wrong in a night.

        :param experience: of the stream; :param example: a batch of its inputs.
        :raises ConfigurationError: layers that cannot sleep or are unknown, options that do not fit
            the layers or the inputs, outputs or data with which the guard cannot work.
        """
        chains, _ = self._find_chains(strategy, example.to(strategy.device))
        self._plastic(chains)
        self._check_guard(strategy, experience, example)
        shape, images = _known_images(tuple(example.shape[1:]), experience)
        self.algorithm.check(chains, shape, images)

    # -- awake: gather statistics --------------------------------------------------------------------

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        refuse_empty(strategy)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._chains = None
        self._remove_hooks()
        if part_of(strategy.experience).is_first:
            self.statistics.new_experience()
            if "experience-mean" in self.algorithm.needs:
                self._inner = {}

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if len(strategy.mb_x) == 0:
            return
        if self._chains is None:
            self._chains, self._unknown = self._find_chains(strategy, strategy.mb_x[:2])
            self._record_inner_inputs()
            if not self.classes:  # before the first experience is learned
                self._check_guard(strategy, strategy.experience, strategy.mb_x[:2])
        if self.algorithm.needs:
            self.statistics.add(strategy.mb_x, strategy.mb_y)
        else:
            self.statistics.shape = tuple(strategy.mb_x.shape[1:])

    def _check_guard(self, strategy: Any, experience: Any, example: Tensor) -> None:
        if self.schedule.guard or "samples" in self.algorithm.needs:
            refuse_without_samples(experience)
        if self.schedule.guard:
            with evaluating(strategy.model, strategy.device):
                output = forward_of(strategy)(example.to(strategy.device))
            class_scores(output, torch.zeros(len(example), dtype=torch.long))

    def _new_statistics(self) -> InputStatistics:
        return InputStatistics(per_class="class-means" in self.algorithm.needs)

    def _find_chains(self, strategy: Any, example: Tensor) -> tuple[list[Chain], list[str]]:
        """Anew in each experience, as the model may have grown a head."""
        return find_chains(strategy.model, example, forward_of(strategy))

    def _plastic(self, chains: Sequence[Chain]) -> frozenset[str]:
        return plastic_layers(chains, self.schedule.exclude, self.schedule.kernels)

    def _record_inner_inputs(self) -> None:
        needs = self.algorithm.needs
        if needs & {"mean-input", "experience-mean"} and "samples" not in needs:
            plastic = self._plastic(self._chains or [])
            for chain in self._chains or []:
                if chain.source is not None and any(s.name in plastic for s in chain.layers):
                    mean = self._inner.setdefault(chain.layers[0].name, RunningMean())
                    self._hooks.append(_record_inputs(chain.source, mean))

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # -- sleep -----------------------------------------------------------------------------------------

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Sleep, if this is a night to sleep."""
        self._remove_hooks()
        if not part_of(strategy.experience).is_last:
            return
        self.experiences += 1
        new = classes_of(strategy.experience)
        old = tuple(sorted(self.classes - set(new)))
        self.classes |= set(new)
        if not is_scheduled(self.schedule.when, strategy):
            return
        night = self._report_of_night(strategy, new, old)
        self.last_night = night
        if self.keep_diaries:
            self.diaries.append(night)
        if night.outcome == "restored" and old:  # without old classes nothing may be lost
            self._warnings.warn("restored", restored_warning(night))
        log_night(part_of(strategy.experience).experience, night)
        publish_night(self, strategy, night, self.experiences)

    def _report_of_night(
        self, strategy: Any, new: tuple[int, ...], old: tuple[int, ...]
    ) -> NightReport:
        """Sleep unless there is nothing to win; ``new`` and ``old`` are classes."""
        if self.statistics.shape is None:
            text = "no inputs have been seen yet, so there is nothing to replay"
            self._warnings.warn("inputs", f"{text}: this night is skipped")
            return NightReport.skipped(text)
        night = replace(self._night(strategy), new_classes=new, old_classes=old)
        need = None if night.separate_heads else need_of_sleep(self.algorithm, night)
        unused = len(night.readout.weight) > len(new)
        first = self.experiences == 1 and may_forget(strategy, unused)
        least = self.schedule.min_need
        if keeps_answers(strategy):
            least = max(least, MIN_NEED_OF_KEPT_ANSWERS)
        reason = self.algorithm.nothing_to_win(night)
        reason = reason or reason_to_skip(night, need, least, first=first)
        if self.schedule.when == "auto" and reason is not None:
            return replace(NightReport.skipped(reason), need=need)
        if self._unknown:
            self._warnings.warn("unknown", unknown_layers_warning(self._unknown))
        call_sleep_begins(strategy)
        report = self._slept(strategy, night)
        call_sleep_ends(strategy)
        return replace(report, need=need)

    def _slept(self, strategy: Any, night: Night) -> NightReport:
        if not self.schedule.guard:
            return run_algorithm(self.algorithm, night)
        generator = generator_from(f"guard/{self.seed}/{self.experiences}")
        # The evaluation's batches may be as small as one sample, which is slow.
        size = max(64, strategy.train_mb_size, strategy.eval_mb_size)
        samples = newest_samples(strategy.experience, generator, size, strategy.device)

        def accuracy() -> float:
            with evaluating(strategy.model, strategy.device):
                return accuracy_on(partial(evaluate_batch, strategy), samples)

        old, new = len(night.old_classes), len(night.new_classes)
        allowed = largest_cost(old, new, self.schedule.max_cost)
        return guarded_night(self.algorithm, night, accuracy, allowed)

    def _night(self, strategy: Any) -> Night:
        """All that the algorithm gets."""
        seen_shape = self.statistics.shape
        assert seen_shape is not None
        if self._chains is None:  # nothing was trained on in this experience
            example = next(strategy.model.parameters()).new_zeros(2, *seen_shape)
            self._chains, self._unknown = self._find_chains(strategy, example)
        maxima = None
        if "activity-maxima" in self.algorithm.needs:
            maxima = self._activity_maxima(strategy, self._chains)
        samples = None
        if "samples" in self.algorithm.needs:
            samples = self._samples(strategy, math.prod(seen_shape))
        shape, images = _known_images(seen_shape, strategy.experience)
        return Night(
            model=strategy.model,
            chains=self._chains,
            plastic=self._plastic(self._chains),
            statistics=self.statistics,
            number=self.experiences,
            seed=self.seed,
            inner_means={name: mean.mean for name, mean in self._inner.items() if mean.count},
            activity_maxima=maxima,
            input_shape=shape,
            images=images,
            forward=forward_of(strategy),
            warnings=self._warnings,
            samples=samples,
            separate_heads=separate_heads(strategy.model),
            recorder=self.recorder,
        )

    def _samples(self, strategy: Any, inputs: int) -> Tensor:
        """Inputs of the experience at hand for the night to replay."""
        most = max(1, min(REPLAYED_SAMPLES, REPLAYED_VALUES // inputs))
        batches = newest_samples(
            strategy.experience,
            generator_from(f"samples/{self.seed}/{self.experiences}"),
            max(1, strategy.eval_mb_size),
            strategy.device,
            lambda total: min(total, most),
        )
        return torch.cat([x for x, _, _ in batches])

    def _activity_maxima(self, strategy: Any, chains: list[Chain]) -> dict[str, float]:
        """The largest activations under the current weights, over the current experience."""
        maxima = ActivityMaxima(strategy.model, chains)
        batches = batches_of(strategy.experience.dataset, max(1, strategy.eval_mb_size))
        with evaluating(strategy.model, strategy.device), maxima:
            for x, _, task in batches:
                tasks = None if task is None else task.to(strategy.device)
                forward = partial(avalanche_forward, strategy.model, task_labels=tasks)
                maxima.see(x.to(strategy.device), forward)
        return maxima.values()

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Statistics and counters; tensors and plain values, no samples."""
        return {
            "format": STATE_FORMAT,
            "experiences": self.experiences,
            "classes": sorted(self.classes),
            "statistics": self.statistics.state_dict(),
            "inner": {name: mean.state_dict() for name, mean in self._inner.items()},
            "warned": sorted(self._warnings.seen),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state, or one of another format; nothing changes then."""
        if state.get("format") != STATE_FORMAT:
            raise CheckpointError(
                f"the state of SleepReplay has format {state.get('format')!r}, this version reads "
                f"{STATE_FORMAT}"
            )
        with reading_state("SleepReplay"):
            statistics = self._new_statistics()
            statistics.load_state_dict(state["statistics"])
            inner = {name: RunningMean.restored(mean) for name, mean in state["inner"].items()}
            experiences, warned = int(state["experiences"]), set(state["warned"])
            classes = {int(label) for label in state["classes"]}
        # All at once, so that a damaged state leaves everything as it is.
        self.statistics, self._inner = statistics, inner
        self.experiences, self._warnings = experiences, WarnOnce(warned)
        self.classes = classes


def _known_images(shape: tuple[int, ...], experience: Any) -> tuple[tuple[int, ...], bool | None]:
    """Shape of an input before it was flattened; and whether inputs are images, None: not known.

    :param shape: as the model gets them.
    """
    benchmark = benchmark_of(experience)
    if len(shape) > 1 or not hasattr(benchmark, "image_shape"):
        return shape, None
    known = benchmark.image_shape
    if known is None:
        return shape, False
    return (known if math.prod(known) == shape[0] else shape), True


def _record_inputs(module: nn.Module, mean: RunningMean) -> Any:
    """Add the inputs of ``module`` to ``mean`` while it trains."""
    # A strategy may deep-copy the model, hooks and all (LwF does); copies must not record.
    original = weakref.ref(module)

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module is original() and module.training and args:
            mean.add(args[0].detach().flatten(1))

    return module.register_forward_pre_hook(record)
