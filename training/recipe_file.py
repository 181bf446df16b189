"""Recipes on disk: TOML to `Recipe` with all complaints at once, and the copy that a run keeps of its own."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Literal

from .errors import TrainingError
from .recipe import Recipe
from .recipe_checks import find_problems

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

RECIPES = Path(__file__).with_name("recipes")
RUN_RECIPE = "recipe.json"
PATHS = (
    ("model", "start"), ("encoders", "text"), ("encoders", "vae"), ("encoders", "tokenizer"), ("encoders", "cache"),
    ("data", "catalogues"), ("run", "out"),
)  # fmt: skip


class RecipeError(TrainingError):
    """A recipe that cannot be used; the message lists every reason."""


def read_recipe(name: str | Path, changes: list[str] | tuple[str, ...] = ()) -> Recipe:
    """A recipe file, or one of the shipped recipes by its name; ``changes`` are "section.key=value".

    Raises:
        RecipeError: naming every reason why it cannot be used.
    """
    path = Path(name)
    if path.suffix != ".toml" and not path.exists():
        path = RECIPES / f"{name}.toml"
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        raise RecipeError(f"there is no recipe {name}; give a .toml file or one of {shipped}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}") from error
    problems = [text for change in changes if (text := _apply(change, table))]
    recipe = _read(Recipe, table, "", problems)
    if not problems:
        problems = find_problems(recipe)
    if problems:
        raise RecipeError("\n  ".join([f"{path} cannot be used:", *problems]))
    return recipe


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Write the run's recipe, every default filled in and every path absolute, into its folder."""
    values = _without_none(dataclasses.asdict(recipe))
    for section, key in PATHS:
        value = values[section].get(key)
        if isinstance(value, list):
            values[section][key] = [str(Path(path).absolute()) for path in value]
        elif value and value != "random":
            values[section][key] = str(Path(value).absolute())
    (folder / RUN_RECIPE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def recipe_of_run(folder: str | Path) -> Recipe:
    """What `save_recipe` wrote. Raises RecipeError where the folder is no run's, or another version's."""
    path = Path(folder) / RUN_RECIPE
    if not path.is_file():
        raise RecipeError(f"{folder} is no run of ours: it has no {RUN_RECIPE}")
    problems: list[str] = []
    recipe = _read(Recipe, json.loads(path.read_text(encoding="utf-8")), "", problems)
    if problems:
        raise RecipeError("\n  ".join([f"{path} comes from another version:", *problems]))
    return recipe


def _without_none(value):
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, (list, tuple)) else value


def _apply(change: str, table: dict) -> str | None:
    """Put "section.key=value" into the table; what is wrong with it, if anything."""
    name, equals, value = change.partition("=")
    *sections, key = name.strip().split(".")
    if not equals or not key:
        return f"--set {change}: expected section.key=value"
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            return f"--set {change}: {section} is no section"
    try:
        table[key] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        table[key] = value.strip()  # a bare word is a string
    return None


def _read(kind: type, table: dict, where: str, problems: list[str]):
    """The dataclass ``kind`` from a table; None, with ``problems`` added to, if it cannot be made."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    before = len(problems)
    problems += [f"{where}{key}: unknown; known are {', '.join(fields)}" for key in table if key not in fields]
    values = {}
    for name, described in fields.items():
        if name in table:
            values[name] = _convert(hints[name], table[name], f"{where}{name}", problems)
        elif described.default is dataclasses.MISSING and described.default_factory is dataclasses.MISSING:
            problems.append(f"{where}{name}: missing")
    return kind(**values) if len(problems) == before else None


def _convert(hint, value, where: str, problems: list[str]):
    """``value`` as the annotation ``hint`` wants it, or None with a complaint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # X | None; TOML has no null, so a value is meant
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _convert(hint, value, where, problems)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _read(hint, value, f"{where}.", problems)
    elif origin is Literal:
        if value in arguments:
            return value
        problems.append(f"{where}: expected one of {', '.join(map(str, arguments))}, got {value!r}")
        return None
    elif origin is tuple:
        if isinstance(value, list) and (arguments[-1] is Ellipsis or len(value) == len(arguments)):
            each = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
            named = enumerate(zip(each, value, strict=True), 1)
            return tuple(_convert(one, item, f"{where}[{i}]", problems) for i, (one, item) in named)
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, origin or hint) and (hint is bool or not isinstance(value, bool)):
        return value
    problems.append(f"{where}: expected {_words(hint)}, got {value!r}")
    return None


def _words(hint) -> str:
    """An annotation in the words of TOML."""
    if typing.get_origin(hint) is tuple:
        arguments = typing.get_args(hint)
        if arguments[-1] is Ellipsis:
            return f"a list, each {_words(arguments[0])}"
        return f"a list of {len(arguments)}, each {_words(arguments[0])}"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    return names.get(hint, "a table")
