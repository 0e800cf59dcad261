"""The one resource of this code location: the configuration file and what it leads to, opened on first use."""

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from foreshard.chain import Chain
    from foreshard.config import ForeshardConfig

CONFIG_VARIABLE = "FORESHARD_CONFIG"
DEFAULT_CONFIG = "foreshard.yaml"


class ProjectResource(dg.ConfigurableResource):
    """Dataset, cluster and object store, as `foreshard.yaml` names them.

    Loading definitions neither reads the file nor touches the network: a code location with a broken configuration
    still loads, and says what is wrong where it is used.

    Attributes:
        config_path: the configuration file; if empty, the environment variable `FORESHARD_CONFIG`, else
            `foreshard.yaml` in the working directory.
    """

    config_path: str = ""
    _chain: "Chain | None" = PrivateAttr(default=None)

    def config(self) -> "ForeshardConfig":
        """Read and validate the configuration."""
        import os
        from pathlib import Path

        from foreshard.config import load_config

        return load_config(Path(self.config_path or os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG))

    def chain(self) -> "Chain":
        """Return the chain of stages; the steps of one run share it, and with it one view of the source."""
        if self._chain is None:
            from foreshard.chain import Chain

            self._chain = Chain(self.config())
        return self._chain
