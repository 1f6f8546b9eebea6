"""Registries: entries in TOML files, each with its source, parsed when first asked for and built one by one.

A file is a table an entry, named by its id. The keys ``symbol`` (what users type; the id if absent), ``aliases``,
``group``, ``source``, ``locator``, ``evidence`` and ``notes`` belong to the registry; all others are the fields of the
entry's type. A table ``[defaults]`` gives keys that the file's entries share. What else people call an entry stands in the
room's ``names.toml`` (``core/names.py``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Generic, TypeVar

from mlsysim.core.errors import DataError, InputError, UnknownNameError, either, nearest
from mlsysim.core.names import Names, Reading, longest_beginning
from mlsysim.core.provenance import Provenance
from mlsysim.core.toml import packaged_toml, reading, table_of, toml_file

T = TypeVar("T")
E = TypeVar("E")

_DEFAULTS = "defaults"
# Files beside those of entries: how they are spelt, and what else the room knows of them.
_SPELLINGS = "names.toml"
# Its table of what a room leaves out, by how names begin, and what an entry would have to be.
_LEFT_OUT = "not_modelled"
_NO_ENTRIES = (_SPELLINGS, "fleets.toml", "adapters.toml")
_PROVENANCE = ("source", "locator", "evidence", "notes")
# Two threads that ask for an entry get one object: caches go by identity. Entries of a room name those of others: one lock.
_LOCK = threading.RLock()


@dataclass(frozen=True)
class _Entry:
    """An entry as its file has it, not yet built."""

    id: str
    symbol: str
    aliases: tuple[str, ...]
    group: str
    fields: dict[str, Any]
    origin: str

    @property
    def names(self) -> tuple[str, ...]:
        """All names that the registry itself gives the entry: id, symbol, aliases and full name."""
        return (self.id, self.symbol, *self.aliases, str(self.fields.get("name", self.id)))

    @property
    def where(self) -> str:
        return f"{self.origin}, entry [{self.id}]"


class _Store:
    """The entries of one room: reads its files and those of plug-ins at the first look-up, builds each entry once."""

    def __init__(self, room: str) -> None:
        self.room = room
        self.builders: dict[str, Callable[..., Any]] = {}
        self._entries: list[_Entry] | None = None
        self._named: dict[str, _Entry] = {}
        self._spelt: tuple[Names, dict[str, str]] | None = None
        self._built: dict[str, Any] = {}

    def entries(self, group: str | None) -> list[_Entry]:
        """The entries of ``group``, or of the whole room."""
        return [entry for entry in self._all() if group in (None, entry.group)]

    def _all(self) -> list[_Entry]:
        """The entries of all groups, read at the first look-up."""
        if self._entries is None:
            with _LOCK:
                if self._entries is None:
                    self._read_all()
        return self._entries or []

    def find(self, name: str, group: str | None) -> list[_Entry]:
        """The entries of ``group`` that ``name`` may mean: one, unless it is unknown or does not say which."""
        self._all()
        entry = self._named.get(name.lower())
        entries = [entry] if entry is not None else [self._named[id.lower()] for id in self.names().find(name)]
        return [entry for entry in entries if group in (None, entry.group)]

    def names(self) -> Names:
        """All names of all entries, with the spellings that the room's ``names.toml`` lists."""
        return self._told()[0]

    def _told(self) -> tuple[Names, dict[str, str]]:
        """The names, and what is left out and why."""
        spelt = self._spelt
        if spelt is None:
            document = self.document()
            known = {entry.id: entry.names for entry in self._all()}
            with reading(f"mlsysim/{self.room}/data/{_SPELLINGS}"):
                names = Names(known, Reading.of(document), document.get("spellings", {}))
            self._spelt = spelt = names, document.get(_LEFT_OUT, {})
        return spelt

    def left_out(self, name: object) -> str:
        """What an entry of this name would have to be, where the room's ``names.toml`` says why it is none; else empty."""
        if not isinstance(name, str):
            return ""
        names, listed = self._told()
        beginning = longest_beginning(names.bare(name), listed)
        return "" if beginning is None else listed[beginning]

    def document(self) -> dict[str, Any]:
        """The room's ``names.toml``; empty where it has none."""
        listed = (resources.files(f"mlsysim.{self.room}") / "data" / _SPELLINGS).is_file()
        return packaged_toml(self.room, _SPELLINGS) if listed else {}

    def value(self, entry: _Entry) -> Any:
        """The object built from an entry.

        Raises:
            DataError: its fields are not those of its type.
        """
        built = self._built.get(entry.id)
        if built is None:
            with _LOCK:
                built = self._built.get(entry.id)
                if built is None:
                    built = self._built[entry.id] = self._build(entry)
        return built

    def load(self, path: str | Path) -> list[_Entry]:
        """Adds a user's file: all of its entries, or none if one is wrong."""
        if not isinstance(path, (str, Path)):
            raise InputError("path", path, "the path of a TOML file")
        known = self.entries(None)
        added = self._parsed(Path(path), str(path))
        built = {entry.id: self._build(entry) for entry in added}
        with _LOCK:
            self._named |= self._names(added, self._named)
            self._built |= built
            self._entries, self._spelt = [*known, *added], None
        return added

    def _read_all(self) -> None:
        data = resources.files(f"mlsysim.{self.room}") / "data"
        lists = (item for item in data.iterdir() if item.name.endswith(".toml") and item.name not in _NO_ENTRIES)
        files = sorted(lists, key=lambda item: item.name)
        entries = [entry for file in files for entry in self._parsed(file, f"mlsysim/{self.room}/data/{file.name}")]
        named = self._names(entries, {})
        for point in metadata.entry_points(group=f"mlsysim.{self.room}"):
            origin, path = _plugin_file(point)
            added = self._parsed(path, origin)
            named |= self._names(added, named)
            entries += added
        self._named, self._entries = named, entries  # whoever sees the second needs the first

    def _parsed(self, file: Any, origin: str) -> list[_Entry]:
        tables = toml_file(file, origin)
        defaults = table_of(tables.pop(_DEFAULTS, {}), f"{origin}: [{_DEFAULTS}]")
        return [self._entry(key, table, defaults, origin) for key, table in tables.items()]

    def _entry(self, key: str, table: Any, defaults: dict[str, Any], origin: str) -> _Entry:
        where = f"{origin}, entry [{key}]"
        fields = defaults | table_of(table, where)
        symbol, aliases, group = fields.pop("symbol", key), fields.pop("aliases", []), fields.pop("group", None)
        if not isinstance(group, str) or group not in self.builders:
            near = nearest(group, self.builders)
            hint = f"; did you mean {near!r}?" if near else ""
            raise DataError(f"{where}: group = {group!r}: expected one of {', '.join(self.builders)}{hint}")
        if not isinstance(aliases, list):
            raise DataError(f"{where}: aliases = {aliases!r}: expected a list of names")
        for name in (symbol, *aliases):
            if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or hasattr(Registry, name):
                raise DataError(f"{where}: name {name!r}: expected a Python identifier that is no method of the registry")
        if not isinstance(fields.get("source"), str) or not fields["source"].strip():
            raise DataError(f"{where}: source: expected the citation that the figures come from")
        return _Entry(key, symbol, tuple(aliases), group, fields, origin)

    def _build(self, entry: _Entry) -> Any:
        fields = {key: value for key, value in entry.fields.items() if key not in _PROVENANCE}
        with reading(entry.where):
            provenance = Provenance(**{key: entry.fields[key] for key in _PROVENANCE if key in entry.fields})
            return self.builders[entry.group](**fields, provenance=provenance)

    @staticmethod
    def _names(entries: list[_Entry], taken: dict[str, _Entry]) -> dict[str, _Entry]:
        """Every name of ``entries``, folded; a name that another entry has is an error."""
        named: dict[str, _Entry] = {}
        for entry in entries:
            shown = entry.fields.get("name")  # what results call it, by which its measured kernels are found
            for name in (entry.id, entry.symbol, *entry.aliases, *([shown] if isinstance(shown, str) else ())):
                other = named.get(name.lower()) or taken.get(name.lower())
                if other is not None and other is not entry:
                    raise DataError(f"{entry.where}: the name {name!r} is already taken by {other.where}")
                named[name.lower()] = entry
        return named


