"""The config: what it may say, what stands above it, and that every fault is named."""

import json
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditor.backward.trace import REDUCTIONS
from auditor.operations.rule_table import RULES
from flows.analyses import ANALYSES
from flows.config import OF_KUBERNETES, OPTIONS, PREFIX, AuditConfig, known_keys, load_config, planned_config
from reports.figures import FIGURES
from reports.gates.gate import Gate
from storage.errors import InputError
from storage.models.factories import FactorySpec
from storage.models.programs import ProgramSpec
from storage.runs.plan import Plan
from storage.runs.run import Run, create_run
from tests.flows import brightness

FLOWS = Path(__file__).parents[2] / "flows"

MINIMAL = """
[dataset]
format = "idx"
path = "images.idx"

[input]
channels = 1
height = 28
width = 30

[model]
factory = "nets:build"
"""

NORMALIZED = MINIMAL.replace("width = 30", "width = 30\nmean = [0.75]\nstd = [0.25]")


def load(folder: Path, text: str = MINIMAL, *settings: str, environment: Mapping[str, str] | None = None) -> AuditConfig:
    """environment: nothing of the real one is read."""
    path = folder / "audit.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, settings, environment or {})


def fault(folder: Path, text: str = MINIMAL, *settings: str, environment: Mapping[str, str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load(folder, text, *settings, environment=environment)
    return str(caught.value)


def schema_keys(definition: Mapping[str, Any] | None = None, prefix: str = "") -> Iterator[str]:
    """Every key that the JSON schema of the config has."""
    schema = AuditConfig.model_json_schema()
    for name, field in (definition or schema)["properties"].items():
        if name == "analyses":
            for section, options in OPTIONS.items():
                yield from schema_keys(options.model_json_schema(), f"{section}.")
            continue
        if "oneOf" in field:
            choices = [schema["$defs"][choice["$ref"].rsplit("/", 1)[1]] for choice in field["oneOf"]]
            yield from sorted({f"{prefix}{name}.{key}" for choice in choices for key in choice["properties"]})
            continue
        reference = field.get("$ref") or next(iter(field.get("allOf", [{}]))).get("$ref")
        if reference:
            yield from schema_keys(schema["$defs"][reference.rsplit("/", 1)[1]], f"{prefix}{name}.")
        elif prefix + name != "folder":
            yield prefix + name


def keys_in(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and prefix + name != "model.arguments":
            yield from keys_in(value, f"{prefix}{name}.")
        else:
            yield prefix + name


# What it says.


@pytest.mark.parametrize(("text", "value"), [('"all"', "all"), ("7", 7)])
def test_how_many_classes_compete(tmp_path: Path, text: str, value: object) -> None:
    assert load(tmp_path, MINIMAL + f"[method]\ntop_k = {text}").method.top_k == value


def test_defaults(tmp_path: Path) -> None:
    assert load(tmp_path).model_dump() == {
        "name": "audit",
        "dataset": {"format": "idx", "path": str(tmp_path / "images.idx"), "labels": None, "classes": None},
        "input": {"channels": 1, "height": 28, "width": 30, "mean": (), "std": (), "resize": "crop"},
        "model": {"factory": "nets:build", "weights": None, "arguments": {}},
        "method": {
            "rule": "auto",
            "reduction": "sum",
            "head": None,
            "precision": "float32",
            "top_k": None,
            "kept_classes": 20,
        },
        "compute": {
            "cluster": "local",
            "workers": None,
            "threads": None,
            "batch_samples": None,
            "shard_samples": None,
            "operator_gb": None,
            "shard_tries": 3,
        },
        "limits": {"failed_frac_max": 0.01},
        "report": {"gallery_samples": 8, "seed": 0},
        "reference": "previous",
        "about": {"owner": None, "intended_use": None, "known_limits": None},
        "gates": (),
        "analyses": {
            "evidence": {"run": True},
            "data_checks": {"run": True, "samples": 256, "seed": 0},
            "trust": {"run": True, "samples": 500, "seed": 0},
        },
        "folder": str(tmp_path),
    }


def test_every_key_is_read(tmp_path: Path) -> None:
    text = """
    name = "all"
    reference = "20261120T"
    [dataset]
    format = "idx"
    path = "/data/m.idx"
    labels = "l.idx"
    classes = ["a", "b"]
    [input]
    channels = 3
    height = 224
    width = 200
    mean = [0.5, 0, 1.0]
    std = [1, 1, 0.25]
    resize = "stretch"
    [model]
    factory = "a.b:c"
    weights = "w.pt"
    arguments = { depth = 3, names = ["x"], deep = { on = true } }
    [method]
    rule = "guided"
    reduction = "max"
    head = "features.9"
    precision = "bfloat16"
    top_k = 5
    kept_classes = 7
    [compute]
    cluster = "tcp://host:8786"
    workers = 3
    threads = 2
    batch_samples = 8
    shard_samples = 48
    operator_gb = 0.5
    shard_tries = 5
    [limits]
    failed_frac_max = 0
    [report]
    gallery_samples = 0
    seed = -4
    [evidence]
    run = false
    [data_checks]
    run = false
    samples = 9
    seed = 3
    [trust]
    run = false
    samples = 0
    seed = 4
    [about]
    owner = "us"
    intended_use = "to sort"
    known_limits = "at night"
    [notify]
    webhook = "https://host/hook"
    on = ["gate"]
    [[gates]]
    name = "mine"
    sql = "SELECT 1"
    min = 0
    max = 2
    max_drop = 0.5
    max_rise = 0
    severity = "warn"
    min_samples = 7
    samples = "SELECT 2 AS sample_index"
    """
    config = load(tmp_path, text)
    assert config.notify.on == ("gate",)
    assert config.notify.webhook is not None
    assert config.notify.webhook.get_secret_value() == "https://host/hook"
    assert config.model_dump(exclude={"folder"}) == {
        "name": "all",
        "dataset": {"format": "idx", "path": "/data/m.idx", "labels": str(tmp_path / "l.idx"), "classes": ("a", "b")},
        "input": {
            "channels": 3,
            "height": 224,
            "width": 200,
            "mean": (0.5, 0.0, 1.0),
            "std": (1.0, 1.0, 0.25),
            "resize": "stretch",
        },
        "model": {
            "factory": "a.b:c",
            "weights": str(tmp_path / "w.pt"),
            "arguments": {"depth": 3, "names": ["x"], "deep": {"on": True}},
        },
        "method": {
            "rule": "guided",
            "reduction": "max",
            "head": "features.9",
            "precision": "bfloat16",
            "top_k": 5,
            "kept_classes": 7,
        },
        "compute": {
            "cluster": "tcp://host:8786",
            "workers": 3,
            "threads": 2,
            "batch_samples": 8,
            "shard_samples": 48,
            "operator_gb": 0.5,
            "shard_tries": 5,
        },
        "limits": {"failed_frac_max": 0.0},
        "report": {"gallery_samples": 0, "seed": -4},
        "reference": "20261120T",
        "about": {"owner": "us", "intended_use": "to sort", "known_limits": "at night"},
        "gates": (
            {
                "name": "mine",
                "sql": "SELECT 1",
                "min": 0,
                "max": 2,
                "max_drop": 0.5,
                "max_rise": 0,
                "severity": "warn",
                "min_samples": 7,
                "samples": "SELECT 2 AS sample_index",
            },
        ),
        "analyses": {
            "evidence": {"run": False},
            "data_checks": {"run": False, "samples": 9, "seed": 3},
            "trust": {"run": False, "samples": 0, "seed": 4},
        },
    }
    assert config.dataset.classes == ("a", "b")
    assert config.input.std == (1.0, 1.0, 0.25)
    assert isinstance(config.model, FactorySpec)
    assert (config.model.factory, config.folder) == ("a.b:c", str(tmp_path))
    keys = [*keys_in(tomllib.loads(text)), "model.program"]
    assert sorted(keys) == sorted(schema_keys()), "every key is in this test"


def test_a_program_stands_in_place_of_a_factory(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL.replace('factory = "nets:build"', 'program = "m.pt2"'))
    assert config.model == ProgramSpec(str(tmp_path / "m.pt2"))


def test_rules_and_reductions_are_those_of_the_engine(tmp_path: Path) -> None:
    for rule in ("auto", *RULES):
        assert load(tmp_path, MINIMAL, f"method.rule={rule}").method.rule == rule
    for reduction in REDUCTIONS:
        assert load(tmp_path, MINIMAL, f"method.reduction={reduction}").method.reduction == reduction
    for key, known in (("rule", ("auto", *RULES)), ("reduction", REDUCTIONS)):
        message = fault(tmp_path, MINIMAL, f"method.{key}=none")
        assert message.endswith("input should be " + ", ".join(map(repr, known))[::-1].replace(" ,", " ro ", 1)[::-1])


def test_known_keys_are_those_of_the_schema() -> None:
    assert sorted(known_keys()) == sorted(schema_keys())


# Faults.


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (MINIMAL.replace("path =", "pth ="), ["key 'dataset.path' is missing", "unknown key 'dataset.pth'", "'dataset.path'?"]),
        (MINIMAL + '[method]\nrulle = "linear"', ["unknown key 'method.rulle': did you mean 'method.rule'?"]),
        (
            MINIMAL.replace('"idx"', '"folder"\nlabels = "x"'),
            ["key 'dataset.labels' is none of dataset.format 'folder': remove it, or name another format"],
        ),
        (MINIMAL + "[reports]\nseed = 1", ["unknown key 'reports': did you mean 'report."]),
        ("nam = 'x'\n" + MINIMAL, ["unknown key 'nam': did you mean 'name'?"]),
        (
            MINIMAL.replace('factory = "nets:build"', ""),
            ["neither key 'model.factory' nor key 'model.program' is there: add", "clear-audit init"],
        ),
        (
            MINIMAL + 'program = "m.pt2"',
            ["key 'model.factory' stands beside 'model.program', which is a whole model: remove one of the two"],
        ),
        (
            MINIMAL.replace('factory = "nets:build"', 'program = "m.pt2"\nweights = "w.pt"'),
            ["key 'model.weights' stands beside 'model.program'"],
        ),
        (
            MINIMAL.replace('factory = "nets:build"', 'program = "m.pt2"\narguments = { a = 1 }'),
            ["key 'model.arguments' stands beside 'model.program'"],
        ),
        (
            MINIMAL + "[compute]\noperator_gb = -1",
            ["key 'compute.operator_gb' is -1: input should be greater than or equal to 0"],
        ),
        (MINIMAL + "[compute]\noperator_gb = inf", ["key 'compute.operator_gb' is Infinity"]),
        (MINIMAL + '[method]\nhead = ""', ["key 'method.head' is \"\""]),
        ("", ["key 'dataset' is missing", "key 'input' is missing", "key 'model' is missing"]),
        (MINIMAL.replace("28", '"28"'), ["key 'input.height' is \"28\": input should be a valid integer"]),
        (MINIMAL.replace("28", "28.0"), ["key 'input.height' is 28.0: input should be a valid integer"]),
        (MINIMAL.replace("28", "true"), ["key 'input.height' is true: input should be a valid integer"]),
        (MINIMAL.replace("28", "0"), ["key 'input.height' is 0: input should be greater than 0"]),
        (
            MINIMAL.replace("width = 30", "width = 30\nmean = [0.5]"),
            ["input: 1 values of mean and 0 of std for 1 channels; give both one value a channel, or neither"],
        ),
        (
            NORMALIZED.replace("std = [0.25]", "std = [0.0]"),
            ["input: mean (0.75,), std (0.0,); give finite numbers, and std above 0"],
        ),
        (MINIMAL.replace("channels = 1", "channels = 2"), ["key 'input.channels' is 2: input should be 1 or 3"]),
        (MINIMAL.replace('"idx"', '"tar"'), ["key 'dataset.format' is \"tar\"", "'idx', 'folder' or 'manifest'"]),
        (MINIMAL.replace('"images.idx"', "3"), ["key 'dataset.path' is 3: input should be a valid string"]),
        (
            MINIMAL + '[method]\nrule = "cam"\nreduction = "l2"',
            ['key \'method.reduction\' is "l2", of the input\'s channels, to which method.rule "cam" sends nothing: remove it'],
        ),
        (MINIMAL + '[method]\nrule = "lrp"', ["key 'method.rule' is \"lrp\"", "'linear', 'deconv', 'gradient'"]),
        (MINIMAL + "[compute]\nshard_samples = 40", ["key 'compute.shard_samples' is 40", "multiple of 16"]),
        (MINIMAL + '[compute]\ncluster = "slurm"', ["key 'compute.cluster' is \"slurm\""]),
        (
            MINIMAL + "[limits]\nfailed_frac_max = 1.5",
            ["key 'limits.failed_frac_max' is 1.5: input should be less than or equal to 1"],
        ),
        (MINIMAL + "[limits]\nfailed_frac_max = nan", ["key 'limits.failed_frac_max' is NaN"]),
        ("dataset = 3", ["key 'dataset' is 3: input should be an object"]),
        ("model = []\n" + MINIMAL.replace("[model]\nfactory", "#"), ["key 'model' is []: input should be an object"]),
        (MINIMAL + "[[report]]\nseed = 1", ["key 'report' is [{\"seed\": 1}]: input should be an object"]),
        ("folder = '/'\n" + MINIMAL, ["unknown key 'folder'"]),
        ("name = ''\n" + MINIMAL, ["key 'name' is \"\""]),
        ("name = ", ["is not TOML"]),
        ("a = 1\na = 2", ["is not TOML"]),
        ("a = " + "1" * 5000, ["is not TOML"]),
        ("a = " + "[" * 5000, ["is not TOML"]),
    ],
)
def test_a_fault_names_file_key_and_fix(tmp_path: Path, text: str, messages: list[str]) -> None:
    message = fault(tmp_path, text)
    assert message.startswith(f"config '{tmp_path / 'audit.toml'}'")
    assert [part for part in messages if part not in message] == []


def test_several_faults_are_named_at_once(tmp_path: Path) -> None:
    message = fault(tmp_path, MINIMAL.replace("28", "0").replace("30", "-1") + "[method]\ntop_k = 0")
    assert [key for key in ("input.height", "input.width", "method.top_k") if f"key '{key}'" not in message] == []


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no\.toml' cannot be read \(No such file or directory\): 'clear-audit init' writes one"
    ):
        load_config(tmp_path / "no.toml", (), {})
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        load_config(tmp_path, (), {})


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    for encoding in ("utf-16", "latin-1"):
        (tmp_path / "audit.toml").write_bytes(f"name = 'é'\n{MINIMAL}".encode(encoding))
        with pytest.raises(InputError, match=r"audit\.toml' is not UTF-8 \(.*\), but UTF-16, perhaps: save it as UTF-8"):
            load_config(tmp_path / "audit.toml", (), {})


