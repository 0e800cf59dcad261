"""What garbage collection keeps, as it stands in `foreshard.yaml`."""

from pydantic import BaseModel, ConfigDict, Field


class RetentionConfig(BaseModel):
    """What garbage collection keeps beside the current layout and those that a live lease names.

    Ages are by the store's clock.

    Attributes:
        keep_generations: for every run, the published layouts of its last so many generations are kept.
        keep_hours: a layout is kept for so long after it was committed, and after another one replaced it as current.
        orphan_hours: what belongs to no committed layout (shards, unfinished layouts, parts, uploads) is kept for so
            long after it was written, so that interrupted work can be resumed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    keep_generations: int = Field(default=3, ge=1)
    keep_hours: float = Field(default=24.0, ge=0)
    orphan_hours: float = Field(default=24.0, ge=0)
