"""The files that deploy the code location are what Dagster and Compose accept, and agree with each other."""

from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.load import load_workspace_process_context_from_yaml_paths

from foreshard.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def test_local_instance_launches_runs_at_once_and_reports_nothing_home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((ROOT / "deploy/dagster.local.yaml").read_bytes())
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        assert not instance.telemetry_enabled
        assert type(instance.run_coordinator).__name__ != "QueuedRunCoordinator"
        assert instance.run_monitoring_enabled
        assert instance.run_retries_enabled
        assert not instance.run_retries_retry_on_asset_or_op_failure
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 1


def test_compose_instance_is_accepted(tmp_path, monkeypatch):
    for name in ("HOST", "USER", "PASSWORD", "DB"):
        monkeypatch.setenv(f"DAGSTER_POSTGRES_{name}", "x")
    (tmp_path / "dagster.yaml").write_bytes((ROOT / "deploy/dagster.yaml").read_bytes())
    config, _ = dagster_instance_config(str(tmp_path))
    assert config["telemetry"] == {"enabled": False}
    assert config["run_monitoring"]["free_slots_after_run_end_seconds"] > 0


def test_compose_starts_each_service_after_what_it_needs_is_healthy(compose):
    services = compose["services"]
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[other], (name, other)
            else:
                assert services[other]["restart"] == "no", (name, other)
    assert {"object-store", "postgres", "code-location", "webserver", "daemon"} <= set(services)
    assert "quay.io/minio/minio" in services["object-store"]["image"]


def test_compose_publishes_ports_on_the_loopback_only(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_agrees_with_workspace_configuration_and_buckets(compose):
    services = compose["services"]
    workspace = yaml.safe_load((ROOT / "deploy/workspace.yaml").read_text(encoding="utf-8"))
    server = workspace["load_from"][0]["grpc_server"]
    command = services[server["host"]]["command"]
    assert command[command.index("-p") + 1] == str(server["port"])
    config = load_config(ROOT / "deploy/foreshard.yaml")
    buckets = {url.split("/")[2] for url in (config.store.url, config.dataset.source.url)}
    assert {f"store/{bucket}" for bucket in buckets} <= set(services["create-bucket"]["command"])


def test_image_copies_only_what_exists():
    for line in (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY"):
            for source in line.split()[1:-1]:
                assert (ROOT / source).exists(), source


def test_workspace_loads_the_code_location(tmp_path):
    with (
        dg.instance_for_test(temp_dir=str(tmp_path)) as instance,
        load_workspace_process_context_from_yaml_paths(instance, [str(ROOT / "workspace.yaml")]) as process,
    ):
        context = process.create_request_context()
        location = context.get_code_location("foreshard")
        names = {job.name for job in location.get_repository("__repository__").get_all_jobs()}
        assert {"bootstrap", "reshard", "evaluate"} <= names
