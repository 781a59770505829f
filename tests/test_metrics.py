"""Metrics by hand."""

import math

import numpy as np
import pytest

from resvision.evaluation import metrics


def test_log_softmax() -> None:
    result = metrics.log_softmax(np.array([[0.0, math.log(3.0)], [1000.0, 0.0]]))
    assert np.exp(result[0]) == pytest.approx([0.25, 0.75])
    assert result[1].tolist() == [0.0, -1000.0]


def test_confusion_precision_recall() -> None:
    counts = metrics.confusion(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    precision, recall = metrics.precision_and_recall(counts)
    assert precision == [1.0, 0.5, None]
    assert recall == [pytest.approx(2 / 3), 1.0, None]


def test_wilson_interval() -> None:
    """Values of Newcombe 1998, table I, method 3."""
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert metrics.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert metrics.wilson_interval(29, 29) == pytest.approx((0.8830, 1.0), abs=5e-5)


def test_negative_log_likelihood() -> None:
    log_probabilities = np.log(np.array([[0.5, 0.5], [0.2, 0.8]]))
    assert metrics.negative_log_likelihood(log_probabilities, np.array([0, 1])) == pytest.approx(
        -(math.log(0.5) + math.log(0.8)) / 2
    )


def test_expected_calibration_error() -> None:
    """Four answers given with 0.8, three right: |0.75 - 0.8|. One given with 0.6, wrong: |0 - 0.6|."""
    log_probabilities = np.log(np.array([[0.8, 0.2]] * 4 + [[0.6, 0.4]]))
    labels = np.array([0, 0, 0, 1, 1])
    expected = (4 * 0.05 + 1 * 0.6) / 5
    assert metrics.expected_calibration_error(log_probabilities, labels) == pytest.approx(expected)


def test_certain_and_right_is_calibrated() -> None:
    assert metrics.expected_calibration_error(np.array([[0.0, -1e9]]), np.array([0])) == 0
