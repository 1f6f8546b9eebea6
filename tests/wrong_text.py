"""A text with one random error: a line, a value or a cell that is wrong, doubled, cut or left out."""

from __future__ import annotations

import csv
import io
import random

VALUES = (
    *("3", "-1", "0", "2.5", "1e308", "1e-300", "nan", "inf", "-inf", "true", '""', '"x"', '"9 W"', '"9**9**9 W"', "[]", "[1]"),
    *('["x"]', "[[1]]", "{}", "{ a = 1 }", "1979-05-27", "07:32:00", '"a\\nb"', '"\\u0000"', "1" * 4400, "[" * 400 + "]" * 400),
    *("'''\nx'''", "!", "99999999999999999999", '"H100"', '"none"', '"é"'),
)
CELLS = (
    *(
        "",
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1e400",
        "1e-300",
        "x",
        "99999999999",
        "1" * 4400,
        "\0",
        "'",
        '"',
        "1,5",
        "é",
        "[1]",
    ),
    *("true", "H100", "9**9", "{ a = 1 }", "1979-05-27", " ", "\r", "2.5", "64", "x" * 140000),
)


def changed(text: str, table: bool, chance: random.Random) -> bytes:
    """The text with an error; where it is a ``table``, often one of a cell."""
    lines = text.splitlines(keepends=True)
    place = chance.randrange(len(lines))
    change = chance.randrange(18)
    if change == 0:
        content = bytearray(text.encode())
        content[chance.randrange(len(content))] = chance.randrange(256)
        return bytes(content)
    if change == 1:
        return text.encode()[: chance.randrange(len(text))]
    if change == 2:
        lines.insert(chance.randrange(len(lines)), lines[place])
    elif change == 3:
        del lines[place]
    elif change == 4:
        lines.insert(
            place, chance.choice(("[x]\n", "x = 1\n", "[[x]]\n", "x\n", "\0\n", "x,y\n", "[defaults]\n", "table = '.'\n"))
        )
    elif change == 5:
        return chance.choice((b"\xef\xbb\xbf" + text.encode(), text.replace("\n", "\r\n").encode(), text.encode("utf-16"), b""))
    elif table:
        lines = _changed_cell(lines, chance)
    else:
        keys = [number for number, line in enumerate(lines) if " = " in line] or [place]
        lines = _changed_value(lines, chance.choice(keys), change, chance)
    return "".join(lines).encode()


def _changed_cell(lines: list[str], chance: random.Random) -> list[str]:
    rows = list(csv.reader(lines))
    row = rows[chance.randrange(len(rows))] or [""]
    place = chance.randrange(len(row))
    change = chance.randrange(6)
    if change == 0:
        row.insert(place, chance.choice(CELLS))
    elif change == 1:
        del row[place]
    else:
        row[place] = chance.choice(CELLS)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().splitlines(keepends=True)


def _changed_value(lines: list[str], place: int, change: int, chance: random.Random) -> list[str]:
    key, _, value = lines[place].partition(" = ")
    if change == 6:
        lines[place] = f"{key}x = {value}"
    elif change == 7:
        del lines[place]
    elif change == 8 and len(value) > 3:
        cut = chance.randrange(len(value) - 1)
        lines[place] = f"{key} = {value[:cut]}{value[cut + 1 :]}"
    else:
        lines[place] = f"{key} = {chance.choice(VALUES)}\n"
    return lines
