"""Which names were meant for a pool and reach none, and which variable or file a wrong value came from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from wd_di._settings.names import dotted
from wd_di._settings.passed import json_in
from wd_di._settings.places import Place, is_kafka, kafka_of, landing, open_places, places
from wd_di._settings.shapes import aliases, config_of, fields_of
from wd_di._settings.warned import short_timeout

if TYPE_CHECKING:
    from wd_di._settings.sources import InOneForm

Path = tuple[str, ...]

NEAR, NEAR_WITHIN = 0.8, 0.7
"""How near the name of a pool, and of a setting in it, must be to be taken for that."""
_OFTEN = frozenset({"kafka", "order", "share"})
"""Settings of a pool that variables of other programs end with."""

_EXAMPLES = {False: "size", True: "bootstrap_servers"}
"""A setting of a pool, and one of Kafka's."""

_LISTS = frozenset({"frozen_set_type", "list_type", "set_type", "tuple_type"})
_BROKERS = re.compile(r"(^|_)(bootstrap_servers?|kafka_(brokers?|hosts?|servers?|urls?))$|^brokers?$")


# -- the names of one source -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Name:
    """A setting as a source calls it, and where it ends: see ``landing``."""

    name: str
    """The variable or the file."""
    text: str
    """The same, or a part of the JSON in it."""
    value: object
    called: Callable[[Path], str]
    """What the source would call another setting."""
    head: Path
    kind: object
    rest: Path

    @property
    def inside_kafka(self) -> bool:
        """Whether this is a setting of Kafka's, not the whole block."""
        return is_kafka(self.kind) and bool(self.rest)


class _Names:
    """What one source gives, and how it calls its settings."""

    def __init__(self, source: InOneForm, kind: type) -> None:
        self.given: list[_Name] = []
        self.others: list[tuple[str, str]] = []
        """Names that no field takes, as they are told and as they are spelt."""
        self.word = ""
        """What a name is; empty where it is the same as the path."""
        self.prefix, self.delimiter, self._upper = "", ".", False
        self._kind = kind
        self._extras = True
        found = getattr(source, "env_vars", None)
        if isinstance(found, dict) and not hasattr(source, "root_parser"):  # the command line's are arguments
            self._read(source, found)
        if not self.word:
            self._flat(source.given, (), "", "")

    def _read(self, source: InOneForm, found: dict[str, object]) -> None:
        spelt = {name.lower(): name for name in os.environ}
        if hasattr(source, "secrets_paths"):
            self.word, where, spelt = "file", _in(source.secrets_dir), {}
        elif hasattr(source, "env_file"):
            self.word, where, spelt = "variable", _in(source.env_file), {}
        elif spelt.keys() >= {key.lower() for key in found}:
            self.word, where, self._extras = "variable", "", False
        else:  # a vault, say, that pretends to be an environment
            return
        self.prefix, self.delimiter = str(source.env_prefix), str(source.env_nested_delimiter or "\0")
        self._upper = self.word == "variable" and not source.case_sensitive
        for key, value in found.items():
            name = spelt.get(key.lower(), self._cased(key)) + where
            if not any(self._add(name, name, path, value, self.called) for path in self._paths(key)):
                self.others.append((name, key.lower()))

    def _add(self, name: str, text: str, path: Path, value: object, called: Callable[[Path], str]) -> bool:
        found = landing(self._kind, path, extras=self._extras)
        if found is None:
            return False
        made = _Name(name, text, value, called, *found)
        self.given.append(made)
        if not made.inside_kafka and (read := json_in(value)) is not None:
            self._flat(read, path, name, f" in {name}")
        return True

    def _flat(self, value: object, path: Path, name: str, where: str, outer: int | None = None) -> None:
        """Add what a mapping gives, by the keys within it."""
        start = len(path) if outer is None else outer
        if isinstance(value, list):
            value = dict(enumerate(value))
        if isinstance(value, Mapping):
            for key, each in value.items():
                self._flat(each, (*path, str(key)), name, where, start)
        elif len(path) > start:
            text = ".".join(path[start:]) + where
            self._add(name, text, path, value, lambda other: ".".join(other[start:]))

    def _paths(self, key: str) -> Iterator[Path]:
        if key.lower().startswith(self.prefix.lower()):
            yield tuple(key[len(self.prefix) :].split(self.delimiter))
        if self.prefix and key.lower().partition(self.delimiter)[0] in aliases(self._kind):  # which have no prefix
            yield tuple(key.split(self.delimiter))

    def _cased(self, name: str) -> str:
        return name.upper() if self._upper else name

    def called(self, path: Path) -> str:
        """Return what a setting is called here."""
        return self._cased(self.prefix + self.delimiter.join(path))


