"""A blueprint: the TOML file that says how a dataset is built and which of its shots are selected.

Contract: unknown names, wrong types and impossible values are errors that name place, expected and got, all at once.

    sources = ["footage"]          # as `prepare` takes them
    weights = "weights"            # folder of models' files
    [scenes]                       # settings of stages: see the classes in stages/
    [stages.motion]                # a stage runs if its table is there
    [select.limits]                # column = [least, most], either may be "" for none
    motion = [0.3, 20]
    [select]
    duplicates = 6                 # bits
    similarity = 0.95              # cosine of embeddings
    [select.quotas]                # column = most shots of one value
    category = 1000
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError
from .stages import STAGES, Scenes, Stage

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DERIVED = ("aspect", "duration")  # columns that `select` makes of a shot's shape and length
NAMES = {stage.name: stage for stage in STAGES}


@dataclass(frozen=True)
class Selection:
    """Which shots are selected.

    Attributes:
        limits: {column: (least, most)}, None where there is no limit; text columns: the values that are allowed.
        duplicates: most bits in which hashes of near-duplicates differ; None: keep them.
        similarity: least cosine of embeddings of near-duplicates; None: keep them. crop: cut black bars off.
        quotas: {column: most shots of one value}. prefer: column whose higher values win a quota; else chance by key.
    """

    limits: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    duplicates: int | None = None
    similarity: float | None = None
    crop: bool = True
    quotas: dict[str, int] = dataclasses.field(default_factory=dict)
    prefer: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """By which shots are selected, those that are derived among them."""
        asked = {"hashes": self.duplicates is not None, "embedding": self.similarity is not None, self.prefer: True}
        return tuple(dict.fromkeys([*self.limits, *self.quotas, *(n for n, wanted in asked.items() if n and wanted)]))


@dataclass(frozen=True)
class Blueprint:
    """sources: as `prepare` takes them. weights: folder of models' files. stages: in the order in which they run."""

    sources: tuple[Path, ...]
    weights: Path
    scenes: Scenes
    stages: tuple[Stage, ...]
    selection: Selection

    @property
    def columns(self) -> dict[str, str]:
        """Of the table of shots."""
        columns = {"key": "string", "path": "string", "locator": "string", "start": "float64", "end": "float64"}
        for stage in (self.scenes, *self.stages):
            columns |= stage.columns
        return columns

    def check_needs(self) -> None:
        """Raises DataError naming all packages and weights that are missing, and what runs without them."""
        lacking = {stage.name: found for stage in (self.scenes, *self.stages) if (found := stage.lacks(self.weights))}
        if lacking:
            lines = [f"  {name}: {need}" for name, needs in lacking.items() for need in needs]
            running = ", ".join(stage.name for stage in (self.scenes, *self.stages) if stage.name not in lacking)
            lines.append(f"Put them there, or take these stages out of the blueprint; without them run: {running}")
            raise DataError("stages lack what they need:\n" + "\n".join(lines))


def load_blueprint(path: Path) -> Blueprint:
    """Read a file; paths in it are relative to its folder. Raises DataError naming all that is wrong with it."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"the blueprint {path} cannot be read: {error}") from None
    problems: list[str] = []
    _report_unknown(table, ("sources", "weights", "scenes", "stages", "select"), "blueprint", problems)
    sources = table.get("sources")
    if not isinstance(sources, list) or not sources or not all(isinstance(source, str) for source in sources):
        problems.append(f"sources: expected a list of paths, got {sources!r}")
        sources = []
    scenes = _settings(Scenes, table.get("scenes", {}), "scenes", problems)
    asked = table.get("stages", {})
    _report_unknown(asked, NAMES, "stages", problems)
    stages = [_settings(NAMES[name], asked[name], f"stages.{name}", problems) for name in NAMES if name in asked]
    for stage in filter(None, stages):
        lacking = [need for need in stage.reads if need in NAMES and need not in asked]
        problems += [f"[stages.{stage.name}] needs [stages.{need}]" for need in lacking]
    selection = _selection(table.get("select", {}), problems)
    if problems:
        raise DataError(f"the blueprint {path} has mistakes:\n" + "\n".join(f"  {problem}" for problem in problems))
    found = Blueprint(
        tuple(path.parent / source for source in sources), path.parent / table.get("weights", "weights"), scenes,
        tuple(stages), selection,
    )  # fmt: skip
    _check_columns(found, path)
    return found


def _settings(kind: type, table: Any, place: str, problems: list[str]):
    """A stage with the settings of its table; None if they are wrong."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    before = len(problems)
    _report_unknown(table, fields, place, problems)
    values = {}
    for name, value in table.items() if isinstance(table, dict) else ():
        if name in fields:
            default = fields[name].default
            value = tuple(value) if isinstance(value, list) else value
            value = float(value) if isinstance(default, float) and type(value) is int else value
            if type(value) is not type(default):
                problems.append(f"[{place}] {name}: expected a {type(default).__name__}, got {value!r}")
            values[name] = value
    if len(problems) > before:
        return None
    try:
        return kind(**values)
    except DataError as error:
        problems.append(str(error))
        return None


def _selection(table: Any, problems: list[str]) -> Selection:
    _report_unknown(table, [field.name for field in dataclasses.fields(Selection)], "select", problems)
    if not isinstance(table, dict):
        return Selection()
    limits = {}
    for column, value in table.get("limits", {}).items():
        texts = isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)
        pair = isinstance(value, list) and len(value) == 2 and all(_is_limit(one) for one in value)
        if texts or pair:
            limits[column] = tuple(value) if texts else tuple(None if one == "" else float(one) for one in value)
        else:
            problems.append(f'[select.limits] {column}: expected [least, most], "" for none, or texts, got {value!r}')
    quotas = table.get("quotas", {})
    problems += [
        f"[select.quotas] {column}: expected a whole number of 1 or more, got {most!r}"
        for column, most in quotas.items()
        if type(most) is not int or most < 1
    ]
    duplicates = table.get("duplicates")
    if duplicates is not None and (type(duplicates) is not int or not 0 <= duplicates <= 31):
        problems.append(f"[select] duplicates: expected 0 to 31 bits, got {duplicates!r}")
        duplicates = None
    similarity = table.get("similarity")
    if similarity is not None and (type(similarity) not in (int, float) or not 0 < similarity <= 1):
        problems.append(f"[select] similarity: expected a cosine above 0 and up to 1, got {similarity!r}")
        similarity = None
    return Selection(limits, duplicates, similarity, bool(table.get("crop", True)), quotas, table.get("prefer", ""))


def _is_limit(value: Any) -> bool:
    return value == "" or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _report_unknown(table: Any, known: Iterable[str], place: str, problems: list[str]) -> None:
    if not isinstance(table, dict):
        problems.append(f"[{place}]: expected a table, got {table!r}")
        return
    problems += [f"[{place}] {name}: unknown; expected {', '.join(known)}" for name in table if name not in known]


def _check_columns(blueprint: Blueprint, path: Path) -> None:
    """Raises DataError if the selection reads columns that no stage of the blueprint writes."""
    writers = {column: stage.name for stage in STAGES for column in stage.columns}
    lines = [
        f"  {column}: " + (f"add [stages.{writers[column]}]" if column in writers else "no stage writes it")
        for column in blueprint.selection.columns
        if column not in {*blueprint.columns, *DERIVED}
    ]
    if lines:
        raise DataError(f"the blueprint {path} selects by columns that it does not fill:\n" + "\n".join(lines))
