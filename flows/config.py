"""The config of an audit: strict, from TOML, with environment and flags above it."""

import dataclasses
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from flows.analyses import ANALYSES
from flows.analyses.analysis import Job, Options
from flows.sections import AboutSection, ComputeSection, LimitsSection, MethodSection, NotifySection, ReportSection, Section
from reports.gates.gate import Gate
from storage.datasets.formats import FORMATS, AnySpec
from storage.datasets.preprocessing import InputSpec
from storage.errors import InputError, nearest
from storage.json_records import read_record
from storage.models.sources import SOURCES, AnySource
from storage.runs.lookup import PREVIOUS
from storage.runs.plan import Plan
from storage.runs.run import MAPS, Run, read_plan

PREFIX = "CLEAR_AUDIT_"
OF_KUBERNETES = re.compile(PREFIX + r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PORT|PROTO|ADDR))?)?)")
"""Variables that each pod gets of a Service, here one called clear-audit or clear-audit-…: they are not meant for us."""

STRONGEST_SINCE = 5
"""The version of the tables since which a config without `method.top_k` means the strongest of many classes. Before: all."""

OWN_KEYS_SINCE = 7
"""The version since which each format of a dataset, and each source of a model, has its own keys. Before, all had those of the
others as well, which were NULL, or arguments that were none.
"""

SIGNED = r"x-amz-(signature|credential|security-token)|sig|signature|(\w*[_-])?(key|token|secret|password)"
CREDENTIALS = re.compile(rf"://[^/]*:(?!\d+(/|$))|[?&]({SIGNED})=", re.IGNORECASE)
"""What in an address is a secret: `s3://key:secret@bucket`, and the signature of an address that was signed."""

UNIONS: dict[str, Iterable[Any]] = {"dataset": FORMATS, "model": SOURCES}
"""The sections that have one of several sets of options, with all of these."""

PATHS = {(section, key) for section, choices in UNIONS.items() for choice in choices for key in choice.addresses}
ADDRESSES = (*sorted(PATHS), ("compute", "cluster"))

OPTIONS = {name: analysis.options for name, analysis in ANALYSES.items() if name != MAPS}
"""Of the analyses beside the maps, whose options are sections of the config."""