def test_a_byte_order_mark_is_no_part_of_the_config(tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text(MINIMAL, encoding="utf-8-sig")
    assert load_config(tmp_path / "audit.toml", (), {}) == load(tmp_path)


# What stands above it.


def test_a_flag_stands_above_the_environment_above_the_file_above_the_default(tmp_path: Path) -> None:
    file = MINIMAL + '[method]\nrule = "deconv"'
    environment = {"CLEAR_AUDIT_METHOD_RULE": "gradient"}
    assert load(tmp_path).method.rule == "auto"
    assert load(tmp_path, file).method.rule == "deconv"
    assert load(tmp_path, file, environment=environment).method.rule == "gradient"
    assert load(tmp_path, file, "method.rule=guided", environment=environment).method.rule == "guided"
    assert load(tmp_path, file, "method.rule=guided", "method.rule=linear").method.rule == "linear"
    assert load(tmp_path, MINIMAL, environment=environment).method.rule == "gradient"


def test_the_environment_of_the_process_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.toml").write_text(MINIMAL)
    monkeypatch.setenv("CLEAR_AUDIT_REPORT_SEED", "12")
    assert load_config(tmp_path / "audit.toml").report.seed == 12


@pytest.mark.parametrize("key", known_keys())
def test_every_key_has_its_variable_and_its_flag(tmp_path: Path, key: str) -> None:
    values = {
        "name": '"n"',
        "dataset.format": '"folder"',
        "dataset.path": '"/p"',
        "dataset.labels": '"/l"',
        "dataset.classes": '["a"]',
        "input.channels": "3",
        "input.height": "9",
        "input.width": "9",
        "input.mean": "[0.5]",
        "input.std": "[0.5]",
        "input.resize": '"none"',
        "model.factory": '"a:b"',
        "model.weights": '"/w"',
        "model.arguments": "{ a = 1 }",
        "model.program": '"/p.pt2"',
        "method.rule": '"guided"',
        "method.reduction": '"l2"',
        "method.head": '"last"',
        "method.precision": '"bfloat16"',
        "method.top_k": "9",
        "method.kept_classes": "9",
        "compute.cluster": '"cuda"',
        "compute.workers": "9",
        "compute.threads": "9",
        "compute.batch_samples": "9",
        "compute.shard_samples": "32",
        "compute.operator_gb": "0.5",
        "compute.shard_tries": "5",
        "limits.failed_frac_max": "0.5",
        "report.gallery_samples": "9",
        "report.seed": "9",
        "reference": '"20261121T"',
        "about.owner": '"us"',
        "about.intended_use": '"it"',
        "about.known_limits": '"no"',
        "evidence.run": "false",
        "data_checks.run": "false",
        "data_checks.samples": "9",
        "data_checks.seed": "3",
        "trust.run": "false",
        "trust.samples": "9",
        "trust.seed": "3",
        "notify.webhook": '"https://host/hook"',
        "notify.on": '["failure"]',
        "gates": '[{ name = "accuracy", min = 0.5 }]',
    }
    expected = tomllib.loads(f"value = {values[key]}")["value"]
    if key == "gates":
        expected = [Gate(**gate) for gate in expected]
    variable = "CLEAR_AUDIT_" + key.upper().replace(".", "_")
    text = NORMALIZED if key in ("input.mean", "input.std") else MINIMAL
    if key == "model.program":
        text = MINIMAL.replace('factory = "nets:build"', "")
    for config in (load(tmp_path, text, f"{key}={values[key]}"), load(tmp_path, text, environment={variable: values[key]})):
        found: Any = config
        for part in (f"analyses.{key}" if key.split(".")[0] in OPTIONS else key).split("."):
            found = found[part] if isinstance(found, dict) else getattr(found, part)
        if key == "notify.webhook":
            found = found.get_secret_value()
        assert (list(found) if isinstance(found, tuple) else found) == expected
        assert found != load(tmp_path).model_dump().get(key)


def test_text_needs_no_quotes(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        MINIMAL,
        "name=my audit, of = everything",
        "model.weights=/w/x.pt",
        environment={"CLEAR_AUDIT_METHOD_RULE": "guided"},
    )
    assert (config.name, config.model.weights, config.method.rule) == ("my audit, of = everything", "/w/x.pt", "guided")


def test_an_unknown_variable_names_the_nearest(tmp_path: Path) -> None:
    message = fault(tmp_path, environment={"CLEAR_AUDIT_METOD_RULE": "linear"})
    assert message == "environment variable CLEAR_AUDIT_METOD_RULE is not known: did you mean CLEAR_AUDIT_METHOD_RULE?"


def test_variables_of_others_and_the_stores_are_left_alone(tmp_path: Path) -> None:
    assert load(
        tmp_path, environment={"CLEAR_AUDIT_STORE": "/s", "CLEAR_AUDITOR": "x", "PATH": "/bin", "clear_audit_name": "x"}
    ) == load(tmp_path)


SERVICES = ("CLEAR_AUDIT", "CLEAR_AUDIT_STORE", "CLEAR_AUDIT_WEB_2")
OF_A_SERVICE = (
    "SERVICE_HOST",
    "SERVICE_PORT",
    "SERVICE_PORT_HTTP",
    "PORT",
    "PORT_80_TCP",
    "PORT_80_TCP_ADDR",
    "PORT_53_UDP_PROTO",
)


def test_variables_of_a_kubernetes_service_are_left_alone(tmp_path: Path) -> None:
    environment = {f"{service}_{name}": "tcp://10.0.0.1:80" for service in SERVICES for name in OF_A_SERVICE}
    assert load(tmp_path, environment=environment) == load(tmp_path)
    assert fault(tmp_path, environment={"CLEAR_AUDIT_SERVICE": "x"}).startswith("environment variable CLEAR_AUDIT_SERVICE is not")
    assert not any(OF_KUBERNETES.fullmatch(PREFIX + key.upper().replace(".", "_")) for key in known_keys())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("metod.rule=linear", "unknown key 'metod.rule', did you mean 'method.rule'?"),
        ("method.rule", "is not of the form section.key=value"),
        ("folder=/", "unknown key 'folder'"),
        ("dataset=3", "unknown key 'dataset'"),
        ("=3", "unknown key ''"),
        ("method.top_k=many", 'key \'method.top_k\' is "many": give how many classes compete, or "all"'),
    ],
)
def test_a_faulty_setting_is_named(tmp_path: Path, setting: str, message: str) -> None:
    assert message in fault(tmp_path, MINIMAL, setting)


