"""Quantities as people type them: a bare number has the unit that its option is about."""

from __future__ import annotations

import math
import re

from mlsysim.core.errors import InputError

# A negative one is read, too: what is wrong with it is then told as of any quantity.
_NUMBER = re.compile(r"-?[0-9][0-9_,]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_RATE = re.compile(
    rf"({_NUMBER.pattern})\s*(?:req(?:uest)?s?|count)?\s*(?:/\s*|per\s+)(s|sec|second|min|minute|h|hour)", re.IGNORECASE
)
_COUNT = re.compile(rf"({_NUMBER.pattern})\s*([kmbt]?)\s*(?:tokens?|count)?", re.IGNORECASE)
_MONEY = re.compile(rf"\$?\s*({_NUMBER.pattern})\s*(?:USD|\$)?(?:\s*(?:/|per)\s*(?:h|hr|hour))?", re.IGNORECASE)
_SIZES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_PER = {"s": "second", "sec": "second", "min": "minute", "h": "hour"}


def rate(text: str) -> str:
    """Read a rate of requests, of which a bare number is one a second, as the text of a quantity.

    Example:
        >>> rate("20"), rate("1200/min"), rate("2 req/s"), rate("5 count/s")
        ('20 count/second', '1200 count/minute', '2 count/second', '5 count/second')
    """
    if _NUMBER.fullmatch(text.strip()):
        return f"{_plain(text)} count/second"
    if match := _RATE.fullmatch(text.strip()):
        per = match[2].lower()
        return f"{_plain(match[1])} count/{_PER.get(per, per)}"
    return text


def count(text: str, argument: str = "--tokens") -> float:
    """Read a number of tokens, with or without K, M, B (billions) or T.

    Raises:
        InputError: it is none.

    Example:
        >>> count("15T") == count("15e12") == count("15,000 B tokens") == 15e12
        True
    """
    match = _COUNT.fullmatch(text.strip())
    number = float(_plain(match[1])) * _SIZES[match[2].lower()] if match else 0.0
    if not 1 <= number < math.inf:
        raise InputError(argument, text, 'a number of tokens, such as "15T", "300B" or 1e12')
    return number


def hourly(text: str) -> str:
    """Read a price by the hour, of which a bare number is USD, as the text of a quantity.

    Example:
        >>> hourly("2.5"), hourly("$2.5/h"), hourly("2.5 USD/hour"), hourly("0.1 USD/minute")
        ('2.5 USD/hour', '2.5 USD/hour', '2.5 USD/hour', '0.1 USD/minute')
    """
    match = _MONEY.fullmatch(text.strip())
    return text if match is None else f"{_plain(match[1])} USD/hour"


def whole_numbers(flag: str, text: str) -> tuple[int, ...]:
    """Read whole numbers with commas between them.

    Raises:
        InputError: they are none; ``flag`` is what the message calls the option.

    Example:
        >>> whole_numbers("--tp", "4, 8")
        (4, 8)
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(flag, text, "whole numbers, such as 4,8") from None


def _plain(number: str) -> str:
    return number.strip().replace(",", "").replace("_", "")
