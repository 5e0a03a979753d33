"""Templates: workflows/NAME.json with NAME.toml, made into a graph by typed parameters.

The TOML names the graph's inputs by "NODE.INPUT", where NODE is an id or the node's title:

    title = "…"                          kind = "video"
    [parameters.steps]                   type = "int", default, min, max, step, description
    targets = ["sampler.steps"]          every input that gets the value
    [parameters.palette.sets.night]      for a choice: inputs to set, instead of targets
    "sky color.color" = 0x070B1E
    [[models]]                           folder, name, url, sha256, bytes, licence
    [needs]                              comfyui, vram_…_bytes, ram_bytes, [[needs.node_packs]]
    [cost]                               seconds, device, estimated, scales_with

Both sides of the wire use this: the client to check parameters, the worker to make the graph.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from pennyreel_comfy import graph as graphs
from pennyreel_comfy.graph import Graph
from pennyreel_contract.errors import Code, PennyreelError, error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SEED_MAX = 2**64 - 1
_DRAWN_BITS = 48  # a drawn seed stays exact in JavaScript and in every node's range

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_FILE = re.compile(r"[^/\\\x00-\x1f]{1,200}")

ParameterType = Literal["string", "int", "float", "bool", "choice", "image", "seed"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parameter(_Record):
    """One parameter: its type, its limits, and the inputs that get its value."""

    type: ParameterType
    description: str = ""
    default: JsonValue = Field(default=None, description="none: required; a seed is drawn")
    min: float | None = None
    max: float | None = None
    step: int | None = Field(default=None, gt=0, description="values are multiples of it")
    max_length: int | None = Field(default=None, gt=0)
    choices: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    sets: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)

    @property
    def required(self) -> bool:
        """Whether a value must be given."""
        return self.default is None and self.type != "seed"

    @property
    def allowed(self) -> str:
        """What is allowed, for a person."""
        if self.type == "choice":
            return "one of " + ", ".join(self.choices)
        if self.type == "bool":
            return "true or false"
        if self.type == "image":
            return "the name of an input file"
        if self.type == "string":
            return "text" + (f" of at most {self.max_length} characters" if self.max_length else "")
        if self.type == "seed":
            return f"a whole number from 0 to {SEED_MAX}"
        text = "a whole number" if self.type == "int" else "a number"
        if self.min is not None:
            text += f" from {self.min:g}"
        if self.max is not None:
            text += f" to {self.max:g}"
        return text + (f", a multiple of {self.step}" if self.step else "")

    def check(self, value: JsonValue) -> JsonValue:
        """Return `value` as the graph wants it.

        Raises:
            ValueError: it is not allowed; see `allowed`.

        """
        if self.type in ("int", "float", "seed"):
            return self._number(value)
        right = isinstance(value, bool if self.type == "bool" else str)
        if right and isinstance(value, str):
            right = (
                (self.type != "choice" or value in self.choices)
                and (self.type != "image" or bool(_FILE.fullmatch(value)))
                and (self.max_length is None or len(value) <= self.max_length)
            )
        if not right:
            raise ValueError(self.allowed)
        return value

    def parse(self, text: str) -> JsonValue:
        """Read a value from text, as typed on a command line; `check` comes after.

        Text that is no value of the type comes back as it is, for `check` to refuse.
        """
        if self.type in ("string", "choice", "image"):
            return text
        try:
            value: JsonValue = json.loads(text.strip().lower())
        except (ValueError, RecursionError):
            return text
        return value

    def _number(self, value: JsonValue) -> int | float:
        low, high = (0, SEED_MAX) if self.type == "seed" else (self.min, self.max)
        right = (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            # Beyond these no float stands for a number; a comparison also refuses a NaN.
            and -sys.float_info.max <= value <= sys.float_info.max
            and (low is None or value >= low)
            and (high is None or value <= high)
            and not (self.step and value % self.step)
            and (self.type == "float" or value == int(value))
        )
        if not right:
            raise ValueError(self.allowed)
        return float(value) if self.type == "float" else int(value)  # type: ignore[arg-type]

    @model_validator(mode="before")
    @classmethod
    def _choices(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("sets") and "choices" not in data:
            return {**data, "choices": tuple(data["sets"])}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Parameter:
        if not self.targets and not self.sets:
            raise ValueError("it has neither targets nor sets")
        if (self.type == "choice") != bool(self.choices):
            raise ValueError("a choice, and nothing else, has choices or sets")
        if self.sets and set(self.sets) != set(self.choices):
            raise ValueError("sets and choices differ")
        if self.default is not None:
            try:
                self.check(self.default)
            except ValueError as problem:
                raise ValueError(f"default: must be {problem}") from None
        return self


class Model(_Record):
    """A model file that the template names by default."""

    folder: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]{0,63}$")
    name: str = Field(min_length=1, max_length=255)
    url: str = Field(pattern="^https://")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    bytes: int | None = Field(default=None, gt=0)
    licence: str


class NodePack(_Record):
    """Custom nodes that the template uses, at the commit it was tried with."""

    name: str
    url: str = Field(pattern="^https://")
    commit: str = Field(pattern="^[0-9a-f]{40}$")
    licence: str
    bytes: int | None = Field(
        default=None, gt=0, description="to download, with what it requires besides ComfyUI"
    )


class Needs(_Record):
    """What a server must have."""

    comfyui: str = Field(description="oldest version it is known to run on")
    vram_min_bytes: int = Field(ge=0, description="0: needs no GPU")
    vram_comfortable_bytes: int = Field(ge=0)
    ram_bytes: int | None = Field(default=None, ge=0)
    node_packs: tuple[NodePack, ...] = ()


class Cost(_Record):
    """About how long a run with the defaults takes, and what that grows with."""

    seconds: float = Field(gt=0, description="on `device`, models loaded")
    device: str
    estimated: bool = Field(description="false: measured")
    scales_with: tuple[str, ...] = Field(
        default=(), description="parameters; time is linear in each"
    )


@dataclass(frozen=True)
class Rendered:
    """A graph made from a template."""

    graph: Graph
    kind: str
    parameters: dict[str, JsonValue]
    """As given, with defaults and the drawn seed."""
    models: tuple[Model, ...]
    """Those of the template's models that this graph names."""