def _in(where: object) -> str:
    one = isinstance(where, str | os.PathLike)
    several = [where] if one else where if isinstance(where, Iterable) else ()
    return " in " + " or ".join(map(str, several))


# -- what is said of them ----------------------------------------------------------------------------


class Given:
    """What the sources of a class of settings gave, for what is to be said of it.

    Args:
        kind: The class.
        sources: The strongest first.
        others: Other classes of settings, whose names are no mistakes.
    """

    def __init__(self, kind: type, sources: Iterable[InOneForm], others: Iterable[type]) -> None:
        self.title = kind.__name__
        self._kind = kind
        self._sources = [_Names(each, kind) for each in sources]
        self._others = [each for each in others if each is not kind]
        self._places = list(places(kind))
        self._open = list(open_places(kind))
        self.strays = {
            text: meant for names in self._sources for text, key in names.others if (meant := self._meant(names, key))
        }

    def remarks(self, others: Mapping[str, str]) -> Iterator[str]:
        """Say what is wrong with settings that are valid; others are arguments, with what was meant."""
        unheard = {**self.strays, **others, **self._misspelt()}
        for text, better in unheard.items():
            yield f"{text} is set, and no setting takes it: did you mean {better}?"
        yield from self._further_pools()
        for name in self._all():
            if name.rest == ("timeout",) and not is_kafka(name.kind) and (said := short_timeout(name.value)):
                yield f"{name.text}: {said}"

    def hint(self, path: Sequence[object], problem: str, text: str) -> str:
        """Return which names an error is about, or would mend it."""
        if problem == "missing":
            return self._missing(path)
        if problem in _LISTS and (variables := self._in_lists(path)):
            return variables
        if "is given JSON" in text:  # that names the variables in its place
            return ""
        wanted = self._full(map(str, path))
        blamed = _subjects(text)
        for names in self._sources:
            found: dict[str, str] = {}
            for name in names.given:
                full = self._whole(name)
                if full == wanted or (problem == "extra_forbidden" and full.startswith(f"{wanted}_")):
                    found[name.name] = ""
                elif name.rest and self._full(name.head) == wanted and blamed & _spellings(name.rest):
                    found[name.name] = _right(name)
            if found:
                return _named(names.word, found)
        return ""

    def _in_lists(self, path: Sequence[object]) -> str:
        """Return which names are of something within a list, which sources give as a whole only."""
        for names in self._sources:
            found = [name for name in names.given if _starts(self._own(name.head), self._own(map(str, path)))]
            if found and names.word:
                whole = names.called(found[0].head[: len(path)])
                return (
                    f" ({names.word} {found[0].name}): a list is given as a whole, as JSON in {whole}; for single "
                    "settings make it a mapping, as dict[str, PoolSettings] of pools by their names"
                )
        return ""

    def no_json(self, text: str) -> str:
        """Say which name holds this text, where JSON is wanted, and which hold one setting."""
        # Of several empty ones it is that of a pool, or whatever else has settings in it.
        found = [
            (each.value is not text, bool(each.rest), number, names.word, each)
            for number, names in enumerate(self._sources)
            for each in names.given
            if each.value == text and names.word
        ]
        if not found:
            return ""
        *_, word, name = min(found, key=lambda each: each[:3])
        inside = [] if name.rest else [each for each in self._places if _starts(each.path, name.head)]
        rests = [(*each.path[len(name.head) :], _EXAMPLES[is_kafka(each.kind)]) for each in inside]
        ways = [name.called((*name.head, *each)) for each in rests]
        said = "holds no JSON" if text.strip() else "is empty, and takes JSON: unset it"
        if not ways and name.kind is None and self._leads(name.head):
            ways = [f"{name.called((*name.head, 'orders', 'size'))} of a pool 'orders'"]
        return f"{word} {name.name} {said}" + (f"; for one setting: {', '.join(ways[:2])}" if ways else "")

    def _leads(self, head: Path) -> bool:
        """Whether there are pools by whatever key."""
        found = landing(self._kind, (*head, "orders"))
        return found is not None and found[1] is not None

    def _whole(self, name: _Name) -> str:
        return self._full((*name.head, *_canonical(name)))

    def _full(self, path: Iterable[str]) -> str:
        return _bare(self._own(path))

    def _own(self, path: Iterable[str]) -> Path:
        """Return a path by the field's own name, which an error may tell in place of the alias, or the other way."""
        keys = tuple(path)
        return tuple(aliases(self._kind).get(each.lower(), each) for each in keys[:1]) + keys[1:]

    def way_to_brokers(self, path: Path) -> str:
        """Return which variable says where the brokers of a pool are, and what was set in its place."""
        names = next((each for each in self._sources if each.word == "variable"), None)
        return f" (variable {names.called((*path, 'kafka', 'bootstrap_servers'))}{self._astray()})" if names else ""

    def _astray(self) -> str:
        """Return which names are set that other programs take for the brokers."""
        found = [
            name
            for names in self._sources
            for name, key in names.others
            if _BROKERS.search(_bare([key])) and not any(self._takes(kind, key) for kind in self._others)
        ]
        return f"; {', '.join(found)} is set, and no setting takes it" if found else ""

    def _missing(self, path: Sequence[object]) -> str:
        place = next((each for each in self._places if self._full(each.path) == self._full(map(str, path))), None)
        variables = [names for names in self._sources if names.word == "variable"]
        if place is None or not variables:
            return ""
        head = place.path if is_kafka(place.kind) else (*place.path, "kafka")
        hint = f": set {variables[0].called((*head, 'bootstrap_servers'))} and so on, or give the field a default"
        wanted = _bare((variables[0].prefix, *place.path))
        return (
            hint
            + (self._astray() if not self.strays else "")
            + "".join(
                f"; {stray} is set, did you mean {better}?"
                for stray, better in self.strays.items()
                if f"{_bare([better])}_".startswith(f"{wanted}_")
            )
        )

    def _all(self) -> Iterator[_Name]:
        return (name for names in self._sources for name in names.given if name.kind is not None)

    def _misspelt(self) -> dict[str, str]:
        """Return the names of Kafka's settings that nobody knows, and that are nearly one: librdkafka refuses them."""
        near = {
            name.text: (name, name.kind.nearly(dotted(*name.rest)))
            for name in self._all()
            if is_kafka(name.kind) and name.rest and name.value is not None
        }
        return {
            text: name.called((*name.head, meant.replace(".", "_"))) for text, (name, meant) in near.items() if meant
        }

    # -- names that reach no field -------------------------------------------------------------------

    def _meant(self, names: _Names, key: str) -> str | None:
        """Return what a name was meant to be, by its likeness to the places where there are pools."""
        words = re.split(r"((?:_|\.|/)+)", key)
        found = _like(names, words, self._places) or _like(names, words, self._further_places(names, words))
        if not found or any(self._takes(kind, key) for kind in self._others):
            return None
        better = min(found, key=lambda each: each[:2])[2]
        if self._whole(better) in map(self._whole, self._all()):  # the other one is for another program
            return None
        return names.called((*better.head, *better.rest))

    def _further_places(self, names: _Names, words: list[str]) -> list[Place]:
        """Return where pools would be that a mapping takes by whatever key, if a name begins nearly as that."""
        made = []
        for path, kind in self._open if names.delimiter in words[1::2] else ():
            wanted = _bare((names.prefix, *path)).strip("_")
            start = 2 * len(wanted.split("_"))
            if _alike("_".join(words[:start:2]), wanted):
                keys = ["".join(words[start:end]) for end in range(start + 1, len(words), 2)]
                made += [Place(kind, (*path, key)) for key in keys]
                made += [Place(kafka_of(kind), (*path, key, "kafka"), 2) for key in keys]
        return made

    def _further_pools(self) -> Iterator[str]:
        """Say which pools a mapping gets beside those of its default that are likely meant to be one of them."""
        own = (name.head for names in self._sources if not names.word for name in names.given)
        told = {head[:end] for head in own for end in range(len(head) + 1)}  # also what the program itself says
        for name in self._all() if self._open else ():
            at, meant = self._near_pool(name) or (0, "")
            key = name.head[: at + 1]
            if meant and key not in told:
                told.add(key)
                better = name.called((*name.head[:at], meant, *name.head[at + 1 :], *name.rest))
                way = f": did you mean {better}?" if meant.lower() != key[at].lower() else ""
                yield f"{name.text} makes a further pool {key[at]!r} beside {meant!r}{way}"

    def _near_pool(self, name: _Name) -> tuple[int, str] | None:
        """Return which key of a path is nearly that of a mapping's default, and that; none if it is one."""
        lower = [each.lower() for each in name.head]
        near = None
        for place in self._places:
            path = [each.lower() for each in place.path]
            at = next(
                (
                    len(each)
                    for each, _ in self._open
                    if len(each) < len(path) == len(lower) and _starts(place.path, each) and _starts(name.head, each)
                ),
                None,
            )
            if at is None or path[at + 1 :] != lower[at + 1 :]:
                continue
            if place.path[at] == name.head[at]:
                return None
            if _near_keys(lower[at], path[at]):
                near = at, place.path[at]
        return near

    def _takes(self, kind: type, key: str) -> bool:
        prefix, delimiter = (str(config_of(kind).get(each) or "") for each in ("env_prefix", "env_nested_delimiter"))
        rest = key.removeprefix(prefix.lower())
        path = tuple(rest.split(delimiter or "\0"))
        return len(rest) == len(key) - len(prefix) and landing(kind, path, extras=False) is not None


