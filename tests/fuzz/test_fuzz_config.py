"""Whatever stands in a config, a setting or a variable: it is a config, or an InputError of one sentence."""

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.config import AuditConfig, known_keys, load_config
from storage.errors import InputError
from tests.fuzz.conftest import Watch, check_sentence
from tests.fuzz.mutations import TEXT, changed_bytes, changed_json, changed_values
from tests.fuzz.test_fuzz_runs import PLAN

CONFIG: dict[str, Any] = {
    "name": "digits",
    "reference": "previous",
    "dataset": {"format": "idx", "path": "images.idx", "labels": "labels.idx", "classes": ["a", "b"]},
    "input": {"channels": 1, "height": 28, "width": 28, "mean": [0.5], "std": [0.5], "resize": "crop"},
    "model": {"factory": "package.module:build", "weights": "m.safetensors", "arguments": {"depth": 3}},
    "method": {"rule": "linear", "reduction": "sum", "head": "fc", "precision": "float32", "top_k": 3, "kept_classes": 20},
    "compute": {"cluster": "local", "workers": 2, "threads": 1, "batch_samples": 64, "shard_samples": 64, "operator_gb": 1.5},
    "limits": {"failed_frac_max": 0.1},
    "report": {"gallery_samples": 2, "seed": 1},
    "about": {"owner": "someone"},
    "gates": [{"name": "accuracy", "min": 0.5}, {"name": "mine", "sql": "SELECT 1", "max": 2, "severity": "warn"}],
}
KEYS = [*known_keys(), "model.arguments.depth", "nonesuch", "dataset", "", "a.b.c"]
SETTINGS = st.builds("{}={}".format, st.sampled_from(KEYS), TEXT | st.integers().map(str)) | TEXT
VARIABLES = st.sampled_from(["CLEAR_AUDIT_" + key.upper().replace(".", "_") for key in KEYS])


def toml(value: Any) -> str:
    """A value as TOML, which JSON is but for its null, its numbers without a limit, and `:`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf").replace("null", '""')


def written(config: dict[str, Any]) -> bytes:
    return "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in config.items()).encode("utf-8", "surrogatepass")


CONTENTS = (
    changed_values(CONFIG).map(written)
    | changed_values(CONFIG).map(written).flatmap(changed_bytes)
    | changed_bytes(written(CONFIG))
    | st.binary(max_size=60)
)


def test_a_config_of_any_content(tmp_path: Path, trials: settings, watch: Watch) -> None:
    toml_file, plan_file = tmp_path / "audit.toml", tmp_path / "plan.json"
    toml_file.write_bytes(written(CONFIG))
    assert load_config(toml_file, [], {}).gates[1].severity == "warn", "the harmless form is one"

    @trials
    @given(
        file=st.tuples(st.just(toml_file), CONTENTS)
        | st.tuples(st.just(plan_file), changed_json(PLAN | {"config": CONFIG | {"folder": "/"}})),
        given_settings=st.lists(SETTINGS, max_size=2),
        environment=st.dictionaries(VARIABLES, TEXT, max_size=2),
    )
    def check(file: tuple[Path, bytes], given_settings: list[str], environment: dict[str, str]) -> None:
        path, content = file
        path.write_bytes(content)
        with watch():
            try:
                config = load_config(path, given_settings, environment)
            except InputError as error:
                check_sentence(error)
                return
            assert AuditConfig.model_validate_json(json.dumps(config.model_dump(mode="json"))) == config
            assert len(config.config_hash) == 64

    check()