class Template(_Record):
    """A workflow with typed parameters."""

    name: str
    title: str
    description: str = ""
    kind: Literal["image", "video"]
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    models: tuple[Model, ...] = ()
    needs: Needs
    cost: Cost | None = None
    graph: dict[str, dict[str, Any]] = Field(repr=False)

    def parse(self, texts: Mapping[str, str]) -> dict[str, JsonValue]:
        """Read parameters from text, as typed on a command line; `render` checks them."""
        return {
            name: self.parameters[name].parse(text) if name in self.parameters else text
            for name, text in texts.items()
        }

    def render(self, parameters: Mapping[str, JsonValue] | None = None) -> Rendered:
        """Return the graph for `parameters`; those not given have their defaults.

        Raises:
            BadRequest: `bad_template`, naming every wrong parameter at once: what was given and
                what is allowed.

        """
        values = self._values(parameters or {})
        graph: Graph = copy.deepcopy(self.graph)
        for name, value in values.items():
            for target, setting in self._settings(self.parameters[name], value):
                graph = graphs.set_input(graph, target, setting)
        named = {found.value for found in graphs.model_names(graph)}
        models = tuple(model for model in self.models if model.name in named)
        return Rendered(graph=graph, kind=self.kind, parameters=values, models=models)

    def _values(self, given: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        problems = [self._unknown(name) for name in given if name not in self.parameters]
        values: dict[str, JsonValue] = {}
        for name, parameter in self.parameters.items():
            if given.get(name) is None:
                if parameter.required:
                    problems.append(_problem(name, None, parameter.allowed, "is required"))
                elif parameter.default is None:
                    values[name] = secrets.randbits(_DRAWN_BITS)
                else:
                    values[name] = parameter.check(parameter.default)
                continue
            try:
                values[name] = parameter.check(given[name])
            except ValueError as problem:
                problems.append(_problem(name, given[name], str(problem)))
        if problems:
            raise error(
                Code.BAD_TEMPLATE,
                f"template {self.name}: " + "; ".join(p["message"] for p in problems),
                detail={"problems": problems},
            )
        return values

    def _unknown(self, name: str) -> dict[str, str]:
        near = difflib.get_close_matches(name, self.parameters, n=2) or list(self.parameters)
        allowed = ", ".join(near) or "none"
        return {
            "parameter": _printable(name),
            "allowed": allowed,
            "message": f"{_printable(name)}: no such parameter; there is {allowed}",
        }

    @staticmethod
    def _settings(parameter: Parameter, value: JsonValue) -> Iterator[tuple[str, JsonValue]]:
        for target in parameter.targets:
            yield target, value
        if isinstance(value, str):
            yield from parameter.sets.get(value, {}).items()

    @model_validator(mode="after")
    def _consistent(self) -> Template:
        for name, parameter in self.parameters.items():
            settings = [target for chosen in parameter.sets.values() for target in chosen]
            for target in (*parameter.targets, *settings):
                self._check_target(name, target)
        unknown = [
            n for n in (self.cost.scales_with if self.cost else ()) if n not in self.parameters
        ]
        if unknown:
            raise ValueError(f"cost.scales_with: no such parameter: {', '.join(unknown)}")
        return self

    def _check_target(self, name: str, target: str) -> None:
        try:
            graphs.find_input(self.graph, target)
        except PennyreelError as problem:
            raise ValueError(f"parameters.{name}: {problem}") from None


def list_templates(dirs: Iterable[Path | str] = ()) -> list[Template]:
    """Return every template by name; one in `dirs` takes the place of a shipped one.

    Raises:
        BadRequest: `bad_template` where a template's file is wrong.

    """
    folders = _folders(dirs)
    return [load(name, folders) for name in sorted(_names(folders))]


def load(name: str, dirs: Iterable[Path | str] = ()) -> Template:
    """Return the template `name`, from the first of `dirs` that has it, else the shipped one.

    Raises:
        BadRequest: `bad_template` where there is none, naming near ones, or its file is wrong.

    """
    folders = _folders(dirs)
    if _NAME.fullmatch(name):
        for folder in folders:
            if (folder / f"{name}.toml").is_file():
                return _read(folder, name)
    names = sorted(_names(folders))
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise error(
        Code.BAD_TEMPLATE,
        f"no template {name!r}; {hint}there are: {', '.join(names) or 'none'}",
        detail={"near": near, "templates": names},
    )


def shipped() -> Path:
    """Return the folder of the templates that come with pennyreel."""
    packed = Path(str(resources.files("pennyreel_comfy"))) / "workflows"
    # An editable checkout has them beside worker/; a wheel inside the package.
    return packed if packed.is_dir() else Path(__file__).resolve().parents[2] / "workflows"


def _folders(dirs: Iterable[Path | str]) -> list[Path]:
    folders = [Path(folder) for folder in dirs]
    last = shipped()
    return folders if last in folders else [*folders, last]


def _names(folders: list[Path]) -> set[str]:
    found = {path.stem for folder in folders for path in folder.glob("*.toml")}
    return {name for name in found if _NAME.fullmatch(name)}


def _read(folder: Path, name: str) -> Template:
    place = f"{folder / name}.toml"
    try:
        table = tomllib.loads((folder / f"{name}.toml").read_text("utf-8"))
        place = f"{folder / name}.json"
        graph = graphs.parse((folder / f"{name}.json").read_bytes())
        place = f"{folder / name}.toml"
        return Template.model_validate({**table, "name": name, "graph": graph})
    except ValidationError as problem:
        found = [_located(e["loc"], e["msg"]) for e in problem.errors(include_input=False)]
        raise error(Code.BAD_TEMPLATE, f"{place}: {'; '.join(found[:8])}") from None
    except (OSError, ValueError, RecursionError, PennyreelError) as problem:
        raise error(Code.BAD_TEMPLATE, f"{place}: {problem}") from None


def _located(location: tuple[int | str, ...], message: str) -> str:
    where = ".".join(str(part) for part in location)
    message = message.removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _problem(name: str, given: JsonValue, allowed: str, text: str = "") -> dict[str, str]:
    shown = _printable(json.dumps(given, default=repr))
    return {
        "parameter": name,
        "given": shown,
        "allowed": allowed,
        "message": f"{name}: {text or f'{shown} is not allowed'}; it must be {allowed}",
    }


def _printable(text: str) -> str:
    """Shorten, and replace what the wire could not carry."""
    return text.encode("utf-8", "replace").decode()[:80]