def _plugin_file(point: metadata.EntryPoint) -> tuple[str, Path]:
    """The TOML file of an entry point: the path it names, or that its callable returns."""
    origin = f"entry point {point.name!r} of {point.group!r}"
    try:
        target = point.load()
        path = Path(target() if callable(target) else target)
    except Exception as error:  # a plug-in may fail in any way; the user must learn which one did
        raise DataError(f"{origin}: expected the path of a TOML file or a function returning one: {error}") from error
    return f"{origin}, {path}", path


class Group(Generic[T]):
    """The entries of one kind: as attributes by symbol or alias (exact), as items by any name (ignoring case).

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> Hardware.Cloud.H100 is Hardware.Cloud["h100_sxm"]
        True
        >>> Hardware.Cloud.h100
        Traceback (most recent call last):
        mlsysim.core.errors.UnknownNameError: Hardware.Cloud has no 'h100'; did you mean 'H100'?
    """

    def __init__(self, store: _Store, group: str | None, label: str) -> None:
        self._store = store
        self._group = group
        self._label = label

    def get(self, name: str) -> T:
        """The entry of this name: its id, symbol, alias, full name, or another spelling of it.

        Raises:
            UnknownNameError: there is none, and the message has the three nearest names; or it does not say which.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> Hardware.get("h100").name, Hardware.get("NVIDIA H100-SXM-80GB").name
            ('H100 SXM5 80GB', 'H100 SXM5 80GB')
            >>> Hardware.get("H100 86GB")
            Traceback (most recent call last):
            mlsysim.core.errors.UnknownNameError: Hardware has no 'H100 86GB'; did you mean 'H100', 'H100_PCIe' or 'H100_NVL'?
        """
        return self._value(self._entry(name))

    def find(self, name: str) -> T | None:
        """The entry of this name, as ``get`` reads it; None where it means no entry, or several.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> Hardware.find("NVIDIA H100-SXM-80GB").name, Hardware.find("abacus")
            ('H100 SXM5 80GB', None)
        """
        entries = self._store.find(name, self._group)
        return self._value(entries[0]) if len(entries) == 1 else None

    def id_of(self, name: str) -> str:
        """The id of the entry that ``name`` means.

        Raises:
            UnknownNameError: there is none, or the name does not say which.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> Hardware.id_of("TPU v5p")
            'tpu_v5p'
        """
        return self._entry(name).id

    def nearest(self, name: object) -> list[str]:
        """The symbols of at most three entries whose names are spelt most like ``name``.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> Hardware.nearest("H100 SMX")
            ['H100', 'H800', 'H200']
        """
        symbols = {entry.id: entry.symbol for entry in self._store.entries(self._group)}
        return [symbols[id] for id in self._store.names().nearest(name, symbols)]

    def _entry(self, name: str) -> _Entry:
        entries = self._store.find(name, self._group) if isinstance(name, str) else []
        if len(entries) != 1:
            raise self._unknown(name, entries)
        return entries[0]

    def names(self) -> list[str]:
        """The symbols, in the order of the files."""
        return [entry.symbol for entry in self._store.entries(self._group)]

    def spellings(self) -> dict[str, tuple[str, ...]]:
        """All names of each entry by its id: id, symbol, aliases and the full name; no entry is built for them.

        Example:
            >>> from mlsysim.hardware.registry import Hardware
            >>> Hardware.Cloud.spellings()["tpu_v7"]
            ('tpu_v7', 'TPUv7', 'Ironwood', 'TPU7x', 'TPU7x Ironwood')
        """
        return {entry.id: entry.names for entry in self._store.entries(self._group)}

    def _value(self, entry: _Entry) -> T:
        value: T = self._store.value(entry)
        return value

    def _unknown(self, name: object, several: list[_Entry]) -> UnknownNameError:
        """The error for a name that means none of the entries, or ``several``."""
        meant = [entry.symbol for entry in several[:3]] or self.nearest(name)
        error = UnknownNameError(self._label, name, f"one of its {len(self)} names", next(iter(meant), None))
        if not several and (expected := self._store.left_out(name)):
            error = UnknownNameError(self._label, name, expected)
            said = f"has no {name!r}: expected {expected}"
        elif len(several) > 1:
            said = f"has several {name!r}: say which of {either(meant)}"
        elif meant:
            said = f"has no {name!r}; did you mean {either(meant)}?"
        else:
            said = f"has no {name!r}; it has {len(self)} names, such as {either(self.names()[:3])}"
        error.args = (f"{self._label} {said}",)
        return error

    def __getattr__(self, name: str) -> T:
        if name.startswith("_"):  # copy, pickle, doctest and IPython probe for these: no file is read for them
            raise AttributeError(name)
        entries = self._store.find(name, self._group)
        if len(entries) != 1 or name not in (entries[0].symbol, *entries[0].aliases):
            raise self._unknown(name, entries)
        return self._value(entries[0])

    __getitem__ = get

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and len(self._store.find(name, self._group)) == 1

    def __iter__(self) -> Iterator[T]:
        return (self._value(entry) for entry in self._store.entries(self._group))

    def __len__(self) -> int:
        return len(self._store.entries(self._group))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.names()})

    def __repr__(self) -> str:
        return f"<{self._label}: {len(self)} entries>"


class Registry(Group[T]):
    """A room's entries, in groups. Look-ups work on a group and, across all groups, on the registry itself.

    Packages add entries through an entry point of group ``mlsysim.<room>`` that is, or returns, the path of a TOML file.

    Example:
        >>> from mlsysim.hardware.registry import Hardware
        >>> Hardware.H100 is Hardware.Cloud.H100
        True
    """

    def __init__(self, room: str) -> None:
        super().__init__(_Store(room), None, room.capitalize())

    def group(self, name: str, build: Callable[..., E]) -> Group[E]:
        """Declares a group, and what makes an entry of its fields (usually the class)."""
        self._store.builders[name] = build
        return Group(self._store, name, f"{self._label}.{name}")

    def load(self, path: str | Path) -> list[str]:
        """Adds the entries of a user's TOML file; the symbols that are now known.

        Raises:
            DataError: the file cannot be read, an entry is malformed, or a name is already taken. Nothing is added then.
        """
        return [entry.symbol for entry in self._store.load(path)]
