"""The dataset as it is: size, distributions, correlations and skew of the source."""

import dagster as dg

from assets.keys import OWNERS, PROFILE
from assets.report import TRANSIENT_ERRORS, run_stage
from resources import ProjectResource


@dg.asset(
    key=PROFILE, group_name="dataset", kinds={"json"}, owners=OWNERS, code_version="1", retry_policy=TRANSIENT_ERRORS
)
def dataset_profile(project: ProjectResource) -> dg.MaterializeResult:
    """Size, distributions, correlations and skew of the snapshot; fixes the split of every sample."""
    return run_stage(project.chain().profile)