@pytest.mark.parametrize(
    ("text", "setting", "section"),
    [
        ("dataset = 3", "dataset.path=x", "dataset"),
        ("model = [1]", "model.arguments.x=1", "model"),
        (MINIMAL + "[[report]]\nseed = 1", "report.seed=3", "report"),
        (MINIMAL + "arguments = { a = 1 }", "model.arguments.a.b=1", "a"),
    ],
)
def test_a_setting_below_what_is_no_section_is_named(tmp_path: Path, text: str, setting: str, section: str) -> None:
    message = fault(tmp_path, text, setting)
    assert f"'{setting.partition('=')[0]}' cannot be set, for '{section}' is not a section" in message


def test_single_arguments_of_the_model_are_set_beside_the_others(tmp_path: Path) -> None:
    text = MINIMAL + "arguments = { depth = 3, width = 4 }"
    config = load(tmp_path, text, "model.arguments.width=5", "model.arguments.kind=wide", "model.arguments.deep.on=true")
    assert config.model.arguments == {"depth": 3, "width": 5, "kind": "wide", "deep": {"on": True}}
    assert load(tmp_path, MINIMAL, "model.arguments.width=5").model.arguments == {"width": 5}


# Paths.


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("data/x.idx", "{folder}/data/x.idx"),
        ("./x.idx", "{folder}/x.idx"),
        ("../x.idx", "{folder}/../x.idx"),
        ("/data/x.idx", "/data/x.idx"),
        ("~/x.idx", "/home/tester/x.idx"),
        ("~nobody-has-this-name/x", "{folder}/~nobody-has-this-name/x"),
        ("s3://bucket/x.idx", "s3://bucket/x.idx"),
        ("memory://x", "memory://x"),
    ],
)
def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, resolved: str) -> None:
    monkeypatch.setenv("HOME", "/home/tester")
    expected = resolved.format(folder=tmp_path)
    keys = ("dataset.path", "dataset.labels", "model.weights")
    from_flags = load(tmp_path, MINIMAL, *(f"{key}={written}" for key in keys))
    text = MINIMAL.replace("images.idx", written).replace("[input]", f'labels = "{written}"\n[input]') + f'weights = "{written}"'
    for config in (from_flags, load(tmp_path, text)):
        assert (config.dataset.path, config.dataset.labels, config.model.weights) == (expected, expected, expected)
    of_program = MINIMAL.replace("factory =", "program =").replace("nets:build", written)
    assert load(tmp_path, of_program).model.program == expected


