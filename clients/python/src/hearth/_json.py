"""JSON to typed results, and typed requests to JSON.

Answers may gain fields and values: a field that is not known is passed over, and a word that is not known, where there are only some,
is read as "unknown". Strings of the guest's system are `str`, or `bytes` where they are no UTF-8 (`{"hex": "…"}` in JSON).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union
from urllib.parse import quote

from .errors import BadAnswerError

T = TypeVar("T")


def parse(kind: type[T], data: bytes) -> T:
    """Reads a JSON answer.

    Raises `BadAnswerError`.
    """
    try:
        value = json.loads(data)
    except ValueError as error:
        raise BadAnswerError(f"the daemon's answer cannot be read: {error}") from error
    return read(kind, value)


def read(kind: type[T], value: Any, at: str = "answer") -> T:
    """Makes a value of a type from what JSON has.

    Raises `BadAnswerError`, naming the place.
    """
    return typing.cast(T, _read(kind, value, at))


def _read(kind: Any, value: Any, at: str) -> Any:
    custom = getattr(kind, "from_json", None)
    if custom is not None and isinstance(value, dict):
        return custom(value, at)
    if dataclasses.is_dataclass(kind):
        return read_fields(typing.cast(type, kind), value, at)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, at)
    if origin is Literal:
        return _read_word(arguments, value, at)
    if origin in (list, tuple) and isinstance(value, list):
        if origin is tuple and arguments[-1] is not Ellipsis:
            return tuple(_read(part, item, at) for part, item in zip(arguments, value))
        return origin(_read(arguments[0], item, f"{at}[{number}]") for number, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _read(arguments[1], item, f"{at}.{key}") for key, item in value.items()}
    if kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    raise BadAnswerError(f"the daemon's answer cannot be read: {at} is no {getattr(kind, '__name__', kind)}")


def _read_union(kinds: tuple[Any, ...], value: Any, at: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    if bytes in kinds and isinstance(value, dict) and isinstance(value.get("hex"), str):
        try:
            return bytes.fromhex(value["hex"])
        except ValueError:
            raise BadAnswerError(f"the daemon's answer cannot be read: {at} is not in hexadecimal digits") from None
    plain = [kind for kind in kinds if kind not in (bytes, type(None))]
    return _read(plain[0], value, at)


def _read_word(words: tuple[Any, ...], value: Any, at: str) -> Any:
    if value in words:
        return value
    if "unknown" in words and isinstance(value, str):
        return "unknown"
    raise BadAnswerError(f"the daemon's answer cannot be read: {at} is {value!r}")


@functools.cache
def _fields(kind: Any) -> list[tuple[str, Any, bool]]:
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return [
        (field.name, hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(kind)
    ]


def read_fields(kind: type[T], value: Any, at: str) -> T:
    """Makes a dataclass from a JSON object, field by field."""
    if not isinstance(value, dict):
        raise BadAnswerError(f"the daemon's answer cannot be read: {at} is no object")
    found = {}
    for name, hint, is_needed in _fields(typing.cast(Any, kind)):
        if name in value:
            found[name] = _read(hint, value[name], f"{at}.{name}")
        elif is_needed:
            raise BadAnswerError(f"the daemon's answer cannot be read: {at} has no {name}")
    return kind(**found)


def text_or_hex(value: str | bytes) -> Any:
    """A string of the guest's system, as JSON has it."""
    if isinstance(value, str):
        try:
            value.encode()
            return value
        except UnicodeEncodeError:
            value = os.fsencode(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"hex": value.hex()}


def plain(value: Any) -> Any:
    """Makes what JSON can have of a request's value. `None` in an object of options is what was not given; see `changes`."""
    custom = getattr(value, "to_json", None)
    if custom is not None:
        return plain(custom())
    if isinstance(value, (str, bytes)):
        return text_or_hex(value)
    if isinstance(value, os.PathLike):
        return text_or_hex(os.fspath(value))
    if dataclasses.is_dataclass(value):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    return value


def changes(options: Mapping[str, Any]) -> dict[str, Any]:
    """As `plain`, of options among which `None` is a value: it takes away."""
    return {key: plain(item) for key, item in options.items()}


def query(options: Mapping[str, Any]) -> dict[str, str]:
    """Makes a query of what was given."""

    def word(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    return {key: word(value) for key, value in options.items() if value is not None}


def place(path: str | bytes | os.PathLike[str], root: str | None, **options: Any) -> dict[str, str]:
    """Makes a query that names a place in the guest."""
    name = text_or_hex(os.fspath(path))
    named = {"path": name} if isinstance(name, str) else {"path_hex": name["hex"]}
    return query({**named, "root": root, **options})


def segment(text: object) -> str:
    """Escapes what is one part of a path, whatever it holds."""
    return quote(str(text), safe="").replace(".", "%2E")
