"""Rows that differ are found once, and every row gets the result of its kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlsysim.physics.distinct import distinct_rows

VALUES = st.sampled_from([0.0, 0.5, 1.0, 2.0, 1e300])


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=50))
def test_every_row_gets_back_what_it_had(table):
    columns = [np.array([row[place] for row in table]) for place in range(3)]
    rows = distinct_rows(*columns)
    assert rows.first.size == len(set(table))
    for column in columns:
        assert (rows.spread(rows.reduced(column)) == column).all()


def test_columns_broadcast_and_keep_their_shape():
    tp, modes = np.array([1.0, 2.0, 1.0])[:, None, None], np.array([0.0, 2.0])[:, None]
    rows = distinct_rows(tp, modes, 1.0)
    assert rows.kind.shape == (3, 2, 1)
    assert rows.first.size == 4
    assert (rows.spread(rows.reduced(tp) + rows.reduced(modes)) == tp + modes).all()


def test_what_all_rows_share_stays_a_number():
    rows = distinct_rows(np.array([1.0, 1.0]), 3.0)
    assert rows.reduced(3.0) == rows.spread(3.0) == 3.0


def test_columns_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        distinct_rows(np.zeros(2), np.zeros(3))