def test_paths_do_not_depend_on_where_the_config_is_named_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    absolute = load(inner)
    monkeypatch.chdir(tmp_path)
    relative = load_config(Path("inner/audit.toml"), (), {})
    assert relative == absolute
    assert (relative.dataset.path, relative.folder) == (str(inner / "images.idx"), str(inner))


# The hash.


@pytest.mark.parametrize(
    "setting",
    [
        "compute.workers=7",
        "compute.cluster=tcp://elsewhere:1",
        "report.gallery_samples=1",
        "report.seed=9",
        "limits.failed_frac_max=0.5",
    ],
)
def test_the_hash_is_not_of_where_it_is_computed_nor_of_what_is_shown(tmp_path: Path, setting: str) -> None:
    changed = load(tmp_path, MINIMAL, setting)
    assert changed != load(tmp_path)
    assert changed.config_hash == load(tmp_path).config_hash


def test_the_hash_is_of_all_that_decides_the_result(tmp_path: Path) -> None:
    deciding = [
        "method.rule=guided",
        "method.precision=bfloat16",
        "method.top_k=3",
        "method.kept_classes=3",
        "method.reduction=l2",
        "method.head=last",
        "compute.operator_gb=0",
        "compute.operator_gb=2",
        "compute.batch_samples=2",
        "model.factory=nets:other",
        "model.arguments.width=4",
        "model.weights=/w.pt",
        "dataset.path=/other",
        "dataset.labels=/labels",
        'dataset.classes=["a", "b"]',
        'dataset.classes=["b", "a"]',
        "input.height=29",
        "input.resize=stretch",
        "input.mean=[0.5]",
        "input.std=[0.5]",
        "compute.shard_samples=32",
    ]
    hashes = {load(tmp_path, NORMALIZED).config_hash} | {load(tmp_path, NORMALIZED, one).config_hash for one in deciding}
    assert len(hashes) == 1 + len(deciding)
    assert all(len(value) == 64 for value in hashes)


