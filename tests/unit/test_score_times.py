"""Times as files write them, to microseconds."""

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest

from fleetwatch.score_times import TIME_US_MAX, Clock, instant

SECOND = 1_000_000
T = 1_396_310_400 * SECOND  # 2014-04-01 00:00:00 UTC


def read(cells, kind=None, clock=None):
    us, ok = (clock or Clock()).read(pa.array(cells, kind))
    assert us.dtype == np.int64 and ok.dtype == np.bool_
    assert not us[~ok].any()
    return [int(t) if good else None for t, good in zip(us, ok, strict=True)]


@pytest.mark.parametrize(
    "text",
    [
        "2014-04-01 00:00:00", "2014-04-01T00:00:00", "2014-04-01T00:00:00Z", "2014-04-01", "2014-04-01 00:00",
        "2014-04-01T02:00:00+02:00", "2014-03-31 19:00:00-05:00", " 2014-04-01 00:00:00 ", "2014/04/01 00:00:00",
        "2014-04-01T00:00:00.000000", "2014-04-01 00:00:00.000000999", "20140401T000000",
        "1396310400", "1396310400.0", "1396310400000", "1396310400000000", "1396310400000000000", "1.3963104e9",
    ],
)  # fmt: skip
def test_one_moment_in_many_forms(text):
    assert read([text]) == [T]


def test_parts_of_a_second_are_kept():
    assert read(["2014-04-01 00:00:00.5", "2014-04-01 00:00:00.000001"]) == [T + 500_000, T + 1]
    assert read(["1396310400123456789"]) == [T + 123_456]
    assert read(["0.5", "1.000001"]) == [500_000, 1_000_001]


def test_zones_may_differ_from_row_to_row():
    assert read(["2014-04-01 00:00:00", "2014-04-01 00:00:00+01:00", None, "x"]) == [
        T,
        T - 3600 * SECOND,
        None,
        None,
    ]


def test_the_first_time_tells_the_unit_of_all():
    assert read(["1396310400000", "5", "1396310401000"]) == [T, 5000, T + SECOND]
    clock = Clock()
    assert read([None, ""], pa.string(), clock) == [None, None]
    assert read(["0", "1", "99999999999999"], None, clock)[:2] == [0, SECOND]
    assert read(["2", "1.5", "soon", "2014-04-01"], None, clock) == [2 * SECOND, 1_500_000, None, None]


@pytest.mark.parametrize(
    "text", ["nan", "inf", "1e300", "99999999999999999999999999", "9999999999999999", "2014-13-01", "noon", "1_000"]
)
def test_what_is_no_time(text):
    clock = Clock()
    read(["2014-04-01"] if "-" in text or text in ("noon", "1_000") else ["1"], None, clock)
    assert read([text], None, clock) == [None]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([datetime(2014, 4, 1, tzinfo=UTC)], pa.timestamp("s")),
        ([datetime(2014, 4, 1, tzinfo=UTC)], pa.timestamp("ns")),
        ([datetime(2014, 4, 1, tzinfo=UTC)], pa.timestamp("ms", "Europe/Berlin")),
        ([date(2014, 4, 1)], pa.date32()),
        ([1_396_310_400], pa.uint64()),
        ([1_396_310_400], pa.int32()),
        ([1_396_310_400.0], pa.float64()),
        (["2014-04-01"], pa.large_string()),
        (["2014-04-01"], pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_arrow_types(cells, kind):
    assert read(cells, kind) == [T]
    assert read([None, *cells], kind) == [None, T]


def test_types_that_are_no_times():
    assert read([None, None], pa.null()) == [None, None]
    for cells in ([True], [b"x"], [[1]]):
        with pytest.raises(TypeError):
            Clock().read(pa.array(cells))


def test_the_ends_of_time():
    far = TIME_US_MAX // SECOND
    assert read(["1", str(far), str(-far), str(far + 1), str(2**63)]) == [
        SECOND, far * SECOND, -far * SECOND, None, None,
    ]  # fmt: skip
    assert read([2**64 - 1], pa.uint64()) == [18_446_744_073_709_552]  # ns: the year 2554
    assert read(["9999-12-31 23:59:59", "0001-01-01"])[1] is not None


def test_instant_refuses_what_is_none():
    with pytest.raises(ValueError):
        instant("yesterday")
