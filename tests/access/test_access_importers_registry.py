import json

import pytest
from import_world import asked, load, oracle_record, reasons

from foreshard.access.importers import import_trace
from foreshard.errors import ConfigError, LogError


def test_a_format_that_cannot_be_told_and_one_that_does_not_exist_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be told by its name; give format, one of dftracer, csv"):
        load(tmp_path / "log.dat", "1\n")
    with pytest.raises(ConfigError, match="unknown log format 'orc'; choose one of"):
        load(tmp_path / "log.csv", "1\n", format="orc")
    assert asked(load(tmp_path / "log.dat", "1\n", format="csv")) == [1]


@pytest.mark.parametrize("name", ["x.oracleGeneral", "x.oracleGeneral.bin", "x.ORACLEGENERAL.zst"])
def test_formats_are_told_by_the_name(tmp_path, name):
    assert load(tmp_path / name, oracle_record(0, 5)).report.format == "oraclegeneral"


def test_options_that_a_format_does_not_know_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="format 'csv' knows no option extent"):
        load(tmp_path / "log.csv", "1\n", extent=8)
    with pytest.raises(ConfigError, match=r"unknown option in colour; those of 'csv' are epoch_column"):
        load(tmp_path / "log.csv", "1\n", colour="red")
    with pytest.raises(ConfigError, match="0 windows"):
        load(tmp_path / "log.csv", "1\n", windows=0)
    with pytest.raises(ConfigError, match="0 phases"):
        load(tmp_path / "log.csv", "1\n", phases=0)


def test_words_that_are_no_choice_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="object_type 'number' is unknown; choose one of auto, int, text"):
        load(tmp_path / "log.csv", "1\n", object_type="number")
    with pytest.raises(ConfigError, match="requests 'all' is unknown; choose one of auto, samples, reads"):
        load(tmp_path / "log.pfw", "1\n", requests="all")


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(LogError, match=r"none\.csv' cannot be read \(No such file"):
        import_trace(tmp_path / "none.csv")
    with pytest.raises(LogError, match=r"none\.parquet' cannot be read"):
        import_trace(tmp_path / "none.parquet")


def test_a_folder_without_a_file_of_the_format_is_named(tmp_path):
    with pytest.raises(LogError, match=r"holds no file that ends in \.csv"):
        import_trace(tmp_path, format="csv")


def test_every_record_left_out_goes_to_the_quarantine_file(tmp_path):
    aside = tmp_path / "aside.jsonl"
    bad = [f"{-i}" for i in range(1, 9)]
    got = load(tmp_path / "log.csv", "key\n5\n" + "\n".join(bad) + "\n", quarantine=aside, object_type="int")
    records = [json.loads(line) for line in aside.read_text().splitlines()]
    assert [record["value"] for record in records] == bad
    assert records[0] == {"file": "log.csv", "where": "line 3", "reason": "object negative", "value": "-1"}
    (finding,) = got.report.findings
    assert (finding.count, len(finding.examples)) == (8, 3)
    assert got.report.quarantined == 8
    assert got.report.count("object negative") == 8
    assert got.report.count("nothing of the kind") == 0


def test_a_clean_log_leaves_an_empty_quarantine_file(tmp_path):
    aside = tmp_path / "aside.jsonl"
    load(tmp_path / "log.csv", "key\n5\n", quarantine=aside)
    assert aside.read_text() == ""


def test_the_report_reads_well(tmp_path):
    got = load(tmp_path / "log.csv", b"time,key\n5,1\n4,2\n6,x\x1b\n6,-3\n6,y\n", object_type="int")
    assert got.report.lines() == [
        "csv: 2 requests from 1 file(s), 3 malformed records left out",
        "left out: 1 x object negative (log.csv, line 5: 6,-3)",
        r"left out: 2 x object no integer (log.csv, line 4: 6,x\x1b; log.csv, line 6: 6,y)",
        "kept: 1 x time before the request in front of it (log.csv, line 3: 4,2)",
    ]


def test_an_import_is_the_same_every_time(tmp_path):
    text = "epoch,time,key\n" + "".join(f"{1 + i // 50},{i * 37 % 101},{i * 7 % 13}\n" for i in range(100))
    one, two = (load(tmp_path / "log.csv", text) for _ in range(2))
    assert asked(one) == asked(two)
    assert one.report == two.report
    assert reasons(one.report) == {}