def test_the_hash_does_not_depend_on_how_the_config_is_written(tmp_path: Path) -> None:
    sections = MINIMAL.strip().split("\n\n")
    other = "# a comment\n" + "\n".join(reversed(sections)).replace('"nets:build"', "'nets:build'")
    one = load(tmp_path, MINIMAL + 'arguments = { a = 2, b = 1 }\nweights = "w.pt"')
    two = load(tmp_path, other, "model.arguments.b=1", "model.arguments.a=2", environment={"CLEAR_AUDIT_MODEL_WEIGHTS": "w.pt"})
    assert one.config_hash == two.config_hash


# The files that come with the product.


def test_init_has_every_key_and_each_of_its_examples_is_valid(tmp_path: Path) -> None:
    text = (FLOWS / "init.toml").read_text(encoding="utf-8")
    load(tmp_path, text)
    lines = text.split("\n")
    uncommented = "\n".join(line.removeprefix("# ") if re.match(r"# (\[\[|.* = )", line) else line for line in lines)
    assert sorted(keys_in(tomllib.loads(uncommented))) == sorted(schema_keys())
    of_factory = re.sub("(?m)^(labels|program) = .*", "", uncommented)
    of_program = re.sub("(?m)^(labels|factory|weights|arguments) = .*", "", uncommented)
    assert load(tmp_path, of_factory).compute.workers == 2
    assert load(tmp_path, of_program).model.program == str(tmp_path / "model.pt2")


