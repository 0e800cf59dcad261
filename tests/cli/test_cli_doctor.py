"""`foreshard doctor` on a real layout: three runs, their shares and advice, and nothing changed in the store."""

import json

import pytest
from cli_world import Place, make_place


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    """Three layouts in a local folder."""
    return make_place(tmp_path_factory.mktemp("doctor"))


def test_the_doctor_measures_three_runs_and_leaves_the_store_as_it_was(place):
    before = set(place.world.store.list(""))
    found = place.run("doctor", "--steps", "4", "--batch", "8", "--json")
    assert found.exit_code == 0, found.output
    diagnosis = json.loads(found.stdout)
    assert {"compute", "prep", "fetch"} <= set(json.dumps(diagnosis).replace('"', " ").replace("_", " ").split())
    assert set(place.world.store.list("")) == before


def test_the_doctor_prints_a_table_for_people(place):
    found = place.run("doctor", "--steps", "4", "--batch", "8", "--order", "block")
    assert found.exit_code == 0, found.output
    assert "fetch stall" in found.stdout
