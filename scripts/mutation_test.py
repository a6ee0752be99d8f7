"""Insert known defects one by one, and report which of them the tests catch.

Run by ``make mutation``; a name or part of one chooses defects, ``--list`` shows them. The package and
its tests are copied to a temporary folder first: this checkout is never changed.

A defect is *caught* when a test named with it fails, *alive* when all of them pass, and *stale* when
its old text does not stand in the file exactly once or the tests cannot run. The exit status is 1
unless all are caught.
"""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent

#: Seconds after which the tests of a defect are ended; a night without end is caught as well.
LIMIT = 600


class Defect(NamedTuple):
    """One wrong line.

    :param file: below ``continual_ep/``.
    :param old: text that stands in the file exactly once; :param new: what replaces it.
    :param tests: pytest node ids below ``tests/``, of which at least one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


EP = "learning/equilibrium_propagation.py"
REFERENCE_GRADIENT = "test_gradients.py::test_fast_engine_equals_the_reference"
DENSE_NIGHT = "test_sleep_engine.py::test_the_engine_equals_the_dense_reference"
CALIBRATION = (
    "test_sleep_engine.py::test_calibration_hits_the_quantile_and_the_mean_of_the_strongest"
)
WINDOW = "test_sleep_modules.py::test_a_window_shows_a_square_somewhere_in_all_channels"
BATCH_NORM = "test_sleep_kernels.py::test_batch_norm_sleeps_as_part_of_the_weights_below_it"
RESUMED = "test_resume.py::test_a_stopped_cell_resumes_bit_for_bit"

DEFECTS = (
    # ---- equilibrium propagation and losses --------------------------------------------------------
    Defect(
        "ep: sign of the nudge",
        EP,
        "force = -output_gradient /",
        "force = output_gradient /",
        (REFERENCE_GRADIENT,),
    ),
    Defect(
        "ep: centred difference not halved",
        EP,
        "strength = -scale / (betas[0] - (betas[1] if len(betas) > 1 else 0.0))",
        "strength = -scale / betas[0]",
        (REFERENCE_GRADIENT,),
    ),
    Defect(
        "ep: scale of the force not undone",
        EP,
        "strength = -scale / (",
        "strength = -torch.ones_like(scale) / (",
        ("test_gradients.py::test_any_weight_of_the_loss_passes_through",),
    ),
    Defect(
        "ep: squared error without one half",
        "learning/losses.py",
        "return 0.5 * (output - target).square().sum(-1)",
        "return (output - target).square().sum(-1)",
        ("test_gradients.py::test_losses_by_hand",),
    ),
    Defect(
        "ep: presynaptic state of the other phase",
        "networks/clamped.py",
        "other = (strength * second[layer]).mT, second[layer - 1]",
        "other = (strength * second[layer]).mT, first[layer - 1]",
        (REFERENCE_GRADIENT,),
    ),
    Defect(
        "ep: feedback scale ignored",
        "networks/clamped.py",
        "scale = self.scales[layer] if above else 1.0",
        "scale = 1.0",
        ("test_family.py::test_layers_and_connections_make_the_layered_network",),
    ),
    # ---- engines of sleep --------------------------------------------------------------------------
    Defect(
        "engine: no gate in NumPy",
        "sleep/plasticity.py",
        "gate(weight, self.gate_width) * step",
        "np.ones_like(weight) * step",
        (f"{DENSE_NIGHT}[sizes1-True]",),
    ),
    Defect(
        "engine: no gate in Numba",
        "sleep/engines/numba_kernels.py",
        "weight[source, lane] += gate * change",
        "weight[source, lane] += change",
        (f"{DENSE_NIGHT}[sizes1-False]",),
    ),
    Defect(
        "engine: a spike above the threshold only",
        "sleep/engines/stepwise.py",
        "membrane >= chain.thresholds[number]",
        "membrane > chain.thresholds[number]",
        ("test_sleep_engine.py::test_feedback_arrives_one_step_later_through_the_transpose",),
    ),
    Defect(
        "engine: threshold ten percent high",
        "sleep/engines/layerwise.py",
        "kind(chain.thresholds[number]),",
        "kind(1.1 * chain.thresholds[number]),",
        (f"{DENSE_NIGHT}[sizes1-False]",),
    ),
    Defect(
        "engine: membrane not reset",
        "sleep/engines/stepwise.py",
        "membrane[fired] = 0.0",
        "membrane[fired] += 0.0",
        (f"{DENSE_NIGHT}[sizes1-True]",),
    ),
    Defect(
        "engine: kernel learns the sum over positions",
        "sleep/simulation.py",
        "share = (spikes @ active.T) / spikes.sum(1, keepdims=True)",
        "share = spikes @ active.T",
        ("test_sleep_modules.py::test_a_kernel_by_hand",),
    ),
    Defect(
        "engine: spike rate without its two",
        "sleep/parameters.py",
        "return 2.0 * self.time_step * self.max_rate",
        "return self.time_step * self.max_rate",
        ("test_sleep_modules.py::test_input_spikes_come_at_the_rate_asked_for",),
    ),
    Defect(
        "engine: nights counted from zero",
        "plugins/sleep_replay.py",
        "number=self.experiences,",
        "number=self.experiences - 1,",
        ("test_sleep_plugin.py::test_nights_grow_and_keep_a_diary",),
    ),
    Defect(
        "engine: published gains without the ratio",
        "sleep/calibration.py",
        "ratio = largest / ratio",
        "ratio = largest",
        ("test_sleep_engine.py::test_published_gains_divide_by_the_ratio_before",),
    ),
    Defect(
        "frozen layers: membranes not reset",
        "sleep/frozen.py",
        "membrane[fired.nonzero()[0]] = 0.0",
        "membrane[fired.nonzero()[0]] += 0.0",
        ("test_sleep_kernels.py::test_the_scan_is_the_equation",),
    ),
    Defect(
        "frozen layers: kernels change by default",
        "sleep/layers.py",
        "if kernels or s.kernel is None",
        "if True",
        ("test_sleep_kernels.py::test_kernels_keep_their_weights_unless_asked",),
    ),
    Defect(
        "batch norm: weights not unfolded",
        "sleep/batch_norm.py",
        "(changed / scale)",
        "(changed * scale)",
        (f"{BATCH_NORM}[ignore-False]",),
    ),
    # ---- replayed inputs and calibration -----------------------------------------------------------
    Defect(
        "replay: the bias gets what the offset lost",
        "sleep/input_range.py",
        "layer.bias.sub_(current)",
        "layer.bias.add_(current)",
        ("test_input_range.py::test_the_current_of_the_offset_is_as_before",),
    ),
    Defect(
        "replay: windows never reach the last row",
        "sleep/replay_input.py",
        "torch.randint(side - self._window + 1,",
        "torch.randint(side - self._window,",
        (WINDOW,),
    ),
    Defect(
        "replay: window one pixel too wide",
        "sleep/replay_input.py",
        "(place < corners + self._window)",
        "(place <= corners + self._window)",
        (WINDOW,),
    ),
    Defect(
        "calibration: quantile flipped",
        "sleep/calibration.py",
        "np.quantile(currents, 1.0 - firing_rate)",
        "np.quantile(currents, firing_rate)",
        (CALIBRATION,),
    ),
    Defect(
        "calibration: output as a hidden layer",
        "sleep/calibration.py",
        "if output and number == len(layers) - 1:",
        "if output and number == len(layers):",
        (CALIBRATION,),
    ),
    Defect(
        "replay: mean of the experience never reset",
        "plugins/sleep_replay.py",
        "self.statistics.new_experience()",
        "pass",
        ("test_sleep_plugin.py::test_experience_and_class_means",),
    ),
    # ---- the plugin --------------------------------------------------------------------------------
    Defect(
        "plugin: awake row measured after sleep",
        "metrics/around_nights.py",
        "awake = final if self._awake is None else self._awake",
        "awake = final",
        (
            "test_metrics_accuracy_matrix.py::"
            "test_rows_before_and_after_sleep_in_either_plugin_order",
        ),
    ),
    Defect(
        "probe: read-outs fitted to the newest experience alone",
        "metrics/representation_probe.py",
        "seen = sorted({*self.network.trained, experience} & drawn.keys())",
        "seen = [experience]",
        ("test_representation_probe.py::test_output_forgetting_alone",),
    ),
    Defect(
        "recorder: a silent night does not end early",
        "sleep/recording.py",
        "if silent == quiet_steps:",
        "if silent == -1:",
        ("test_recording.py::test_a_silent_night_ends_as_without_a_recorder",),
    ),
    Defect(
        "plugin: inputs of evaluation recorded",
        "plugins/sleep_replay.py",
        "module is original() and module.training and args",
        "module is original() and args",
        ("test_sleep_algorithms.py::test_evaluation_between_epochs_is_not_recorded",),
    ),
    Defect(
        "plugin: copies of the model record",
        "plugins/sleep_replay.py",
        "module is original() and module.training and args",
        "module.training and args",
        ("test_sleep_algorithms.py::test_copies_of_the_model_are_not_recorded",),
    ),
    Defect(
        "guard: the allowed cost grows with the newest classes",
        "sleep/guard.py",
        "max(old / (old + new) if old else 0.0, FIRST_SHARE)",
        "max(new / (old + new) if old else 0.0, FIRST_SHARE)",
        ("test_sleep_guard.py::test_the_cost_allowed_grows_with_the_share_of_older_classes",),
    ),
    Defect(
        "guard: the weakest step instead of the strongest",
        "sleep/guard.py",
        "if measured >= floor:  # false for NaN",
        "if measured < floor:",
        ("test_sleep_guard.py::test_the_strongest_admissible_step_is_taken_of_weights_and_biases",),
    ),
    Defect(
        "need: counted where older classes win",
        "sleep/need.py",
        "(new > old).double()",
        "(new < old).double()",
        (
            "test_sleep_guard.py::"
            "test_need_is_the_share_of_replay_inputs_on_which_the_newest_classes_win",
        ),
    ),
    Defect(
        "plugin: classes seen are not saved",
        "plugins/sleep_replay.py",
        '"classes": sorted(self.classes),',
        '"classes": [],',
        ("test_sleep_guard.py::test_the_classes_seen_are_part_of_the_state",),
    ),
    # ---- metrics -----------------------------------------------------------------------------------
    Defect(
        "metrics: backward transfer from the first row",
        "metrics/formulas.py",
        "matrix[-1, i] - matrix[trained.index(i), i]",
        "matrix[-1, i] - matrix[0, i]",
        ("test_metrics.py::test_backward_transfer",),
    ),
    Defect(
        "metrics: sign of the paired difference",
        "metrics/statistics.py",
        "np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)",
        "np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)",
        ("test_metrics.py::test_paired_difference_cancels_what_seeds_share",),
    ),
    # ---- exemplars ---------------------------------------------------------------------------------
    Defect(
        "exemplars: the worst are kept",
        "plugins/exemplars.py",
        "keys.argsort(descending=True, stable=True)",
        "keys.argsort(descending=False, stable=True)",
        ("test_awake_rehearsal.py::test_a_herded_memory_keeps_the_first_samples_in_herding_order",),
    ),
    Defect(
        "exemplars: herding without its running mean",
        "plugins/exemplars.py",
        "distances = (mean - (total + unit) / k)",
        "distances = (mean - unit)",
        ("test_awake_rehearsal.py::test_herding_keeps_the_running_mean_close_to_the_class_mean",),
    ),
    # ---- resumed runs ------------------------------------------------------------------------------
    Defect(
        "resume: NumPy's generator not restored",
        "experiments/randomness.py",
        "np.random.set_state(",
        "tuple(",
        ("test_resume.py::test_all_global_generators_are_restored",),
    ),
    Defect(
        "resume: torch's generator not restored",
        "experiments/randomness.py",
        'torch.set_rng_state(states["torch"])',
        "pass",
        (f"{RESUMED}[sequential-experience-1]",),
    ),
    Defect(
        "resume: generator of rehearsal not restored",
        "plugins/awake_rehearsal.py",
        "self.generator = generator",
        "pass",
        ("test_awake_rehearsal.py::test_a_resumed_run_is_the_same_bit_for_bit",),
    ),
    Defect(
        "resume: momentum lost",
        "experiments/checkpoint.py",
        'strategy.optimizer.load_state_dict(state["optimizer"])',
        "pass",
        (f"{RESUMED}[sgd-experience-1]",),
    ),
    Defect(
        "resume: clock not restored",
        "experiments/checkpoint.py",
        "setattr(strategy.clock, key, value)",
        "pass",
        ("test_cells.py::test_a_restored_clock_goes_on",),
    ),
    # ---- cells of a run ----------------------------------------------------------------------------
    Defect(
        "run: validation data left in training",
        "streams/benchmark.py",
        "kept = limited(labels, kept, groups,",
        "kept = limited(labels, torch.arange(len(labels)), groups,",
        ("test_cells.py::test_a_cell_never_trains_on_validation_data",),
    ),
    Defect(
        "run: every seed has the weights of seed 0",
        "experiments/build.py",
        'generator_from(f"weights:{cell.seed}")',
        'generator_from("weights:0")',
        ("test_cells.py::test_each_seed_has_initial_weights_of_its_own",),
    ),
    Defect(
        "run: every seed sleeps with the generator of seed 0",
        "arms/sleep.py",
        "seed=assembly.seed,",
        "seed=0,",
        ("test_cells.py::test_each_seed_has_nights_of_its_own",),
    ),
)


def copy_of_the_checkout(folder: Path) -> Path:
    """The package and its tests, without compiled files."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("continual_ep", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Pytest's exit status and the end of its output; 1 for tests that do not end."""
    # Without compiled files: one of the same second and size as a defect would hide it.
    environment = os.environ | {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Other packages' pytest plugins take longer to load than most of these tests.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--durations=0", "--no-header"]
    command += ["-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return 1, f"not done after {LIMIT} s"
    return done.returncode, (done.stdout + done.stderr).strip()[-2000:]


def outcome(defect: Defect, copy: Path) -> tuple[str, str]:
    """What became of a defect (``caught``, ``alive`` or ``stale``), and why if it is stale."""
    path = copy / "continual_ep" / defect.file
    original = path.read_text(encoding="utf-8") if path.exists() else ""
    count = original.count(defect.old)
    if count != 1:
        return "stale", f"{defect.old!r} stands {count} times in {defect.file}, not once"
    path.write_text(original.replace(defect.old, defect.new), encoding="utf-8")
    try:
        status, output = run_tests(copy, defect.tests)
    finally:
        path.write_text(original, encoding="utf-8")
    if status == 0:
        return "alive", ""
    # Any other status: tests that are not there, or a package that cannot be imported.
    return ("caught", "") if status == 1 else ("stale", output)


def chosen(names: Sequence[str]) -> list[Defect]:
    """The defects whose names contain one of ``names``; all without any."""
    for name in names:
        if not any(name in defect.name for defect in DEFECTS):
            raise SystemExit(f"no defect is called {name!r}; --list shows their names")
    return [d for d in DEFECTS if not names or any(name in d.name for name in names)]


def run(defects: Sequence[Defect], processes: int) -> int:
    """Try all defects; 0 if all are caught."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for number in range(processes):
            copies.put(copy_of_the_checkout(Path(folder) / str(number)))
        # A test that fails without a defect catches nothing.
        first = copies.get()
        status, output = run_tests(first, sorted({t for d in defects for t in d.tests}))
        copies.put(first)
        if status != 0:
            print(f"the tests do not pass without a defect:\n{output}")
            return 1

        def work(defect: Defect) -> tuple[str, str]:
            copy = copies.get()
            try:
                return outcome(defect, copy)
            finally:
                copies.put(copy)

        results = []
        with ThreadPoolExecutor(processes) as pool:
            for defect, result in zip(defects, pool.map(work, defects), strict=True):
                print(f"{result[0]:7} {defect.name}", flush=True)
                if result[1]:
                    print(f"        {result[1]}")
                results.append(result[0])
    print(f"{results.count('caught')} of {len(results)} caught")
    return 0 if set(results) <= {"caught"} else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of names; default: all defects")
    parser.add_argument("--processes", type=int, default=1, help="tests run at once (default 1)")
    parser.add_argument("--list", action="store_true", help="show names, files and tests only")
    options = parser.parse_args()
    defects = chosen(options.names)
    if options.list:
        for defect in defects:
            print(f"{defect.name}\n    {defect.file}: {' '.join(defect.tests)}")
        return 0
    return run(defects, max(1, options.processes))


if __name__ == "__main__":
    sys.exit(main())