def test_init_shows_the_defaults(tmp_path: Path) -> None:
    """What it does not leave to the user is what stands there anyway."""
    shown, default = load(tmp_path, (FLOWS / "init.toml").read_text(encoding="utf-8")), load(tmp_path)
    for section in ("method", "compute", "limits", "report", "about", "notify", "gates", "reference"):
        assert getattr(shown, section) == getattr(default, section)


def test_the_demo_loads_and_its_files_are_there() -> None:
    config = load_config(FLOWS / "demo" / "demo.toml", (), {})
    assert config.name == "mnist-demo"
    assert (config.input.height, config.input.width, config.input.channels) == (28, 28, 1)
    for path in (config.dataset.path, config.dataset.labels, config.model.weights):
        assert path is not None
        assert Path(path).is_file()


GATE = 'name = "accuracy"'


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ([GATE], "gate 'accuracy' has no limit: add min, max, max_drop or max_rise"),
        (['name = "acuracy"\nmin = 0.5'], "gate 'acuracy' has no 'sql' and is not built in: did you mean 'accuracy'?"),
        ([GATE + '\nmin = 0\nsamples = "SELECT 1"'], "gate 'accuracy' is built in and has its own 'samples'"),
        ([GATE + '\nmin = 0\nsql = "SELECT 1"'], "gate 'accuracy' has 'sql', and its name is that of a built-in gate"),
        ([GATE + "\nmin = 0", GATE + "\nmax = 1"], "two gates are called 'accuracy': give each a name of its own"),
        ([GATE + "\nmin = 0\nmax_dorp = 1"], "unknown key 'gates.0.max_dorp': did you mean 'gates.max_drop'?"),
        ([GATE + "\nmax_drop = -1"], "key 'gates.0.max_drop' is -1"),
        ([GATE + "\nmin = nan"], "gates.0.min"),
        ([GATE + "\nmin = 0\nmin_samples = 0"], "key 'gates.0.min_samples' is 0"),
        ([GATE + '\nmin = 0\nseverity = "fatal"'], "key 'gates.0.severity' is \"fatal\""),
        (["min = 0"], "key 'gates.0.name' is missing"),
    ],
)
def test_gates_that_make_no_sense(tmp_path: Path, gates: list[str], message: str) -> None:
    assert message in fault(tmp_path, MINIMAL + "".join(f"\n[[gates]]\n{gate}\n" for gate in gates))


def test_gates_do_not_make_another_run(tmp_path: Path) -> None:
    plain, judged = load(tmp_path), load(tmp_path, MINIMAL + f"\n[[gates]]\n{GATE}\nmin = 0.5\n", "reference=x")
    assert judged.gates == (Gate("accuracy", min=0.5),)
    assert judged.config_hash == plain.config_hash


