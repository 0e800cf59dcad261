"""Which dataset in which store a command works on, and which of its layouts."""

import inspect
from collections.abc import Callable
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, Final, ParamSpec

import typer

from foreshard.cli.output import errors_told
from foreshard.errors import ConfigError, ObjectNotFoundError
from foreshard.keys import LayoutRef, parse_generation_key
from foreshard.retention import RetentionConfig

if TYPE_CHECKING:
    from foreshard.config import ForeshardConfig
    from foreshard.shards.repository import Repository

P = ParamSpec("P")

_HERE: Final = "Where (the configuration file, or a store without one)"
DEFAULT_CONFIG: Final = Path("foreshard.yaml")
ConfigOption = Annotated[
    Path,
    typer.Option(
        "--config",
        "-c",
        help="Dataset, store, cluster and recipe.",
        envvar="FORESHARD_CONFIG",
        rich_help_panel=_HERE,
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Look at this store without a configuration file: s3://bucket/prefix, file:///folder or file:folder.",
        rich_help_panel=_HERE,
    ),
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="The dataset's name in --store.", rich_help_panel=_HERE)
]
EndpointOption = Annotated[
    str | None,
    typer.Option("--endpoint", help="S3 endpoint of --store where it is not AWS.", rich_help_panel=_HERE),
]
GenerationArgument = Annotated[
    str | None,
    typer.Argument(
        help="demo.e000004, or demo.e000004/3f2a (the beginning of a plan's digest) where a generation has several "
        "layouts; the current layout if left out.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


class Place:
    """A dataset in a store; opened on first use.

    Args:
        config: the configuration file.
        store: URL of the store; the file is not read then.
        dataset: name of the dataset in it.
        endpoint: S3 endpoint of it.

    Raises:
        ConfigError: of store and dataset only one is given, or an endpoint without them.
    """

    def __init__(self, config: Path, store: str | None, dataset: str | None, endpoint: str | None) -> None:
        if (store is None) != (dataset is None) or (endpoint is not None and store is None):
            raise ConfigError(
                f"--store is {store!r}, --dataset {dataset!r} and --endpoint {endpoint!r}; give --store and --dataset "
                "together (--endpoint with them where it is not AWS), or none of them and a --config"
            )
        self._path, self._store, self._dataset, self._endpoint = config, store, dataset, endpoint

    @cached_property
    def config(self) -> "ForeshardConfig | None":
        """What the configuration file says; None with `--store`."""
        from foreshard.config import load_config

        if self._store is not None:
            return None
        if not self._path.exists():
            raise ConfigError(
                f"there is no configuration {str(self._path)!r}; name one with --config, or give --store and --dataset"
            )
        return load_config(self._path)

    @property
    def retention(self) -> RetentionConfig:
        """What garbage collection keeps."""
        return self.config.retention if self.config is not None else RetentionConfig()

    @cached_property
    def repository(self) -> "Repository":
        """What is there. A store that does not exist is an error, not made."""
        from foreshard.shards.repository import Repository
        from foreshard.storage import ObjectStore

        if self.config is not None:
            url, endpoint, dataset = self.config.store.url, self.config.store.endpoint, self.config.dataset.name
        else:
            url, endpoint, dataset = local_url(self._store or ""), self._endpoint, self._dataset or ""
        return Repository(ObjectStore.open(url, endpoint=endpoint, must_exist=True), dataset)

    def resolve(self, text: str | None) -> LayoutRef:
        """Return the layout that an argument names; the current one if it is None.

        Raises:
            ObjectNotFoundError: there is none.
            ConfigError: the text is malformed or names several.
        """
        repository = self.repository
        if text is None:
            current = repository.current()
            if current is None:
                raise ObjectNotFoundError(
                    f"dataset {repository.keys.dataset!r} has no current layout in {repository.store.url}; check the "
                    "name, or publish one: foreshard reshard <run>.e000000"
                )
            return current.ref
        found = self.layouts(text)
        if len(found) > 1:
            listed = ", ".join(map(str, found))
            raise ConfigError(f"{text!r} names {len(found)} layouts; give more of the digest of one: {listed}")
        return found[0]

    def layouts(self, text: str | None) -> list[LayoutRef]:
        """Return the committed layouts that an argument names, at least one; all there are, if any, if it is None.

        Raises:
            ObjectNotFoundError: there is none of this name.
            ConfigError: the text is malformed.
        """
        repository = self.repository
        if text is None:
            return [ref for name in repository.generations() for ref in repository.layouts(name)]
        generation, _, prefix = text.partition("/")
        parse_generation_key(generation)
        refs = repository.layouts(generation)
        if not refs:
            known = ", ".join(repository.generations()) or "none yet"
            raise ObjectNotFoundError(f"generation {generation!r} has no committed layout; there are: {known}")
        found = [ref for ref in refs if ref.plan_digest.startswith(prefix)]
        if not found:
            listed = ", ".join(map(str, refs))
            raise ObjectNotFoundError(f"no layout of {generation} has a digest that begins with {prefix!r}: {listed}")
        return found


def local_url(url: str) -> str:
    """Return a store's URL with a relative `file:folder` taken from the working directory."""
    if url.startswith("file:") and not url.startswith("file:/"):
        return Path(url.removeprefix("file:")).resolve().as_uri()
    return url


def with_place(function: Callable[Concatenate[Place, P], None]) -> Callable[..., None]:
    """Give a command the options that name a store instead of its first parameter, and tell its errors in a line."""

    @wraps(function)
    def command(**given: Any) -> None:  # noqa: ANN401 - what typer made of the arguments
        names = {name: given.pop(name) for name in ("config", "store", "dataset", "endpoint")}
        with errors_told():
            called: Callable[..., None] = function
            called(Place(**names), **given)

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    parameters = [parameter.replace(kind=keyword) for parameter in own]
    parameters += [
        inspect.Parameter("config", keyword, default=DEFAULT_CONFIG, annotation=ConfigOption),
        inspect.Parameter("store", keyword, default=None, annotation=StoreOption),
        inspect.Parameter("dataset", keyword, default=None, annotation=DatasetOption),
        inspect.Parameter("endpoint", keyword, default=None, annotation=EndpointOption),
    ]
    # What typer reads a command's parameters from.
    vars(command)["__signature__"] = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