def _like(names: _Names, words: list[str], places: Iterable[Place]) -> list[tuple[int, bool, _Name]]:
    """Return which settings a name may mean; less is nearer."""
    by_kind: dict[object, list[Place]] = {}
    for place in places:
        by_kind.setdefault(place.kind, []).append(place)
    found = []
    for cut in range(1, len(words) - 1, 2):
        setting, delimited = "_".join(words[cut + 1 :: 2]), words[cut] == names.delimiter
        for kind, these in by_kind.items():
            exact = _is_setting(kind, setting, delimited=delimited)
            for place in these if exact or delimited or (is_kafka(kind) and "_" in setting) else ():
                head = words[:cut]
                if exact and place.own > 1 and setting == "bootstrap_servers" and not delimited:
                    head += ["_", "kafka"] * (head[-1] != "kafka")  # of no other program's name that's the pool's
                how = _likeness(head, names.prefix, place, names.delimiter, delimited=delimited)
                meant = None if how is None else setting if exact else _near_setting(kind, setting)
                # KAFKA_BOOTSTRAP_SEVERS is ours where that block is; else such a name is often another program's.
                sure = exact or delimited or (how, meant) == (0, "bootstrap_servers")
                if how is not None and meant and sure:
                    found.append((how, not exact, _Name("", "", "", names.called, place.path, kind, (meant,))))
    return found