@pytest.mark.parametrize(("planned", "expected"), [(None, "all"), (3, 3)])
def test_what_competed_in_an_older_run_competes_again(tmp_path: Path, planned: int | None, expected: object) -> None:
    """Before version 5 of the tables, nothing said meant all classes."""
    config = load(tmp_path, MINIMAL).model_dump(mode="json")
    config["method"]["top_k"] = planned
    now = datetime(2026, 11, 21, tzinfo=UTC)
    shape = {"sample_count": 1, "height": 1, "width": 1, "shard_samples": 16, "class_names": ["a"]}
    known = {"run_id": "r", "tool_version": "0", "name": "a", "config_hash": "c", "model_hash": "m", "dataset_hash": "d"}
    path = tmp_path / "plan.json"
    for version, wanted in ((4, expected), (5, planned)):
        plan = Plan(created_at=now, schema_version=version, config=config, **known, **shape)
        path.write_text(plan.model_dump_json(), encoding="utf-8")
        assert load_config(path, (), {}).method.top_k == wanted


@pytest.mark.parametrize("key", ["factory", "program"])
def test_a_model_of_an_older_plan_is_read(tmp_path: Path, key: str) -> None:
    """Before version 7 of the tables, a model had the keys of every source, and those of the others said nothing."""
    text = MINIMAL.replace('factory = "nets:build"', f'{key} = "nets:build"')
    expected = load(tmp_path, text)
    config = expected.model_dump(mode="json")
    config["model"] = {"factory": None, "weights": None, "arguments": {}, "program": None} | config["model"]
    shape = {"sample_count": 1, "height": 1, "width": 1, "shard_samples": 16, "class_names": ["a"]}
    known = {"run_id": "r", "tool_version": "0", "name": "a", "config_hash": "c", "model_hash": "m", "dataset_hash": "d"}
    plan = Plan(created_at=datetime(2026, 11, 21, tzinfo=UTC), schema_version=6, config=config, **known, **shape)
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json(), encoding="utf-8")
    assert load_config(path, (), {}) == expected


def test_a_runs_plan_is_a_config(tmp_path: Path) -> None:
    """Resolved as it was, wherever it now lies; flags stand above it."""
    config = load(tmp_path, MINIMAL, "method.rule=deconv")
    now = datetime(2026, 11, 21, tzinfo=UTC)
    shape = {"sample_count": 1, "height": 1, "width": 1, "shard_samples": 16, "class_names": ["a"]}
    known = {"run_id": "r", "tool_version": "0", "name": "a", "config_hash": "c", "model_hash": "m", "dataset_hash": "d"}
    plan = Plan(created_at=now, schema_version=5, config=config.model_dump(mode="json"), **known, **shape)
    path = tmp_path / "elsewhere" / "plan.json"
    path.parent.mkdir()
    path.write_text(plan.model_dump_json(), encoding="utf-8")
    assert load_config(path, (), {}) == config
    assert load_config(path, ["method.rule=guided"], {}).method.rule == "guided"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"plan\.json' is not a plan of this version"):
        load_config(path, (), {})
    path.write_text(plan.model_copy(update={"config": {}}).model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="no resolved config"):
        load_config(path, (), {})


# Nothing that anybody can write is more than an InputError.


def load_anything(text: str, *settings: str) -> AuditConfig | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return load(Path(folder), text, *settings)
        except InputError:
            return None


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text())
def test_any_text_is_a_config_or_an_input_error(text: str) -> None:
    assert load_anything(text) is None


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("NaN", "nan").replace("Infinity", "inf").replace("\x7f", "\\u007f")


