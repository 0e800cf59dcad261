"""Bad input on the demo's command line: exit code 1 and one line that names the value and the fix."""

import time

import pytest
from demo_world import Demo, kill_all, tree

pytestmark = [pytest.mark.slow]

DUMMY = {"AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "guessed"}


@pytest.fixture
def demo(tmp_path):
    return Demo(tmp_path)


def refused(demo, *arguments):
    """Run the demo, which must refuse to start, and return its message."""
    code, output = demo.run(*arguments, output="refused", seconds=60)
    assert code == 1, output
    assert "Traceback" not in output
    lines = output.strip().splitlines()
    assert lines[0].startswith("error: "), output
    assert sum(line.startswith("error:") for line in lines) == 1, output
    return " ".join(output.split())


def test_unknown_strategy_is_refused(demo):
    demo.configure(reshard={"strategies": ["contiguous", "alphabetical"]})
    message = refused(demo)
    assert "reshard.strategies" in message
    assert "'alphabetical' is unknown; use some of contiguous, hash" in message


def test_missing_target_is_refused_and_leaves_no_trace(demo):
    demo.configure(dataset={"target": "tardy"})
    message = refused(demo)
    assert "has no column 'tardy'; it has year, month" in message
    assert sorted(path.name for path in demo.home.iterdir()) == ["lock", "store"]


def test_missing_feature_is_refused(demo):
    demo.configure(dataset={"features": ["dep_delay", "weather"]})
    assert "has no column 'weather'" in refused(demo)


def test_empty_source_is_refused(demo):
    demo.configure()
    (demo.home / "source").mkdir(parents=True)
    assert f"{demo.home}/source holds no .parquet file; point dataset.source at" in refused(demo)


def test_memory_below_two_chunks_is_refused(demo):
    demo.configure(loader={"cache_fraction": 0.001})
    message = refused(demo)
    assert "loader.cache_fraction 0.001 of the 2400 train rows" in message
    assert "raise loader.cache_fraction to 0.014 or more, or lower reshard.min_chunk_rows" in message


def test_unreachable_endpoint_is_refused(tmp_path):
    demo = Demo(tmp_path, DUMMY)
    demo.configure(store={"url": "s3://nowhere", "endpoint": "http://127.0.0.1:1"})
    message = refused(demo)
    assert "s3://nowhere at http://127.0.0.1:1 cannot be reached" in message
    assert "check that the endpoint is right and its server runs" in message


@pytest.mark.s3
def test_wrong_credentials_are_refused(tmp_path, s3_server):
    demo = Demo(tmp_path, {**s3_server.environment, **DUMMY})
    demo.configure(store={"url": f"s3://{s3_server.create_bucket()}", "endpoint": s3_server.endpoint})
    message = refused(demo)
    assert "was denied" in message
    assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY" in message
    assert DUMMY["AWS_SECRET_ACCESS_KEY"] not in message


def test_two_runs_at_once_and_resuming_under_other_settings_are_refused(demo):
    demo.configure()
    with demo.start() as first:
        limit = time.monotonic() + 60
        while not (demo.home / "settings.json").exists():
            assert first.poll() is None, demo.output()
            assert time.monotonic() < limit
            time.sleep(0.02)
        assert f"another `make run` is using {demo.home}; wait for it or give another --home" in refused(demo)
        kill_all(tree(first.pid))
    assert "had --rows 6000, not 5000; use the same to resume it, or --fresh" in refused(demo, "--rows", "5000")
    demo.configure(loader={"cache_fraction": 0.3})
    assert "had another content of the configuration file; use the same" in refused(demo)


def test_what_fails_inside_dagster_ends_the_demo_with_its_cause(demo):
    nodes = [{"name": f"node{i}", "memory": 1000} for i in range(2)]
    demo.configure(cluster={"nodes": nodes})
    code, output = demo.run()
    assert code == 1, output
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert line.startswith("error: generation demo.e000000 failed in Dagster: layout/plan: "), line
    assert "lacks" in line
    assert "it has 1000, give it more memory" in line
    assert demo.strays() == []
