"""What the names of columns reveal, and names that features, labels and tasks can have."""

import re
import unicodedata
from collections.abc import Collection

from mbrec.columns.expression import parse


def _words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What people do, or not, after they were shown something; and what others call a label.
OUTCOMES = _words_of("""
    click clicked clk like liked dislike disliked buy bought purchase purchased conv conversion
    converted convert order ordered share shared forward forwarded follow followed comment
    commented cart carted favorite favourite fav favorited collect collected download downloaded
    install installed subscribe subscribed signup booking booked paid pay hate skip skipped finish
    finished watch watched view viewed enter entered visit visited response responded churn
    churned label target y reply replied repost reposted retweet retweeted
    """)
# What may stand beside these words in the name of an outcome.
_BESIDE = _words_of("is has did was were be to add do flag label event outcome binary indicator")
# Outcomes that may be anything: what they count is unknown.
UNSPECIFIC = _words_of("label target y response churn churned")
# How long, or for how much: known after the outcome.
AFTERWARDS = _words_of("""
    play_time play_time_ms watch_time watch_time_ms dwell_time dwell_time_ms stay_time
    play_duration watch_duration view_duration view_time revenue gmv profit payment dwell dwell_ms
    dwell_sec dwell_seconds time_spent time_on_page watch_ratio play_ratio completion_rate
    """)
EVENTS = _words_of("event event_type event_name action action_type behavior behaviour")
WEIGHTS = _words_of("weight wt sample_weight instance_weight example_weight")
HISTORIES = _words_of("history hist sequence seq recent last past previous session")
IDS = _words_of("id ids uid code")
# Of integers that are ids, and of those that are numbers.
CODES = IDS | _words_of("""
    codes type category categories cat tab hour weekday zip range bucket bin level group segment
    cluster index idx slot position flag class status brand
    """)
NUMBERS = _words_of("""
    num count cnt n age price amount qty quantity days duration width height length size score
    rate ratio total sum avg mean cost sec seconds ms minutes hours views visits sales
    """)


def words(name: str) -> list[str]:
    """Return the words of a name.

    >>> words("isClick_2")
    ['is', 'click', '2']
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", _ascii(name)).lower()
    return re.findall(r"[a-z]+|\d+", spaced)


def mentions_outcome(name: str) -> bool:
    """Return whether a word of a name is that of an outcome.

    >>> mentions_outcome("video_liked"), mentions_outcome("price")
    (True, False)
    """
    return not OUTCOMES.isdisjoint(words(name))


def names_outcome(name: str) -> bool:
    """Return whether a name is that of an outcome and of nothing else.

    >>> names_outcome("is_click"), names_outcome("add_to_cart"), names_outcome("isProfileEnter")
    (True, True, True)
    >>> names_outcome("follow_user_num"), names_outcome("order_id"), names_outcome("click_rate")
    (False, False, False)
    """
    found = words(name)
    if not mentions_outcome(name):
        return False
    asks = found[0] in ("is", "has", "did", "was") and found[-1] in OUTCOMES
    return asks or all(word in OUTCOMES | _BESIDE or word.isdigit() for word in found)


def clean_name(name: str) -> str:
    """Return a name for a feature, label or task: letters, digits and underscores.

    >>> clean_name("2nd price (EUR)")
    'column_2nd_price_EUR'
    """
    clean = re.sub(r"\W+", "_", _ascii(name)).strip("_") or "column"
    return f"column_{clean}" if clean[0].isdigit() else clean


def unique_name(name: str, taken: Collection[str]) -> str:
    """Return the name, with a number behind it if it is taken."""
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique


def quoted(column: str) -> str:
    """Return the expression for a column.

    >>> quoted("is click")
    '`is click`'
    """
    try:
        parsed = parse(column)
    except ValueError:
        return f"`{column}`"
    return column if parsed.is_column and parsed.columns == (column,) else f"`{column}`"


def _ascii(name: str) -> str:
    return unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
