"""Sleep: replay and local plasticity after an experience."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from continual_ep.arms.assembly import Assembly
from continual_ep.arms.mechanism import Mechanism, Needs
from continual_ep.options import Choice, Options, option, option_fields
from continual_ep.sleep.registry import SLEEP_ALGORITHMS, SleepSchedule


@dataclass(frozen=True, kw_only=True)
class Sleep(SleepSchedule, Choice, Mechanism):
    """Sleep after experiences, by :class:`~continual_ep.plugins.SleepReplay`.

    ``sleep`` takes the algorithm and the options of the group ``sleep`` of a configuration;
    ``sleep:NAME`` another algorithm. Kept: what the algorithm needs from the waking phase, for sleep
    replay consolidation running means of the inputs. Source: Tadros et al. 2022
    (doi:10.1038/s41467-022-34938-7).
    """

    key = "algorithm"
    main = "algorithm"
    sources = ("tadros2022",)

    algorithm: str = option("src", "how weights change during sleep")

    @classmethod
    def choices(cls) -> Mapping[str, type[Options]]:
        return SLEEP_ALGORITHMS

    @property
    def needs(self) -> Needs:  # type: ignore[override] # depends on the algorithm
        return Needs("class-means" in self.options.needs, boundaries=True, samples=False)

    @classmethod
    def with_main(cls, values: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """Another algorithm than that of the group takes when and where from it, nothing else."""
        if values.get("algorithm", "src") == value:
            return dict(values)
        shared = [field.name for field in option_fields(SleepSchedule)]
        return {"algorithm": value} | {k: v for k, v in values.items() if k in shared}

    def install(self, assembly: Assembly) -> None:
        from continual_ep.plugins import SleepReplay

        schedule = {f.name: getattr(self, f.name) for f in option_fields(SleepSchedule)}
        assembly.add("sleep", SleepReplay(self.options, seed=assembly.seed, **schedule))
