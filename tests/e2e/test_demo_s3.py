"""The demo with its store on a real S3 server."""

import pytest
from demo_world import Demo, assert_finished, assert_layouts_sound

from foreshard.shards.repository import Repository
from foreshard.storage import ObjectStore


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.timeout(290)
def test_run_on_s3_ends_with_identical_order_and_model(s3_server, tmp_path):
    bucket = s3_server.create_bucket()
    demo = Demo(tmp_path, s3_server.environment)
    demo.configure(store={"url": f"s3://{bucket}", "endpoint": s3_server.endpoint})
    assert_finished(*demo.run())
    assert_layouts_sound(Repository(ObjectStore.open(f"s3://{bucket}", endpoint=s3_server.endpoint), "demo"))
    assert not (demo.home / "store").exists()
    told = (demo.folder / "output").read_text() + (demo.dagster_home / "daemon.log").read_text()
    assert s3_server.secret_key not in told
    s3_server.delete_bucket(bucket)
