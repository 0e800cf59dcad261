"""The code location loads, cheaply, and holds the graph that DESIGN.md §4 describes."""

import os
import subprocess
import sys

import dagster as dg
import pytest

from dagster_project.definitions import defs

GRAPH = {
    "training/epoch_markers": ("external", []),
    "dataset/profile": ("unpartitioned", []),
    "consistency/trials": ("unpartitioned", ["dataset/profile"]),
    "consistency/predictor": ("unpartitioned", ["consistency/trials"]),
    "layout/recipe": ("unpartitioned", []),
    "access/events": ("generation", ["training/epoch_markers"]),
    "access/forecast": ("generation", ["access/events"]),
    "consistency/scores": ("generation", ["access/forecast", "consistency/predictor", "dataset/profile"]),
    "layout/plan": ("generation", ["access/events", "access/forecast", "consistency/scores", "layout/recipe"]),
    "shards/objects": ("generation", ["layout/plan"]),
    "shards/prefetch_manifest": ("generation", ["layout/plan", "shards/objects"]),
    "layout/current": ("generation", ["shards/prefetch_manifest"]),
    "training/runs": ("external", ["layout/current", "shards/prefetch_manifest"]),
}

CHECKED = {
    "access/events": "complete",
    "access/forecast": "finite",
    "consistency/scores": "within_bounds",
    "layout/plan": "exact_cover",
    "shards/objects": "verified",
    "shards/prefetch_manifest": "references_exist",
    "layout/current": "readable",
}


@pytest.fixture(scope="module")
def definitions():
    return defs()


def _specs(definitions):
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_definitions_are_loadable(definitions):
    dg.Definitions.validate_loadable(definitions)


def test_graph_is_the_designed_one(definitions):
    graph = definitions.resolve_asset_graph()
    found = {}
    for text, spec in _specs(definitions).items():
        kind = "external" if graph.get(spec.key).is_external else "unpartitioned"
        if spec.partitions_def is not None:
            assert spec.partitions_def.name == "generation"
            kind = "generation"
        found[text] = (kind, sorted(dep.asset_key.to_user_string() for dep in spec.deps))
    assert found == GRAPH


def test_every_asset_says_whose_and_what_it_is(definitions):
    for text, spec in _specs(definitions).items():
        assert spec.group_name == text.split("/")[0], text
        assert spec.owners == ["team:training-data"], text
        assert spec.kinds, text
        assert spec.description, text
        assert spec.code_version or GRAPH[text][0] == "external", text


def test_every_stage_of_a_generation_is_held_by_a_blocking_check_per_partition(definitions):
    graph = definitions.resolve_asset_graph()
    nodes = [graph.get(key) for key in graph.asset_check_keys]
    assert {node.key.asset_key.to_user_string(): node.key.name for node in nodes} == CHECKED
    assert all(node.blocking for node in nodes)
    assert all(node.partitions_def is not None for node in nodes)
    assert {text for text, (kind, _) in GRAPH.items() if kind == "generation"} == set(CHECKED)


@pytest.mark.parametrize(
    ("job", "assets"),
    [
        ("bootstrap", {text for text, (kind, _) in GRAPH.items() if kind != "external"}),
        ("reshard", {text for text, (kind, _) in GRAPH.items() if kind == "generation"}),
        ("evaluate", {"access/forecast"}),
    ],
)
def test_jobs_hold_their_assets_and_run_in_one_process(definitions, job, assets):
    resolved = definitions.resolve_job_def(job)
    assert {key.to_user_string() for key in resolved.asset_layer.executable_asset_keys} == assets
    assert resolved.executor_def is dg.in_process_executor


def test_steps_that_touch_the_store_share_a_pool_and_retry(definitions):
    pools = {}
    for asset in definitions.resolve_asset_graph().assets_defs:
        if asset.is_executable and asset.keys:
            assert asset.node_def.retry_policy or asset.check_keys, asset.keys
            pools[next(iter(asset.keys)).to_user_string()] = asset.node_def.pool
    assert {text for text, pool in pools.items() if pool == "object_store"} == {
        "shards/objects",
        "shards/prefetch_manifest",
        "layout/current",
    }
    assert pools["layout/plan"] == "solver"


def test_loading_reads_no_configuration_and_imports_nothing_heavy():
    code = (
        "import sys; from dagster_project.definitions import defs; defs(); "
        "heavy = {'numpy', 'pyarrow', 'pandas', 'sklearn', 'prophet', 'matplotlib', 'deap', 's3fs', 'obstore'}; "
        "sys.exit(str(sorted(heavy & set(sys.modules))) if heavy & set(sys.modules) else 0)"
    )
    environment = {**os.environ, "FORESHARD_CONFIG": "/nonexistent/foreshard.yaml"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
