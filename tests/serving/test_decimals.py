"""Short floats are written with the digits that they have."""

from __future__ import annotations

import numpy as np
import pytest

from engine.decimals import ONE_BY_ONE, plain, shortest


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_short_float_is_the_decimal_that_was_written(dtype: type) -> None:
    column = np.array([0.1, 0.5, -2.25, 7.3, 0.0, 100.1], dtype)
    assert plain(column) == [0.1, 0.5, -2.25, 7.3, 0.0, 100.1]


def test_whole_columns_and_single_elements_give_the_same() -> None:
    draws = np.random.default_rng(7)
    column = (draws.standard_normal(20_000) * 10.0 ** draws.integers(-44, 38, 20_000)).astype(np.float32)
    column = np.concatenate(
        [column, draws.standard_normal(20_000).astype(np.float32), [np.float32(1e-45), 3.4028235e38]]
    )
    column = column.astype(np.float32)
    assert shortest(column).tolist() == [float(str(element)) for element in column]
    assert np.array_equal(shortest(column).astype(np.float32), column)


def test_not_a_number_and_infinities_stay() -> None:
    column = np.array([np.nan, np.inf, -np.inf, 0.1] * ONE_BY_ONE, np.float32)
    short = shortest(column)
    assert np.isnan(short[0])
    assert short[1:4].tolist() == [np.inf, -np.inf, 0.1]


def test_shape_and_other_datatypes_are_left_alone() -> None:
    assert plain(np.array([[0.1, 0.2]], np.float32)) == [[0.1, 0.2]]
    assert plain(np.zeros((200, 3), np.float32)) == [[0.0] * 3] * 200
    assert plain(np.zeros((2, 0), np.float32)) == [[], []]
    assert plain(np.array([1, 2])) == [1, 2]
    assert plain(np.array(["a"], object)) == ["a"]