class AuditConfig(Section):
    """One audit: a dataset, a model, and how the one is to be explained on the other. Paths are absolute.

    reference: the earlier run that gates compare with: a run's id, or `previous`, the latest of the same name. notify: is in
    no dump, and so in no plan, no report and no database of Prefect's: it may hold a secret.
    """

    name: str = Field(default="audit", min_length=1)
    reference: str = Field(default=PREVIOUS, min_length=1)
    dataset: AnySpec
    input: InputSpec
    model: AnySource
    method: MethodSection = MethodSection()
    compute: ComputeSection = ComputeSection()
    limits: LimitsSection = LimitsSection()
    report: ReportSection = ReportSection()
    about: AboutSection = AboutSection()
    notify: NotifySection = Field(default=NotifySection(), exclude=True)
    gates: tuple[Gate, ...] = ()
    analyses: dict[str, SerializeAsAny[Options]] = Field(default={}, validate_default=True)
    folder: str = "."

    @field_validator("analyses", mode="plain")
    @classmethod
    def check_analyses(cls, given: Any) -> dict[str, Options]:
        """Of each analysis that the config says nothing of, the options are those by default."""
        found = {name: given.get(name, {}) for name in OPTIONS}
        return {
            name: value if isinstance(value, Options) else OPTIONS[name].model_validate(value) for name, value in found.items()
        }

    @model_validator(mode="after")
    def check_gate_names(self) -> "AuditConfig":
        names = [gate.name for gate in self.gates]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two gates are called '{twice}': give each a name of its own")
        return self

    @model_validator(mode="after")
    def check_reads(self) -> "AuditConfig":
        """That what the analyses and gates ask for is made."""
        made = {job.analysis.name for job in self.jobs}
        for job in self.jobs:
            missing = next((name for name in job.analysis.reads if name not in made), None)
            if missing is not None:
                raise ValueError(f"analysis '{job.analysis.name}' asks the tables of '{missing}': set '{missing}.run' to true")
        offered = {figure.name: name for name, analysis in ANALYSES.items() for figure in analysis.figures}
        for gate in self.gates:
            if (maker := offered.get(gate.name, MAPS)) not in made | {MAPS}:
                raise ValueError(f"gate '{gate.name}' asks for a figure of analysis '{maker}': set '{maker}.run' to true")
        return self

    @model_validator(mode="after")
    def check_addresses(self) -> "AuditConfig":
        addresses = {f"{section}.{key}": getattr(getattr(self, section), key, None) for section, key in ADDRESSES}
        for key, address in addresses.items():
            if address is not None and CREDENTIALS.search(address):
                raise ValueError(
                    f"key '{key}' has credentials in it, which plan and report would keep: take them out, and give them by "
                    "the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or by the machine's own profile"
                )
        return self

    @property
    def jobs(self) -> list[Job]:
        """The analyses that the audit has, with their options, in the order in which they are done."""
        further = [Job(ANALYSES[name], options) for name, options in self.analyses.items() if options.run]
        return [Job(ANALYSES[MAPS], Options()), *further]

    @property
    def config_hash(self) -> str:
        """SHA-256 of what decides the result, to the last bit: not where it is computed, nor how it is judged and shown.

        Whether a run folds changes how its sums are rounded, so `compute.operator_gb`, which decides that, belongs to it.
        """
        whole = {"folder": True, "limits": True, "report": True, "about": True, "gates": True, "reference": True}
        # Each analysis hashes its own.
        whole |= {"analyses": True}
        facts = self.model_dump(mode="json", exclude=whole | {"compute": {"cluster", "workers", "threads", "shard_tries"}})
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def load_config(path: Path, settings: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> AuditConfig:
    """Reads a config file; `settings` (`section.key=value`) and CLEAR_AUDIT_SECTION_KEY variables stand above it.

    path: TOML; or the plan.json of a run, whose resolved config is taken. Raises InputError naming file, key and fix.
    """
    values = read_values(path)
    for name, value in overrides(settings, os.environ if environment is None else environment):
        *sections, key = name.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise InputError(f"config '{path}': '{name}' cannot be set, for '{section}' is not a section: make it one")
        target[key] = value
    if path.suffix == ".json":
        folder = Path(values.pop("folder"))
    elif own := {"folder", "analyses"} & values.keys():
        hints = {"folder": "paths are relative to the config file", "analyses": f"their sections are {', '.join(OPTIONS)}"}
        key = max(own)
        raise InputError(f"config '{path}': unknown key '{key}'; {hints[key]}")
    else:
        # One name for it, from wherever it is named: what is planned is known again by it.
        folder = Path(os.path.realpath(path.parent))
    resolve_paths(values, folder)
    values["analyses"] = values.get("analyses", {}) | {name: values.pop(name) for name in OPTIONS if name in values}
    check_options(path, values["analyses"])
    try:
        return AuditConfig.model_validate_json(json.dumps(values | {"folder": str(folder)}, default=str))
    except ValidationError as error:
        raise InputError(f"config '{path}': " + "; ".join(explain(item) for item in error.errors())) from error


def check_options(path: Path, given: dict[str, Any]) -> None:
    """Raises InputError where the section of an analysis is not as it must be."""
    for name, options in OPTIONS.items():
        try:
            options.model_validate_json(json.dumps(given.get(name, {}), default=str))
        except ValidationError as error:
            faults = [explain({**item, "loc": (name, *item["loc"])}) for item in error.errors()]
            raise InputError(f"config '{path}': " + "; ".join(faults)) from error


def read_values(path: Path) -> dict[str, Any]:
    """What stands in a config file, or of the config in a run's plan."""
    try:
        # Some editors begin UTF-8 with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".json":
            return tomllib.loads(text)
    except OSError as error:
        raise InputError(f"config '{path}' cannot be read ({error.strerror}): 'clear-audit init' writes one") from error
    except UnicodeDecodeError as error:
        raise InputError(f"config '{path}' is not UTF-8 ({error.reason}), but UTF-16, perhaps: save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"config '{path}' is not TOML: {error}") from error
    plan = read_record(Plan, path)
    config = plan.config
    if not isinstance(config.get("folder"), str):
        raise InputError(f"config '{path}': the plan has no resolved config: name the TOML file that it was made from")
    return as_of_now(config, plan.schema_version)


def as_of_now(config: dict[str, Any], version: int) -> dict[str, Any]:
    """The config of a plan of an older version, said as it would be said now."""
    if isinstance(method := config.get("method"), dict) and version < STRONGEST_SINCE and method.get("top_k") is None:
        method["top_k"] = "all"
    for name in UNIONS:
        if isinstance(section := config.get(name), dict) and version < OWN_KEYS_SINCE:
            config[name] = {key: value for key, value in section.items() if value not in (None, {})}
    return config


def planned_config(run: Run) -> AuditConfig:
    """The config that a run was planned with. Raises InputError where its plan is damaged."""
    try:
        plan = read_plan(run)
        return AuditConfig.model_validate_json(json.dumps(as_of_now(plan.config, plan.schema_version)))
    except ValidationError as error:
        faults = "; ".join(explain(item) for item in error.errors())
        raise InputError(f"config of run '{run.run_id}': {faults}; name a config file instead") from error


def known_keys(section: type[BaseModel] = AuditConfig) -> dict[str, Any]:
    """Every key, `section.key`, that a config may have, with the type of its value."""
    keys: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        choices = UNIONS.get(name, [kind])
        if all(map(dataclasses.is_dataclass, choices)):
            keys |= {f"{name}.{field.name}": field.type for choice in choices for field in dataclasses.fields(choice)}
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            keys |= {f"{name}.{key}": inner for key, inner in known_keys(kind).items()}
        elif name not in ("folder", "analyses"):
            keys[name] = kind
    if section is AuditConfig:
        keys["dataset.format"] = str
        for name, options in OPTIONS.items():
            keys |= {f"{name}.{key}": field.annotation for key, field in options.model_fields.items()}
    return keys


def overrides(settings: Sequence[str], environment: Mapping[str, str]) -> list[tuple[str, Any]]:
    """Pairs of key and value, the environment's first, so that flags win."""
    variables = {PREFIX + key.upper().replace(".", "_"): key for key in known_keys()}
    found = []
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable != PREFIX + "STORE" and not OF_KUBERNETES.fullmatch(variable):
            if variable not in variables:
                raise InputError(f"environment variable {variable} is not known: did you mean {nearest(variable, variables)}?")
            key = variables[variable]
            found.append((key, parse_value(text, known_keys()[key])))
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise InputError(f"setting '{setting}' is not of the form section.key=value")
        if key not in known_keys() and not key.startswith("model.arguments."):
            raise InputError(f"setting '{key}=…': unknown key '{key}', did you mean '{nearest(key, known_keys())}'?")
        found.append((key, parse_value(text, known_keys().get(key))))
    return found


def parse_value(text: str, kind: Any) -> Any:
    """A TOML value where it is one, else the text itself; a key of text is text without quotes, whatever it looks like."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
    return text if kind in (str, str | None) and not isinstance(value, str) else value


def resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Makes paths absolute: a worker may have another working directory."""
    for section, key in PATHS:
        part = values.get(section)
        if isinstance(part, dict) and isinstance(part.get(key), str) and "://" not in part[key]:
            part[key] = str(folder / os.path.expanduser(part[key]))  # noqa: PTH111  Path's raises where there is no such user


TAG_FAULTS = ("union_tag_invalid", "union_tag_not_found")


def explain_tag(item: Any) -> str:
    """That the format of a dataset is not one, in one sentence."""
    if item["type"] == "union_tag_not_found":
        return explain({"type": "missing", "loc": (item["loc"][0], "", "format")})
    *others, last = item["ctx"]["expected_tags"].split(", ")
    message = f"input should be {', '.join(others)} or {last}"
    return explain({"type": "literal_error", "loc": (item["loc"][0], "", "format"), "input": item["ctx"]["tag"], "msg": message})


def explain(item: Any) -> str:
    """One fault of a config in one sentence."""
    if item["type"] in TAG_FAULTS:
        return explain_tag(item)
    # Among them is what tells the options of a union apart, which is no key.
    where = ".".join(str(part) for place, part in enumerate(item["loc"]) if not (place == 1 and item["loc"][0] in UNIONS))
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = [*known_keys(), *(f"gates.{field.name}" for field in dataclasses.fields(Gate))]
        if where in known and item["loc"][0] == "model":
            return f"key '{where}' stands beside 'model.{item['loc'][1]}', which is a whole model: remove one of the two"
        if where in known:
            return f"key '{where}' is none of dataset.format '{item['loc'][1]}': remove it, or name another format"
        return f"unknown key '{where}': did you mean '{nearest(re.sub(r'[.][0-9]+[.]', '.', where), known)}'?"
    models = [f"key 'model.{source.key}'" for source in reversed(SOURCES.values())]
    if item["type"] == "missing" and f"key '{where}'" == models[0]:
        return (
            f"neither {' nor '.join(models)} is there: add the one that names your model "
            "('clear-audit init' writes a config with every key explained)"
        )
    if item["type"] == "missing":
        return f"key '{where}' is missing: add it ('clear-audit init' writes a config with every key explained)"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if not item["loc"]:  # its input is the whole config, which may hold a secret
        return f"a value is no text that can be kept ({item['msg']}): correct it"
    if item["loc"][0] == "notify":
        return f"key '{where}': {item['msg'][0].lower()}{item['msg'][1:]}"
    value = json.dumps(item["input"])
    shown = "not shown, for it has credentials in it" if CREDENTIALS.search(value) else value
    return f"key '{where}' is {shown}: {item['msg'][0].lower()}{item['msg'][1:]}"