def _near_keys(one: str, other: str) -> bool:
    """Whether one key is likely the other, misspelt; not one of a series, nor of two regions."""
    words, others = one.split("_"), other.split("_")
    pairs = list(zip(words, others, strict=True)) if len(words) == len(others) else [(one, other)]
    series = one != other and re.sub(r"\d+", "", one) == re.sub(r"\d+", "", other)
    return not series and all(_alike(*pair) for pair in pairs)


def _likeness(head: list[str], prefix: str, place: Place, delimiter: str, *, delimited: bool) -> int | None:
    """Return how like the beginning of a name is to that of a pool; less is more."""
    found, own = head[::2], _bare(place.path[-place.own :]).split("_")
    wanted = _bare((prefix, *place.path)).strip("_").split("_")
    if found == wanted:
        return 0
    outer = found[-len(wanted) :] == wanted
    if outer and place.alone:  # ORDERS__KAFKA is no KAFKA, and KAFKA_BOOTSTRAP_SERVERS is a name of many programs
        return 1 if delimited and head[-2 * len(wanted)] != delimiter else None
    if outer:
        return 1
    if len(found) >= len(own) and wanted[-len(found) :] == found:
        return 2
    if delimited and "_".join(found).endswith("_".join(wanted)):
        return 3
    return 4 if _alike("_".join(found), "_".join(wanted)) else None


