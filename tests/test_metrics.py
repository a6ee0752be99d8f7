"""Every formula against a matrix small enough to work out by hand."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continual_ep import metrics
from continual_ep.errors import ConfigurationError, InputError

# Rows are times, columns experiences.
R = [
    [0.9, 0.1, 0.2],
    [0.5, 0.8, 0.3],
    [0.6, 0.4, 0.7],
]
R_PRE = [
    [0.95, 0.1, 0.2],
    [0.1, 0.9, 0.3],
    [0.0, 0.2, 0.9],
]
COUNTS = [10, 30, 60]
BASELINE = [0.1, 0.15, 0.05]


def test_average_accuracy():
    assert metrics.average_accuracy(R) == pytest.approx((0.6 + 0.4 + 0.7) / 3)


def test_pooled_accuracy_weighs_samples():
    # right: 6 of 10, 12 of 30, 42 of 60 = 60 of 100
    assert metrics.pooled_accuracy(R, COUNTS) == pytest.approx(0.60)


def test_anytime_accuracy():
    # 0.9; (0.5 + 0.8) / 2 = 0.65; 1.7 / 3
    assert metrics.anytime_accuracy(R) == pytest.approx((0.9 + 0.65 + 1.7 / 3) / 3)


def test_forgetting_from_initial():
    # experience 0: 0.9 - 0.6; experience 1: 0.8 - 0.4; the last one does not count
    assert metrics.forgetting_from_initial(R) == pytest.approx((0.3 + 0.4) / 2)


def test_the_three_definitions_differ_where_they_should():
    # Experience 0 rises from 0.2 to 0.7; experience 1 has 0.6 before it is learned and ends at 0.3.
    rising = [[0.2, 0.6, 0.0], [0.5, 0.4, 0.0], [0.7, 0.3, 0.9]]
    # initial: (0.2 - 0.7) and (0.4 - 0.3)
    assert metrics.forgetting_from_initial(rising) == pytest.approx((-0.5 + 0.1) / 2)
    # max incl. last: (0.7 - 0.7) and (0.6 - 0.3)
    assert metrics.forgetting_max(rising) == pytest.approx((0.0 + 0.3) / 2)
    # max of earlier: (0.5 - 0.7) and (0.6 - 0.3)
    assert metrics.forgetting_chaudhry(rising) == pytest.approx((-0.2 + 0.3) / 2)


def test_backward_transfer():
    assert metrics.backward_transfer(R) == pytest.approx((-0.3 - 0.4) / 2)


def test_forward_transfer():
    # experience 1 before it was learned: 0.1 against 0.15; experience 2: 0.3 against 0.05
    assert metrics.forward_transfer(R, BASELINE) == pytest.approx((-0.05 + 0.25) / 2)


def test_sleep_gain_and_new_task_cost():
    # row 1: experience 0 from 0.1 to 0.5; row 2: (0.0 -> 0.6, 0.2 -> 0.4)
    assert metrics.sleep_gain(R, R_PRE, 1) == pytest.approx(0.4)
    assert metrics.sleep_gain(R, R_PRE, 2) == pytest.approx((0.6 + 0.2) / 2)
    assert metrics.sleep_gain(R, R_PRE) == pytest.approx((0.4 + 0.4) / 2)
    # newest: 0.95 -> 0.9, 0.9 -> 0.8, 0.9 -> 0.7
    assert metrics.new_task_cost(R, R_PRE, 2) == pytest.approx(0.2)
    assert metrics.new_task_cost(R, R_PRE) == pytest.approx((0.05 + 0.1 + 0.2) / 3)


def test_unfinished_run_counts_the_learned_experiences_only():
    half = R[:2]
    assert metrics.average_accuracy(half) == pytest.approx((0.5 + 0.8) / 2)
    assert metrics.pooled_accuracy(half, COUNTS) == pytest.approx((5 + 24) / 40)
    assert metrics.forgetting_max(half) == pytest.approx(0.4)


def test_one_experience_has_nothing_to_forget():
    for name in ("from_initial", "max", "chaudhry"):
        assert math.isnan(getattr(metrics, f"forgetting_{name}")([[0.9]]))
    assert math.isnan(metrics.backward_transfer([[0.9]]))
    assert math.isnan(metrics.sleep_gain([[0.9]], [[0.9]]))
    assert metrics.average_accuracy([[0.9]]) == 0.9


def test_an_experience_learned_again_keeps_its_first_row_as_initial():
    # experience 0, 1, then 0 again: experience 1 is the old one now
    rows = [[0.9, 0.0], [0.2, 0.8], [0.7, 0.5]]
    again = [0, 1, 0]
    assert metrics.average_accuracy(rows, trained=again) == pytest.approx(0.6)
    assert metrics.forgetting_from_initial(rows, trained=again) == pytest.approx(0.8 - 0.5)
    assert metrics.anytime_accuracy(rows, trained=again) == pytest.approx((0.9 + 0.5 + 0.6) / 3)
    assert metrics.forward_transfer(rows, [0, 0.1], trained=again) == pytest.approx(0.0 - 0.1)


def test_experiences_learned_in_another_order():
    rows = [[0.0, 0.9], [0.8, 0.3]]
    assert metrics.forgetting_max(rows, trained=[1, 0]) == pytest.approx(0.6)


square = st.integers(1, 5).flatmap(
    lambda n: st.lists(
        st.lists(st.floats(0, 1), min_size=n, max_size=n), min_size=n, max_size=n
    ).map(np.array)
)


@given(square)
def test_relations_between_the_definitions(matrix):
    if len(matrix) == 1:
        return
    initial = metrics.forgetting_from_initial(matrix)
    chaudhry = metrics.forgetting_chaudhry(matrix)
    maximum = metrics.forgetting_max(matrix)
    assert maximum >= -1e-12
    assert initial <= chaudhry + 1e-12 <= maximum + 2e-12
    assert metrics.backward_transfer(matrix) == -initial


@given(square)
def test_without_sleep_gain_and_cost_are_zero(matrix):
    assert metrics.new_task_cost(matrix, matrix) == 0
    assert len(matrix) == 1 or metrics.sleep_gain(matrix, matrix) == 0


def test_summary_has_every_metric_and_nan_for_what_is_unknown():
    full = metrics.summary(R, R_PRE, COUNTS, BASELINE)
    assert full == {
        "average_accuracy": metrics.average_accuracy(R),
        "pooled_accuracy": metrics.pooled_accuracy(R, COUNTS),
        "anytime_accuracy": metrics.anytime_accuracy(R),
        "forgetting_from_initial": metrics.forgetting_from_initial(R),
        "forgetting_max": metrics.forgetting_max(R),
        "forgetting_chaudhry": metrics.forgetting_chaudhry(R),
        "backward_transfer": metrics.backward_transfer(R),
        "forward_transfer": metrics.forward_transfer(R, BASELINE),
        "sleep_gain": metrics.sleep_gain(R, R_PRE),
        "new_task_cost": metrics.new_task_cost(R, R_PRE),
    }
    bare = metrics.summary(R)
    unknown = {name for name, value in bare.items() if math.isnan(value)}
    assert unknown == {"pooled_accuracy", "forward_transfer", "sleep_gain", "new_task_cost"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.average_accuracy([0.1, 0.2]), "rows and columns"),
        (lambda: metrics.average_accuracy([[]]), "rows and columns"),
        (lambda: metrics.average_accuracy([[0.1], [0.2]]), "1 columns but the experiences"),
        (lambda: metrics.average_accuracy(R, trained=[0, 1]), "one experience per row"),
        (lambda: metrics.pooled_accuracy(R, [1, 2]), "counts has shape"),
        (lambda: metrics.pooled_accuracy(R, [1, 2, 0]), "positive"),
        (lambda: metrics.forward_transfer(R, [0.1]), "baseline has shape"),
        (lambda: metrics.sleep_gain(R, [[0.1] * 4] * 3), "R_pre"),
    ],
)
def test_unusable_matrices(call, message):
    with pytest.raises(InputError, match=message):
        call()


# ---- over seeds ------------------------------------------------------------------------------------


def test_confidence_interval_against_the_table_of_students_t():
    # mean 3, s = sqrt(2.5), t(0.975, 4) = 2.776445
    interval = metrics.confidence_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3 and interval.n == 5
    assert interval.half_width == pytest.approx(2.776445 * math.sqrt(2.5) / math.sqrt(5), rel=1e-6)
    assert (interval.low + interval.high) / 2 == pytest.approx(3)
    # t(0.95, 2) = 2.919986, s = 1
    assert metrics.confidence_interval([1, 2, 3], 0.90).half_width == pytest.approx(
        2.919986 / math.sqrt(3), rel=1e-6
    )


def test_one_seed_has_no_interval():
    interval = metrics.confidence_interval([0.5])
    assert interval.mean == 0.5 and interval.n == 1 and math.isnan(interval.half_width)


def test_paired_difference_cancels_what_seeds_share():
    a, b = [0.9, 0.5, 0.1], [0.8, 0.4, 0.0]
    difference = metrics.paired_difference(a, b)
    assert difference.mean == pytest.approx(0.1)
    assert difference.half_width == pytest.approx(0, abs=1e-9)
    assert metrics.confidence_interval(a).half_width > 0.5


def test_identical_values_have_an_interval_of_width_zero():
    for function in (metrics.confidence_interval, metrics.accuracy_interval):
        for value in (0.1, 1.0, 0.0, 0.7):
            assert function([value] * 3) == (value, value, value, 3)
    assert metrics.paired_difference([0.7] * 3, [0.4] * 3, method="bootstrap").half_width == 0
    assert math.isnan(metrics.paired_difference([0.7], [0.4], method="bootstrap").low)


def test_accuracy_interval_by_hand():
    # mean 0.9, s = 0.05 * sqrt(3), t(0.975, 2) = 4.302653; logit(0.9) = 2.197225
    values = [0.85, 0.85, 1.0]
    interval = metrics.accuracy_interval(values)
    error = 4.302653 * 0.05 * math.sqrt(3) / math.sqrt(3) / (0.9 * 0.1)
    expected = [1 / (1 + math.exp(-(2.197225 + sign * error))) for sign in (-1, 1)]
    assert [interval.low, interval.high] == pytest.approx(expected, rel=1e-5)
    assert interval.mean == pytest.approx(0.9) and interval.n == 3
    # The plain one leaves [0, 1] here.
    assert metrics.confidence_interval(values).high > 1 > interval.high


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_accuracy_intervals_hold_the_mean_and_stay_in_their_range(values):
    interval = metrics.accuracy_interval(values)
    assert 0 <= interval.low <= interval.mean + 1e-12
    assert interval.mean - 1e-12 <= interval.high <= 1
    mirrored = metrics.accuracy_interval([1 - value for value in values])
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-6)


def test_accuracy_interval_equals_students_in_mid_range():
    values = [0.49, 0.5, 0.51]
    plain, logit = metrics.confidence_interval(values), metrics.accuracy_interval(values)
    assert [logit.low, logit.high] == pytest.approx([plain.low, plain.high], abs=1e-4)


def test_coverage_of_accuracy_intervals_near_one():
    """Six seeds, accuracies of mean 0.95: the percentile bootstrap is too narrow, this one is not."""
    rng = np.random.default_rng(0)
    samples = rng.beta(19, 1, size=(1000, 6))
    intervals = [metrics.accuracy_interval(values) for values in samples]
    covered = np.mean([interval.low <= 0.95 <= interval.high for interval in intervals])
    plain = [metrics.confidence_interval(values) for values in samples]
    resampled = samples[:, rng.integers(6, size=(500, 6))].mean(axis=2)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=1)
    assert covered == pytest.approx(0.94, abs=0.02)
    assert np.mean([i.low <= 0.95 <= i.high for i in plain]) == pytest.approx(0.90, abs=0.02)
    assert np.mean((low <= 0.95) & (high >= 0.95)) == pytest.approx(0.81, abs=0.02)


def test_bootstrap_of_paired_differences_against_all_resamples():
    """BCa (Efron 1987) from the exact distribution: all 5^5 resamples of five differences."""
    a, b = np.array([0.9, 0.7, 0.8, 0.6, 0.99]), np.array([0.5, 0.6, 0.75, 0.52, 0.6])
    d = a - b
    means = np.sort([np.mean(r) for r in itertools.product(d, repeat=5)])
    normal = statistics.NormalDist()
    bias = normal.inv_cdf(np.mean(means < d.mean() - 1e-12) / 2 + np.mean(means <= d.mean()) / 2)
    jackknife = np.array([np.delete(d, i).mean() for i in range(5)])
    u = jackknife.mean() - jackknife
    skew = (u**3).sum() / (6 * (u**2).sum() ** 1.5)
    bounds = []
    for share in (0.025, 0.975):
        z = bias + normal.inv_cdf(share)
        bounds.append(np.quantile(means, normal.cdf(bias + z / (1 - skew * z))))
    interval = metrics.paired_difference(a, b, method="bootstrap")
    assert [interval.low, interval.high] == pytest.approx(bounds, abs=0.005)
    assert interval.mean == pytest.approx(d.mean())
    assert interval == metrics.paired_difference(a, b, method="bootstrap")


def test_unusable_values():
    with pytest.raises(InputError, match="not in percent"):
        metrics.accuracy_interval([90.0, 91.0])
    with pytest.raises(InputError, match="at least one finite"):
        metrics.accuracy_interval([])
    with pytest.raises(ConfigurationError, match="method='z'"):
        metrics.paired_difference([1.0], [2.0], method="z")
    with pytest.raises(InputError, match="at least one finite"):
        metrics.confidence_interval([])
    with pytest.raises(InputError, match="at least one finite"):
        metrics.confidence_interval([1.0, math.nan])
    with pytest.raises(InputError, match="3 values cannot be paired with 2"):
        metrics.paired_difference([1, 2, 3], [1, 2])
    with pytest.raises(ConfigurationError, match="level=95"):
        metrics.confidence_interval([1, 2], 95)


# ---- records ---------------------------------------------------------------------------------------


def record():
    made = metrics.AccuracyRecord("test", COUNTS)
    for t in range(3):
        made.add(t, R_PRE[t], R[t], slept=True)
    made.baseline = list(BASELINE)
    return made


def test_record_knows_its_metrics():
    made = record()
    assert made.awake.tolist() == R_PRE and made.asleep.tolist() == R
    assert made.pooled_asleep == pytest.approx([0.9, 29 / 40, 0.6])
    values = made.summary()
    assert values["pooled_accuracy_awake"] == pytest.approx((0 + 6 + 54) / 100)
    assert values["sleep_gain"] == metrics.sleep_gain(R, R_PRE)


def test_record_survives_json():
    import json

    made = record()
    assert metrics.AccuracyRecord.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    empty = metrics.AccuracyRecord("test", COUNTS)
    assert metrics.AccuracyRecord.from_dict(empty.to_dict()) == empty
    assert empty.awake.shape == (0, 3)


def test_record_replaces_the_row_of_a_continued_experience_and_appends_a_revisited_one():
    made = metrics.AccuracyRecord("test", [5, 5])
    made.add(0, [0.5, 0.0], [0.5, 0.0], slept=False)
    made.add(0, [0.9, 0.0], [0.9, 0.0], slept=False)
    assert made.trained == [0] and made.awake.tolist() == [[0.9, 0.0]]
    made.add(1, [0.1, 0.8], [0.1, 0.8], slept=False)
    made.add(0, [0.7, 0.5], [0.7, 0.5], slept=False)
    assert made.trained == [0, 1, 0]
    assert made.summary()["forgetting_max"] == pytest.approx(0.3)


def test_record_of_one_test_set_for_all_experiences():
    made = metrics.AccuracyRecord("test", [50])
    for t in range(3):
        made.add(t, [0.2 * t], [0.25 * t], slept=True)
    values = made.summary()
    assert values["pooled_accuracy"] == values["average_accuracy"] == 0.5
    assert values["pooled_accuracy_awake"] == pytest.approx(0.4)
    assert math.isnan(values["forgetting_max"])
    assert set(values) == set(record().summary())


def test_record_of_joint_training_counts_all_columns_on_request():
    made = metrics.AccuracyRecord("test", [10, 30])
    made.add(0, [0.8, 0.4], [0.8, 0.4], slept=False)
    assert made.summary()["pooled_accuracy"] == 0.8
    whole = made.summary(whole_stream=True)
    assert whole["average_accuracy"] == pytest.approx(0.6)
    assert whole["pooled_accuracy"] == pytest.approx(20 / 40)


def test_unusable_records():
    with pytest.raises(InputError, match="no row yet"):
        metrics.AccuracyRecord("test", [5]).summary()
    with pytest.raises(InputError, match="2 accuracies"):
        metrics.AccuracyRecord("test", [5, 5]).add(0, [0.1], [0.1], slept=False)
    with pytest.raises(InputError, match="not a record"):
        metrics.AccuracyRecord.from_dict({"stream": "test"})
    with pytest.raises(InputError, match="not a record"):
        metrics.AccuracyRecord.from_dict(record().to_dict() | {"awake": []})
    with pytest.raises(InputError, match="twice in a row"):
        metrics.AccuracyRecord.from_dict(record().to_dict() | {"trained": [0, 0, 1]})


def test_formulas_import_without_avalanche():
    import subprocess
    import sys

    code = "import continual_ep.metrics, sys; sys.exit('avalanche' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
