"""Sleep replay as an Avalanche plugin: one line makes any strategy sleep."""

import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from avalanche.evaluation.metric_results import MetricValue
from avalanche.models.utils import avalanche_forward
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.utils.data import DataLoader

from continual_ep.errors import CheckpointError, ConfigurationError
from continual_ep.sleep.activity import ActivityMaxima
from continual_ep.sleep.calibration import published_thresholds
from continual_ep.sleep.diary import SleepDiary
from continual_ep.sleep.layers import Chain, has_biases, plastic_layers
from continual_ep.sleep.parameters import SleepParameters, preset_named
from continual_ep.sleep.prepare import (
    night_generator,
    prepare_chains,
    warn_no_inputs,
    warn_of_biases,
    warn_of_flat_inputs,
    warn_of_negative_inputs,
)
from continual_ep.sleep.replay_input import (
    ClassReplayInput,
    FunctionReplayInput,
    MeanReplayInput,
    ReplayInput,
    square_image,
    with_mask,
)
from continual_ep.sleep.statistics import InputStatistics, RunningMean
from continual_ep.sleep.walk import find_chains, warn_of_unknown_layers
from continual_ep.streams.experiences import benchmark_of, learns_jointly, part_of, refuse_empty

DREAMS = ("mean", "experience-mean", "class-means")

#: Format of the state dict; raised when its meaning changes.
STATE_FORMAT = 1


