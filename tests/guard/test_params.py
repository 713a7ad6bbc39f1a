"""GuardParams and their flat form."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard.errors import GuardParamsError
from guard.params import GuardParams

INDICES = st.lists(st.integers(0, 2**31 - 1), max_size=20).map(tuple)
PARAMS = st.builds(
    GuardParams, st.binary(min_size=32, max_size=32).map(bytes.hex), st.integers(1, 2**53 - 1),
    INDICES, INDICES,
    st.none() | st.floats(0, 10, exclude_min=True), st.none() | st.floats(0, 1, exclude_min=True),
)  # fmt: skip


@given(PARAMS)
def test_round_trip_through_json(params):
    """What the gateway writes is what the worker reads."""
    assert params == GuardParams.from_xargs(json.loads(json.dumps(params.to_xargs())))


def test_requests_without_our_keys_have_no_params():
    """Other people's extra arguments are not ours."""
    assert GuardParams.from_xargs(None) is None
    assert GuardParams.from_xargs({"other": 1}) is None


@pytest.mark.parametrize(
    "change",
    [
        {"lethegate_digest": "A" * 64},
        {"lethegate_digest": 5},
        {"lethegate_nonce": 0},
        {"lethegate_nonce": 2**53},
        {"lethegate_nonce": "1"},
        {"lethegate_targets": 3},
        {"lethegate_targets": [-1]},
        {"lethegate_items": ["0"]},
        {"lethegate_items": list(range(5000))},
        {"lethegate_more": 1},
        {"lethegate_uld_weight": 0},
        {"lethegate_uld_weight": 10.5},
        {"lethegate_uld_weight": True},
        {"lethegate_uld_rate": "0.1"},
        {"lethegate_uld_rate": 1.5},
        {"lethegate_uld_rate": float("nan")},
    ],
)
def test_malformed_params_are_refused(change):
    """Each wrong key or value is an error, never a guess."""
    xargs = GuardParams("a" * 64, 1).to_xargs()

    with pytest.raises(GuardParamsError):
        GuardParams.from_xargs(xargs | change)


@pytest.mark.parametrize("key", ["digest", "nonce", "targets", "items"])
def test_a_missing_key_is_refused(key):
    """Half a set of parameters steers nothing, so it is an error."""
    xargs = GuardParams("a" * 64, 1).to_xargs()
    del xargs[f"lethegate_{key}"]

    with pytest.raises(GuardParamsError):
        GuardParams.from_xargs(xargs)
