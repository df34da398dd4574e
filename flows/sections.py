"""Sections of the config that are an audit's own; those of datasets, models, gates and analyses stand with these."""

import json
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from storage.options import STRICT


class Section(BaseModel):
    """Keys of a config with what each of them may be."""

    model_config = ConfigDict(frozen=True, **STRICT)


class MethodSection(Section):
    rule: Literal[
        "auto",
        "linear",
        "deconv",
        "gradient",
        "guided",
        "gradient_times_input",
        "lrp_epsilon",
        "lrp_zplus",
        "lrp_epsilon_plus",
        "lrp_epsilon_plus_flat",
        "cam",
    ] = "auto"
    reduction: Literal["sum", "l2", "max"] = "sum"
    head: str | None = Field(default=None, min_length=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    top_k: int | Literal["all"] | None = None
    kept_classes: int = Field(default=20, ge=2)

    @field_validator("top_k", mode="plain")
    @classmethod
    def check_top_k(cls, top_k: Any) -> Any:
        if top_k in (None, "all") or (type(top_k) is int and top_k > 0):
            return top_k
        raise ValueError(f"key 'method.top_k' is {json.dumps(top_k, default=str)}: give how many classes compete, or \"all\"")

    @model_validator(mode="after")
    def check_reduction(self) -> "MethodSection":
        if self.rule == "cam" and self.reduction != "sum":
            raise ValueError(
                f'key \'method.reduction\' is "{self.reduction}", of the input\'s channels, to which method.rule "cam" sends '
                "nothing: remove it"
            )
        return self


class ComputeSection(Section):
    cluster: str = Field(default="local", pattern=r"^(local|cuda|[a-z]+://.+)$")
    workers: int | None = Field(default=None, gt=0)
    threads: int | None = Field(default=None, gt=0)
    batch_samples: int | None = Field(default=None, gt=0)
    shard_samples: int | None = Field(default=None, gt=0, multiple_of=16)
    operator_gb: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    shard_tries: int = Field(default=3, gt=0)


class LimitsSection(Section):
    failed_frac_max: float = Field(default=0.01, ge=0, le=1)


class ReportSection(Section):
    gallery_samples: int = Field(default=8, ge=0)
    seed: int = 0


class AboutSection(Section):
    """What a reviewer has to know of the model, in the words of who is responsible for it."""

    owner: str | None = None
    intended_use: str | None = None
    known_limits: str | None = None


class NotifySection(Section):
    """Who is told of an audit that did not end well. webhook: an http or https URL, which may hold a secret.

    on: gate, where a gate failed; failure, where the audit itself did, or too many of its samples.
    """

    webhook: SecretStr | None = None
    on: tuple[Literal["gate", "failure"], ...] = ("gate", "failure")

    @field_validator("webhook")
    @classmethod
    def check_webhook(cls, webhook: SecretStr | None) -> SecretStr | None:
        try:
            parts = urlsplit("" if webhook is None else webhook.get_secret_value())
            is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_web = False
        if webhook is not None and not is_web:
            raise ValueError("key 'notify.webhook' is not a URL that begins with https:// or http:// and names a host: give one")
        return webhook