class SleepReplay(SupervisedPlugin):
    """Lets the model sleep after experiences, so that it forgets less of the earlier ones.

    Works with any strategy and any model: networks with a method ``synapses()`` name their layers
    themselves; in other modules Linear and Conv2d layers are found by watching one batch. It stores
    no samples, only running means; it does not touch the optimizer, other layers, or the random
    streams of the training. It sleeps in ``after_training_exp``, before the evaluator and the
    evaluation at the end of an experience. ``eval_every`` > 0 may evaluate the last epoch before the
    sleep. Around each night it calls ``sleep_begins(strategy)`` and ``sleep_ends(strategy)`` on all
    plugins that have them.

    Source: Tadros, Krishnan, Ramyaa, Bazhenov 2022 (doi:10.1038/s41467-022-34938-7); for networks
    trained by equilibrium propagation: Kubo, Delanois, Bazhenov 2025 (arXiv:2508.14081).

    Main arguments:

    :param when: ``"every"`` experience, the ``"last"`` one of the stream, or a list of experiences by
        their number in the whole stream, from 0 (``experience.current_experience``). On online streams
        nights follow the last small experience of each one that was cut.
    :param steps: length of the first night; default: the preset's. Nights are counted by experiences
        learned, not by nights slept: with ``growth`` the night after the fifth experience is as long when
        it is the only one.
    :param preset: ``"calibrated"`` (thresholds from the network at hand), ``"tadros2022:mnist"`` and
        the other names of :data:`continual_ep.sleep.PRESETS`, or
        :class:`~continual_ep.sleep.SleepParameters`.
    :param dreams: ``"mean"`` of all inputs seen, ``"experience-mean"`` of the current experience only,
        ``"class-means"`` (one class at a time, drawn at random), or a function
        ``(generator, step) -> rates`` for the model's input.
    :param seed: of the plugin's own generators, one for each night.

    Other arguments:

    :param exclude: names of layers whose weights stay as they are (they still pass spikes on);
        layers that do not require gradients stay as they are anyway.
    :param hold: steps for which ``"class-means"`` replays the same class.
    :param diary: keep a :class:`~continual_ep.sleep.SleepDiary` of each night in ``diaries``; the last
        one is always in ``last_night``.
    :param constants: any constant of :class:`~continual_ep.sleep.SleepParameters` in place of the
        preset's: ``feedback``, ``biases``, ``quiet_steps``, ``growth``, ``output_threshold``, ...
    :raises ConfigurationError: for an unknown option or a value out of its range.
    """

    supports_distributed = False

    def __init__(
        self,
        *,
        when: str | Sequence[int] = "every",
        steps: int | None = None,
        preset: str | SleepParameters = "calibrated",
        dreams: str | Callable[[torch.Generator, int], Tensor] = "mean",
        seed: int = 0,
        exclude: Sequence[str] = (),
        hold: int = 1,
        diary: bool = False,
        **constants: Any,
    ) -> None:
        super().__init__()
        parameters = preset if isinstance(preset, SleepParameters) else preset_named(preset)
        if steps is not None:
            constants["steps"] = steps
        self.parameters = parameters.with_constants(**constants)
        self.when = _checked_when(when)
        if not callable(dreams) and dreams not in DREAMS:
            raise ConfigurationError(
                f"dreams must be one of {', '.join(DREAMS)}, or a function, not {dreams!r}"
            )
        if type(hold) is not int or hold < 1:
            raise ConfigurationError(f"hold must be at least 1 step, not {hold}")
        self.dreams, self.hold, self.seed = dreams, hold, seed
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self.keep_diaries = diary
        self.diaries: list[SleepDiary] = []
        self.last_night: SleepDiary | None = None
        self.statistics = InputStatistics(per_class=dreams == "class-means")
        #: Experiences trained on so far.
        self.experiences = 0
        self._chains: list[Chain] | None = None
        self._unknown: list[str] = []
        self._inner: dict[str, RunningMean] = {}
        self._hooks: list[Any] = []
        self._warned: set[str] = set()

    def check(self, strategy: Any, experience: Any, example: Tensor) -> None:
        """What would go wrong in a night, before anything is trained.

        :param experience: of the stream; :param example: a batch of its inputs.
        :raises ConfigurationError: layers that cannot sleep or are unknown, thresholds of another
            number, a window that the inputs have no room for.
        """
        twin = SleepReplay(preset=self.parameters, dreams="mean", exclude=self.exclude)
        chains = twin._find_chains(strategy, example.to(strategy.device))
        twin._remove_hooks()
        plastic_layers(chains, self.exclude)
        if self.parameters.thresholds is not None:
            published_thresholds(chains, self.parameters)
        if not callable(self.dreams):
            twin.statistics.add(example)
            shape, features = twin._shape_of_inputs(experience)
            with_mask(
                MeanReplayInput(example[0].flatten()), shape, self.parameters, features=features
            )

    # -- awake: gather statistics --------------------------------------------------------------------

    def before_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        refuse_empty(strategy)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._chains = None
        self._remove_hooks()
        if part_of(strategy.experience).is_first:
            self.statistics.new_experience()
            if self.dreams == "experience-mean":
                self._inner = {}

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if len(strategy.mb_x) == 0:
            return
        if self._chains is None:
            self._find_chains(strategy, strategy.mb_x[:2])
        self.statistics.add(strategy.mb_x, strategy.mb_y)

    def _find_chains(self, strategy: Any, example: Tensor) -> list[Chain]:
        """Anew in each experience, as the model may have grown a head."""

        def forward(x: Tensor) -> Any:
            tasks = torch.zeros(len(x), dtype=torch.long, device=x.device)
            seen = getattr(strategy, "mbatch", None)
            if seen is not None and len(seen) > 2:
                tasks = seen[-1][: len(x)]
            return avalanche_forward(strategy.model, x, tasks)

        self._chains, self._unknown = find_chains(strategy.model, example, forward)
        for chain in self._chains:
            if chain.source is not None:
                mean = self._inner.setdefault(chain.layers[0].name, RunningMean())
                self._hooks.append(_record_inputs(chain.source, mean))
        return self._chains

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
        if not self._sleeps_after(strategy):
            return
        if self.statistics.shape is None or self.statistics.overall.count == 0:
            self._once("inputs", warn_no_inputs)
            return
        for plugin in list(strategy.plugins):
            if hasattr(plugin, "sleep_begins"):
                plugin.sleep_begins(strategy)
        with torch.no_grad():
            self.last_night = self._sleep(strategy)
        if self.keep_diaries:
            self.diaries.append(self.last_night)
        self._publish(strategy, self.last_night)
        for plugin in list(strategy.plugins):
            if hasattr(plugin, "sleep_ends"):
                plugin.sleep_ends(strategy)

    def _sleeps_after(self, strategy: Any) -> bool:
        if self.when == "every":
            return True
        if self.when == "last":
            if learns_jointly(strategy):
                return True
            stream = getattr(strategy.experience, "origin_stream", None)
            if stream is None:
                raise ConfigurationError(
                    "when='last' needs experiences of a stream, to know which is the last: give the "
                    "indices of the experiences instead, e.g. when=[4]"
                )
            return bool(strategy.experience.current_experience == len(stream) - 1)
        return part_of(strategy.experience).experience in self.when

    def _sleep(self, strategy: Any) -> SleepDiary:
        chains = self._chains
        if chains is None:  # nothing was trained on in this experience
            assert self.statistics.shape is not None
            parameter = next(strategy.model.parameters())
            chains = self._find_chains(strategy, parameter.new_zeros(2, *self.statistics.shape))
            self._remove_hooks()
        # A chain whose inputs have not been seen has nothing to replay.
        chains = [c for c in chains if c.source is None or self._inner_mean(c).count]
        plastic = plastic_layers(chains, self.exclude)
        self._warn(chains)
        night = self.experiences
        maxima = None
        if self.parameters.gain_scale is not None:
            maxima = self._activity_maxima(strategy, chains)
        return prepare_chains(
            chains,
            [self._replay_input(chain, strategy) for chain in chains],
            self.parameters,
            steps=self.parameters.night_steps(night),
            plastic=plastic,
            generators=[night_generator(self.seed, night, n) for n in range(len(chains))],
            activity_maxima=maxima,
        ).run()

    def _inner_mean(self, chain: Chain) -> RunningMean:
        return self._inner.get(chain.layers[0].name, RunningMean())

    def _replay_input(self, chain: Chain, strategy: Any) -> ReplayInput:
        if chain.source is not None:
            return MeanReplayInput(self._inner_mean(chain).mean)
        if callable(self.dreams):
            return FunctionReplayInput(self.dreams, chain.inputs)
        replay: ReplayInput
        if self.dreams == "class-means":
            replay = ClassReplayInput(self.statistics.class_means(), self.hold)
        elif self.dreams == "experience-mean" and self.statistics.experience.count:
            replay = MeanReplayInput(self.statistics.experience.mean)
        else:
            replay = MeanReplayInput(self.statistics.overall.mean)
        shape, features = self._shape_of_inputs(strategy.experience)
        return with_mask(replay, shape, self.parameters, features=features)

    def _shape_of_inputs(self, experience: Any) -> tuple[tuple[int, ...], bool]:
        """Shape of one input before it was flattened, and whether it is no image.

        The streams of this package know; flat inputs of others are images if their number allows it.
        """
        shape = self.statistics.shape
        assert shape is not None
        benchmark = benchmark_of(experience)
        if len(shape) == 1 and hasattr(benchmark, "image_shape"):
            known = benchmark.image_shape
            if known is None:
                return shape, True
            return (known if math.prod(known) == shape[0] else shape), False
        if len(shape) == 1 and self.parameters.window == "auto" and square_image(shape):
            self._once("flat", lambda: warn_of_flat_inputs(shape[0]))
        return shape, False

    def _activity_maxima(self, strategy: Any, chains: list[Chain]) -> list[list[float]]:
        """The largest activations under the current weights, over the current experience."""
        maxima = ActivityMaxima(strategy.model, chains)
        dataset = strategy.experience.dataset
        loader = DataLoader(
            dataset,
            batch_size=max(1, strategy.eval_mb_size),
            collate_fn=getattr(dataset, "collate_fn", None),
            generator=torch.Generator().manual_seed(0),
        )
        devices = [strategy.device] if torch.device(strategy.device).type == "cuda" else []
        with torch.random.fork_rng(devices), maxima:
            for batch in loader:
                tasks = torch.as_tensor(batch[-1]).to(strategy.device)
                forward = partial(avalanche_forward, strategy.model, task_labels=tasks)
                maxima.see(batch[0].to(strategy.device), forward)
        return maxima.values()

    # -- reports -----------------------------------------------------------------------------------------

    def _warn(self, chains: list[Chain]) -> None:
        if self._unknown:
            self._once("unknown", lambda: warn_of_unknown_layers(self._unknown))
        if has_biases(chains):
            self._once("biases", lambda: warn_of_biases(chains, self.parameters))
        mean = self.statistics.overall.mean
        if bool((mean < 0).double().mean() > 0.5):
            self._once("negative", lambda: warn_of_negative_inputs(mean))

    def _once(self, what: str, warn: Callable[[], None]) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warn()

    def _publish(self, strategy: Any, night: SleepDiary) -> None:
        """Spikes and relative weight change of each layer, for Avalanche's loggers."""
        evaluator = getattr(strategy, "evaluator", None)
        if evaluator is None or not hasattr(evaluator, "publish_metric_value"):
            return
        step = int(getattr(strategy.clock, "train_iterations", self.experiences))
        rows = zip(night.layers, night.spikes, night.relative_change, strict=True)
        for layer, spikes, change in rows:
            for name, value in (("Sleep_Spikes", spikes), ("Sleep_WeightChange", change)):
                full = f"{name}/train_phase/{layer}"
                evaluator.publish_metric_value(MetricValue(self, full, float(value), step))

    # -- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Statistics and counters; tensors and plain values, no samples."""
        return {
            "format": STATE_FORMAT,
            "experiences": self.experiences,
            "statistics": self.statistics.state_dict(),
            "inner": {name: mean.state_dict() for name, mean in self._inner.items()},
            "warned": sorted(self._warned),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """:raises CheckpointError: for a damaged state, or one of another format; nothing changes then."""
        if state.get("format") != STATE_FORMAT:
            raise CheckpointError(
                f"the state of SleepReplay has format {state.get('format')!r}, this version reads "
                f"{STATE_FORMAT}"
            )
        try:
            statistics = InputStatistics(per_class=self.dreams == "class-means")
            statistics.load_state_dict(state["statistics"])
            inner = {}
            for name, mean in state["inner"].items():
                inner[name] = RunningMean()
                inner[name].load_state_dict(mean)
            experiences, warned = int(state["experiences"]), set(state["warned"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the state of SleepReplay is damaged: {error!r}") from error
        # All at once, so that a damaged state leaves everything as it is.
        self.statistics, self._inner = statistics, inner
        self.experiences, self._warned = experiences, warned


def _checked_when(when: str | Sequence[int]) -> str | frozenset[int]:
    if isinstance(when, str) and when in ("every", "last"):
        return when
    if isinstance(when, str) or not isinstance(when, Iterable):
        raise ConfigurationError(
            f"when must be 'every', 'last' or a list of experiences by number, not {when!r}"
        )
    numbers = list(when)
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ConfigurationError(f"when lists experiences by number, from 0, not {numbers}")
    return frozenset(numbers)


def _record_inputs(module: nn.Module, mean: RunningMean) -> Any:
    """Add the inputs of ``module`` to ``mean`` while it trains."""
    # A strategy may deep-copy the model, hooks and all (LwF does); copies must not record.
    original = weakref.ref(module)

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        if module is original() and module.training and args:
            mean.add(args[0].detach().flatten(1))

    return module.register_forward_pre_hook(record)
