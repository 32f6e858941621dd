"""What is to be followed, as it is written down."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from livermore.market.chosen import POSITION, Chosen, Subscription, decode_chosen, encode_chosen
from livermore.market.mode import Mode

NAMES = st.lists(st.text(), max_size=3).map(tuple)
CHOSEN = st.builds(
    Chosen,
    mode=st.sampled_from(Mode),
    added=NAMES,
    removed=NAMES,
    tier=NAMES,
    subscriptions=st.lists(st.builds(Subscription, st.text(), st.text(), st.text())).map(tuple),
    beside=st.lists(st.tuples(st.text(), st.text())).map(tuple),
)


@given(CHOSEN)
def test_it_is_read_as_it_was_written(chosen: Chosen) -> None:
    fields = {name.encode(): text.encode() for name, text in encode_chosen(chosen).items()}
    assert decode_chosen(fields) == chosen
    assert decode_chosen([part for pair in fields.items() for part in pair]) == chosen


@given(
    st.dictionaries(
        st.sampled_from([name.encode() for name in encode_chosen(Chosen())] + [b"new"]),
        st.binary()
        | st.sampled_from([b"1", b"[1]", b"[[]]", b'[["a"]]', b'{"a":1}', b"null", b'["a"]']),
    )
)
def test_damage_is_left_out_and_nothing_is_raised(fields: dict[bytes, bytes]) -> None:
    found = decode_chosen(fields)
    assert all(isinstance(name, str) for name in (*found.added, *found.removed, *found.tier))
    assert all(isinstance(one.user, str) for one in found.subscriptions)


def test_a_user_with_two_reasons_is_one_follower() -> None:
    rows = [("alice", "A-USD", "manual"), ("alice", "A-USD", POSITION), ("bob", "A-USD", "manual")]
    chosen = Chosen(subscriptions=tuple(Subscription(*row) for row in rows))
    assert chosen.followers() == {"A-USD": ["alice", "bob"]}
    assert chosen.followers(positions=True) == {"A-USD": ["alice"]}
