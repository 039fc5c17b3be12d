"""What the names of columns tell, and names that features, labels and tasks can have."""

import re
import unicodedata
from collections.abc import Collection

from mbrec.data.expression import parse


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
# How long, or for how much: known after the outcome.
AFTERWARDS = _words_of("""
    play_time play_time_ms watch_time watch_time_ms dwell_time dwell_time_ms stay_time
    play_duration watch_duration view_duration view_time revenue gmv profit payment
    """)
EVENTS = _words_of("event event_type event_name action action_type behavior behaviour")
WEIGHTS = _words_of("weight wt sample_weight instance_weight example_weight")
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
    """Return the expression that is a column.

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