def _alike(one: str, other: str) -> bool:
    return bool(get_close_matches(other, [one], n=1, cutoff=NEAR))  # which asks what costs less first


def _is_setting(kind: object, name: str, *, delimited: bool) -> bool:
    if is_kafka(kind):
        return (delimited or "_" in name) and kind.knows(name)
    return (name in fields_of(kind) or name == "timeout") and (delimited or name not in _OFTEN)


def _near_setting(kind: object, name: str) -> str | None:
    if is_kafka(kind):
        return (kind.nearly(name) or "").replace(".", "_") or None
    return next(iter(get_close_matches(name, [*fields_of(kind), "timeout"], n=1, cutoff=NEAR_WITHIN)), None)


def _named(word: str, found: Mapping[str, str]) -> str:
    if not word:
        return ""
    return f" ({word}{'s' * (len(found) > 1)} {', '.join(name + better for name, better in found.items())})"


def _right(name: _Name) -> str:
    """Return what a setting of Kafka's is called that stands among the pool's."""
    own = dotted(*name.rest).removeprefix("kafka.")
    kafka = None if is_kafka(name.kind) else kafka_of(name.kind)
    if not is_kafka(kafka) or not kafka.knows(own):
        return ""
    return f", did you mean {name.called((*name.head, 'kafka', own.replace('.', '_')))}?"


def _canonical(name: _Name) -> Path:
    """Return the keys within a pool as an error tells them."""
    if name.inside_kafka:
        return (dotted(*name.rest),)
    return ("timeout_ms",) if name.kind is not None and name.rest == ("timeout",) else name.rest


def _subjects(text: str) -> set[str]:
    """Return what a message of ours is about: it begins with the names."""
    if "a key is empty" in text:
        return {""}
    found = re.match(r"(?:Value error, )?((?:[\w.]+(?:, | and ))*[\w.]+) ", text)
    return set(re.split(", | and ", found[1])) if found else set()


def _starts(path: Path, head: Path) -> bool:
    return _bare((*path[: len(head)], "")) == _bare((*head, ""))


def _spellings(rest: Path) -> set[str]:
    return {rest[0], rest[-1], dotted(*rest), dotted(rest[-1])}


def _bare(path: Iterable[str]) -> str:
    return re.sub("[_./]+", "_", "_".join(each for each in path if each)).lower()


def misspelt_arguments(kind: type, values: Mapping[str, object]) -> dict[str, str]:
    """Return the arguments that are nearly a field: pydantic-settings drops them without a word."""
    fields = fields_of(kind)
    aliases = [each.validation_alias or each.alias or name for name, each in fields.items()]
    if config_of(kind).get("extra") != "ignore" or not all(isinstance(each, str) for each in aliases):
        return {}  # they are refused or wanted, or may have names that only pydantic knows
    others = [name for name in values if not name.startswith("_") and name not in {*fields, *aliases}]
    near = {name: get_close_matches(name, fields, n=1, cutoff=NEAR) for name in others}
    return {name: each[0] for name, each in near.items() if each}
