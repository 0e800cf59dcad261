"""What a user writes into `foreshard.yaml`, validated early, with errors that name the value and the fix."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from foreshard.errors import ConfigError, PlanError
from foreshard.keys import check_name
from foreshard.retention import RetentionConfig
from foreshard.splits import SPLITS

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SHOWN: Final = 200
_USER_INFO: Final = re.compile(r"//[^/@]*@")
_STORE_URL: Final = re.compile(r"file:///.+|file:(?!//).+|s3://[^/@?#]+(/[^?#]*)?|memory://")
_ENDPOINT: Final = re.compile(r"https?://[^/@?#\s]+(/[^@?#\s]*)?")
_ROUNDING: Final = 1e-9


def _name(value: str) -> str:
    try:
        return check_name(value, "this")
    except ConfigError as error:
        raise ValueError(str(error)) from error


Name = Annotated[str, AfterValidator(_name)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StoreConfig(_Model):
    """Where shards, manifests and logs live.

    Attributes:
        url: `file:///folder`, `s3://bucket/prefix` or `memory://`; a relative `file:folder` is taken from the file.
        endpoint: S3 endpoint where the server is not AWS.
    """

    url: str
    endpoint: str | None = None

    @field_validator("url")
    @classmethod
    def _usable_url(cls, url: str) -> str:
        if not _STORE_URL.fullmatch(url):
            raise ValueError(
                "not a store URL; use file:///folder, file:folder (relative to this file), s3://bucket/prefix or "
                "memory://; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return url

    @field_validator("endpoint")
    @classmethod
    def _usable_endpoint(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
            raise ValueError("not a server's URL; use one like http://127.0.0.1:9000, without credentials")
        return endpoint


class SplitConfig(_Model):
    """Shares of the three splits; they add up to 1."""

    train: float = Field(0.8, ge=0, le=1)
    validation: float = Field(0.1, ge=0, le=1)
    test: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _sums_to_one(self) -> "SplitConfig":
        total = self.train + self.validation + self.test
        if abs(total - 1) > _ROUNDING:
            raise ValueError(f"train + validation + test is {total}, it must be 1")
        return self

    def fractions(self) -> dict[str, float]:
        """Return the shares by split name."""
        return {name: float(getattr(self, name)) for name in SPLITS}


class DatasetConfig(_Model):
    """A dataset and what of it a model learns.

    Attributes:
        name: prefix of everything foreshard writes for this dataset.
        source: store holding the user's Parquet files; never modified.
        target: column the model predicts (an integer or boolean class); drives consistency and stratification.
        key: column whose value decides a row's split; the sample id if left out.
        features: columns that the model sees; all but target and key by default. Leave out what is only known once the
            target is: it would make every partitioning look consistent.
        seed: root of every seed derived for this dataset.
    """

    name: Name
    source: StoreConfig
    target: str
    key: str | None = None
    features: tuple[str, ...] = ()
    seed: int = Field(0, ge=0)
    splits: SplitConfig = SplitConfig(train=0.8, validation=0.1, test=0.1)

    @model_validator(mode="after")
    def _target_is_no_feature(self) -> "DatasetConfig":
        if self.target in self.features:
            raise ValueError(f"features hold the target {self.target!r}; leave it out")
        return self

    def model_columns(self, columns: Sequence[str]) -> list[str]:
        """Return which of a source's columns a model sees, the target last."""
        wanted = self.features or tuple(name for name in columns if name not in (self.target, self.key))
        return [*wanted, self.target]


class NodeConfig(_Model):
    """One training node.

    Attributes:
        name: names the node's prefetch manifest.
        memory: bytes the node has for shards assigned to it.
        speed: relative throughput of its CPUs and GPUs; work is balanced in proportion to it.
        bandwidth: bytes per second from the object store.
    """

    name: Name
    memory: int = Field(gt=0)
    speed: float = Field(1.0, gt=0)
    bandwidth: float = Field(200e6, gt=0)