names = st.sampled_from([*sorted({part for key in known_keys() for part in key.split(".")}), "other", "folder", ""])
scalars = (
    st.booleans() | st.integers() | st.floats() | st.sampled_from(["~x", "a\x00b", "s3://", "idx", ""]) | st.text(max_size=6)
)
trees = st.dictionaries(
    names, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4))
)
flags = st.lists(
    st.tuples(st.sampled_from([*known_keys(), "model.arguments.x", "model.arguments.x.y", "a.b"]), scalars), max_size=3
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(tree=trees, flags=flags, complete=st.booleans())
def test_any_tree_of_values_is_a_config_or_an_input_error(
    tree: dict[str, Any], flags: list[tuple[str, Any]], complete: bool
) -> None:
    whole = (tomllib.loads(MINIMAL) if complete else {}) | tree
    text = "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in whole.items())
    tomllib.loads(text)
    load_anything(text, *(f"{key}={value}" for key, value in flags))


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
def test_a_number_that_a_plan_cannot_keep_is_refused(tmp_path: Path, number: str) -> None:
    """JSON has no infinity: a run that is resumed would build its model with nothing instead."""
    for deep in (f"depth = {number}", f"depths = [1, {{a = {number}}}]"):
        assert "model.arguments" in fault(tmp_path, f"{MINIMAL}\n[model.arguments]\n{deep}")
    assert "'input.mean.0' is" in fault(tmp_path, MINIMAL.replace("width = 30", f"width = 30\nmean = [{number}]\nstd = [1.0]"))


def test_a_config_of_a_plan_that_is_none_is_named(tmp_path: Path) -> None:
    run = Run(tmp_path, "20261121T030000Z-a-0001")
    facts = {"schema_version": 1, "tool_version": "0", "name": "a", "config_hash": "", "model_hash": "", "dataset_hash": ""}
    sizes = {"class_names": [], "sample_count": 1, "height": 1, "width": 1, "shard_samples": 16}
    plan = Plan(run_id=run.run_id, created_at=datetime.now(UTC), config={"dataset": 3}, **facts, **sizes)
    create_run(tmp_path, plan)
    with pytest.raises(InputError, match=rf"config of run '{run.run_id}': .*name a config file instead"):
        planned_config(run)


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIAEXAMPLE:xyzzy@bucket/images.idx",
        "s3://AKIAEXAMPLE:xyzzy/with+slash@bucket/images.idx",
        "https://me:xyzzy@example.org:8080/images.idx",
        "ftp://me:xyzzy@example.org/images.idx",
        "simplecache::s3://AKIAEXAMPLE:xyzzy@bucket/images.idx",
        "https://bucket.example.org/images.idx?X-Amz-Algorithm=a&X-Amz-Signature=xyzzy",
        "https://account.example.org/images.idx?sv=2026&sig=xyzzy",
        "https://example.org/images.idx?access_token=xyzzy",
    ],
)
@pytest.mark.parametrize("key", ["dataset.path", "dataset.labels", "model.weights", "compute.cluster"])
def test_credentials_in_an_address_are_refused_and_not_repeated(tmp_path: Path, key: str, address: str) -> None:
    for found in (
        fault(tmp_path, MINIMAL, f"{key}={address}"),
        fault(tmp_path, MINIMAL, environment={"CLEAR_AUDIT_" + key.upper().replace(".", "_"): address}),
    ):
        assert f"key '{key}'" in found
        assert "has credentials in it" in found
        assert "xyzzy" not in found


@pytest.mark.parametrize(
    "address",
    [
        "s3://bucket/a:b@c.idx",
        "https://example.org:8080/images.idx?version=3",
        "memory://x/y",
        "file:///a/b.idx",
        "/a:b@c/images.idx",
    ],
)
def test_addresses_without_credentials_are_taken(tmp_path: Path, address: str) -> None:
    assert load(tmp_path, MINIMAL, f"dataset.path={address}").dataset.path == address


def test_text_that_is_none_is_refused_without_showing_the_config(tmp_path: Path) -> None:
    """A file's name of other bytes comes from the shell as half of a character."""
    text = MINIMAL + '\n[notify]\nwebhook = "https://example.org/xyzzy"\n'
    for found in (fault(tmp_path, text, "name=\udcff"), fault(tmp_path, text, environment={"CLEAR_AUDIT_NAME": "\udcff"})):
        assert "no text" in found
        assert "xyzzy" not in found


def test_a_config_is_the_same_from_wherever_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "audits"
    (folder / "deep").mkdir(parents=True)
    (folder / "audit.toml").write_text(MINIMAL)
    (tmp_path / "link").symlink_to(folder)
    hashes = set()
    for here, name in (
        (folder, "audit.toml"),
        (folder, "./audit.toml"),
        (folder, "../audits/audit.toml"),
        (folder / "deep", "../audit.toml"),
        (tmp_path, "audits/deep/../audit.toml"),
        (tmp_path, "link/audit.toml"),
        (tmp_path / "link" / "deep", str(folder / "audit.toml")),
    ):
        monkeypatch.chdir(here)
        config = load_config(Path(name), [], {})
        hashes.add((config.config_hash, config.folder, config.dataset.path))
    assert hashes == {(config.config_hash, str(folder), config.dataset.path)}


def test_an_analysis_is_asked_for_with_those_whose_tables_it_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = brightness.ANALYSIS.name
    monkeypatch.setitem(ANALYSES, name, replace(brightness.ANALYSIS, reads=("evidence",)))
    monkeypatch.setitem(OPTIONS, name, brightness.BrightnessOptions)
    monkeypatch.setitem(FIGURES, name, brightness.ANALYSIS.figures[0])
    jobs = load(tmp_path, MINIMAL, "brightness.run=true", "data_checks.run=false", "trust.samples=0").jobs
    assert [job.analysis.name for job in jobs] == ["maps", "evidence", name]
    said = fault(tmp_path, MINIMAL, "brightness.run=true", "evidence.run=false")
    assert said.endswith("analysis 'brightness' asks the tables of 'evidence': set 'evidence.run' to true")
    gate = '[[gates]]\nname = "brightness"\nmin = 0.1\n' + MINIMAL
    assert load(tmp_path, gate, "brightness.run=true").gates[0].figure is not None
    said = fault(tmp_path, gate)
    assert said.endswith("gate 'brightness' asks for a figure of analysis 'brightness': set 'brightness.run' to true")