class ClusterConfig(_Model):
    """The nodes that train."""

    nodes: tuple[NodeConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> "ClusterConfig":
        names = [node.name for node in self.nodes]
        if len(set(names)) != len(names):
            raise ValueError(f"node names {names} are not distinct")
        return self


class LoaderConfig(_Model):
    """How a training node reads.

    Attributes:
        global_batch: samples per step over all ranks.
        cache_fraction: memory for prefetched chunks as a share of the node's part of the dataset.
        queue_batches: assembled batches that may wait for the training loop, or as many as take 2 MiB.
        concurrency: most fetches in flight at a time.
        timeout: seconds any wait may last before it fails, saying what it waited for.
        phases: parts an epoch is divided into for forecasts and prefetch deadlines.
    """

    global_batch: int = Field(256, gt=0)
    cache_fraction: float = Field(0.1, gt=0, le=1)
    queue_batches: int = Field(8, ge=1)
    concurrency: int = Field(16, ge=1)
    timeout: float = Field(60.0, gt=0)
    phases: int = Field(4, ge=1)


class ReshardConfig(_Model):
    """When and towards what data are re-packed: the recipe of `layout/recipe`.

    Attributes:
        every: a boundary is an epoch divisible by this.
        horizon: epochs over which a re-shard must pay for its migration.
        strategies: candidates to choose from; empty for all of them.
        weight_time: importance of predicted I/O seconds.
        weight_consistency: importance of 1 - consistency score.
        min_chunk_rows: smallest chunk.
        max_chunk_rows: largest chunk.
        chunk_overhead: seconds charged per chunk and epoch for keeping it at all (manifest entry, bookkeeping).
        hysteresis: share by which the predicted saving must exceed the migration cost.
        compression: of new shards: "none" (chunks are read without copying), "lz4" or "zstd" (fewer bytes to fetch).
    """

    every: int = Field(4, ge=1)
    horizon: int = Field(4, ge=1)
    strategies: tuple[str, ...] = ()
    weight_time: float = Field(1.0, ge=0)
    weight_consistency: float = Field(1.0, ge=0)
    min_chunk_rows: int = Field(128, ge=1)
    max_chunk_rows: int = Field(4096, ge=1)
    chunk_overhead: float = Field(1e-4, ge=0)
    hysteresis: float = Field(0.1, ge=0)
    compression: Literal["none", "lz4", "zstd"] = "none"

    @field_validator("strategies")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from foreshard.strategies.registry import get_strategies

        try:
            get_strategies(names)
        except PlanError as error:
            raise ValueError(str(error)) from error
        return names

    @model_validator(mode="after")
    def _ordered(self) -> "ReshardConfig":
        if self.max_chunk_rows < 2 * self.min_chunk_rows:
            raise ValueError(
                f"max_chunk_rows {self.max_chunk_rows} must be at least twice min_chunk_rows {self.min_chunk_rows}"
            )
        if not self.weight_time and not self.weight_consistency:
            raise ValueError("weight_time and weight_consistency are both 0; raise at least one, or no plan is better")
        return self


class ForeshardConfig(_Model):
    """The whole of `foreshard.yaml`."""

    dataset: DatasetConfig
    store: StoreConfig
    cluster: ClusterConfig
    loader: LoaderConfig = Field(default_factory=lambda: LoaderConfig.model_validate({}))
    reshard: ReshardConfig = Field(default_factory=lambda: ReshardConfig.model_validate({}))
    retention: RetentionConfig = RetentionConfig()


def load_config(path: Path) -> ForeshardConfig:
    """Read and validate a configuration file; relative `file:` URLs are resolved against its folder.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds a value that cannot be used.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read: {error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is not YAML: {error}") from error
    try:
        config = ForeshardConfig.model_validate(raw)
    except ValidationError as error:
        details = error.errors()
        # A list whose items are refused counts as too short as well: a follow-up that only misleads.
        refused = {detail["loc"][:-depth] for detail in details for depth in range(1, len(detail["loc"]))}
        told = [d for d in details if d["type"] != "too_short" or d["loc"] not in refused]
        lines = "\n".join(f"  {_problem(detail)}" for detail in told)
        # Without its cause, which would print the values unmasked.
        raise ConfigError(f"configuration {path} is not usable:\n{lines}") from None
    base = path.resolve().parent
    dataset = config.dataset.model_copy(update={"source": _resolve(config.dataset.source, base)})
    return config.model_copy(update={"dataset": dataset, "store": _resolve(config.store, base)})


def _problem(detail: "ErrorDetails") -> str:
    """Say in one line where a value stands, what is wrong with it, and what it is."""
    loc = detail["loc"]
    where = ".".join(map(str, loc)) or "the whole file"
    if detail["type"] == "model_type":
        return f"{where}: must hold settings, one a line as 'name: value' (got {detail['input']!r})"
    if detail["type"] == "missing":
        return f"{where}: is missing; add it"
    if detail["type"] == "extra_forbidden":
        return f"{where}: is not a setting; remove it, or use one of {', '.join(_settings(loc[:-1]))}"
    value = _USER_INFO.sub("//***@", repr(detail["input"]))
    value = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
    return f"{where}: {detail['msg'].removeprefix('Value error, ')} (got {value})"


def _settings(loc: tuple[int | str, ...]) -> list[str]:
    """Return the names of the settings below a place in the configuration."""
    model: type[BaseModel] = ForeshardConfig
    for part in loc:
        if isinstance(part, str):
            model = _SECTIONS[part]
    return list(model.model_fields)


_SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "dataset": DatasetConfig,
    "source": StoreConfig,
    "splits": SplitConfig,
    "store": StoreConfig,
    "cluster": ClusterConfig,
    "nodes": NodeConfig,
    "loader": LoaderConfig,
    "reshard": ReshardConfig,
    "retention": RetentionConfig,
}


def _resolve(store: StoreConfig, base: Path) -> StoreConfig:
    if store.url.startswith("file:") and not store.url.startswith("file:/"):
        return store.model_copy(update={"url": (base / store.url.removeprefix("file:")).resolve().as_uri()})
    return store
