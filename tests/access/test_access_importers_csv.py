import gzip

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from import_world import asked, load, reasons

from foreshard.access.importers import files as log_files
from foreshard.access.importers import import_trace
from foreshard.access.importers.csv_rows import HEADER_AGAIN
from foreshard.access.importers.registry import MIXED
from foreshard.access.importers.row_checks import UNKNOWN
from foreshard.errors import LogError


@pytest.fixture
def csv(tmp_path):
    return tmp_path / "log.csv"


def test_columns_are_found_by_their_names(csv):
    got = load(csv, "size,Timestamp,user,Object_ID\n10,1,a,5\n20,2,b,6\n30,3,a,5\n")
    assert asked(got) == [5, 6, 5]
    assert got.trace.nbytes.tolist() == [30, 20]
    assert got.report.findings == ()


def test_columns_may_be_named_by_the_caller(csv):
    text = "id,when,what,round,weight\n1,3,x,1,7\n2,1,y,1,8\n3,2,z,2,9\n"
    names = {"object_column": "what", "time_column": "when", "epoch_column": "round", "size_column": "weight"}
    got = load(csv, text, **names)
    assert asked(got) == ["y", "x", "z"]
    assert got.trace.starts.tolist() == [0, 2, 3]
    assert got.trace.nbytes[got.trace.objects].tolist() == [8, 7, 9]


def test_a_column_that_is_not_there_is_named_with_those_that_are(csv):
    with pytest.raises(LogError, match=r"has no column 'page'; its columns are a, b"):
        load(csv, "a,b\n1,2\n", object_column="page")
    with pytest.raises(LogError, match=r"has the columns a, b: say by object_column"):
        load(csv, "a,b\n1,2\n")


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", " "])
def test_the_delimiter_is_told_from_the_first_line(csv, separator):
    text = "".join(separator.join(row) + "\n" for row in (("time", "key"), ("1", "a"), ("2", "b")))
    assert asked(load(csv, text)) == ["a", "b"]


def test_a_blank_parts_fields_only_where_nothing_else_does(csv):
    got = load(csv, "Object ID,Date and time,Size in bytes\n5,1,10\n6,2,20\n", object_column="Object ID")
    assert asked(got) == [5, 6]
    assert got.report.findings == ()


def test_letters_whose_bytes_look_like_white_space_part_no_fields(csv):
    """à ends in the byte A0, Å in 85: white space in Latin-1, in which lines are parted one by one."""
    text = "time key\n1 à\n\n2 Å\n"
    assert asked(load(csv, text)) == ["à", "Å"]


@pytest.mark.parametrize("line", [b"2\tb 5 ", b" 2 b\t5", b"2  b 5", b"2 b 5 "])
def test_any_white_space_parts_fields_whatever_the_lines_beside_it(csv, line):
    for others in (b"", b"\n"):
        assert asked(load(csv, b"time key size\n1 a 5\n" + line + b"\n" + others)) == ["a", "b"]


def test_a_table_without_a_header_is_objects_if_it_has_one_column(csv):
    assert asked(load(csv, "5\n6\n5")) == [5, 6, 5]
    assert asked(load(csv, "1,5\n2,6\n", object_column="1", time_column="0")) == [5, 6]


@given(st.lists(st.text("abc/._-é", min_size=1, max_size=9), min_size=1))
def test_a_list_of_names_loses_none(tmp_path_factory, names):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    known = {"obj", "t"}
    got = load(path, "\n".join(names) + "\n")
    assert asked(got) == names[names[0].lower() in known :]
    assert got.report.findings == ()


@pytest.mark.parametrize("name", ["Object", "id", "key", "path", "filename", "url"])
def test_a_list_with_a_header_is_told_by_a_name_that_is_known_or_asked_for(csv, name):
    got = load(csv, f"{name}\n/a\n/b\n", object_column="url" if name == "url" else None)
    assert asked(got) == ["/a", "/b"]


def test_a_line_that_may_be_no_header_is_said_to_be_taken_for_one(csv):
    with pytest.raises(LogError, match=r"has the columns GET, /a: say by object_column .*first line: if that is data"):
        load(csv, "GET,/a\nGET,/b\n")
    with pytest.raises(LogError, match=r"no column '1'; its columns are GET, /a; .*header=False \(--no-header\)"):
        load(csv, "GET,/a\nGET,/b\n", object_column="1")
    with pytest.raises(LogError, match=r"its columns are time, key$"):
        load(csv, "time,key\n1,2\n", object_column="1")


def test_whether_there_is_a_header_may_be_said(csv):
    assert asked(load(csv, "GET,/a\nGET,/b\n", object_column="1", header=False)) == ["/a", "/b"]
    assert asked(load(csv, "url\n/b\n", header=True)) == ["/b"]
    assert asked(load(csv, "key\n/b\n", header=False)) == ["key", "/b"]
    got = load(csv, "7,8\n1,2\n", header=True, object_column="8")
    assert (asked(got), got.report.findings) == ([2], ())


def test_quotes_carriage_returns_empty_lines_and_a_mark_of_byte_order_are_taken(csv):
    text = b'\xef\xbb\xbfkey,size\r\n"a,b",1\r\n\r\nc,2\r\n"d ""e""",3'
    got = load(csv, text)
    assert asked(got) == ["a,b", "c", 'd "e"']
    assert got.report.findings == ()


def test_names_keep_their_text_and_numbers_up_to_64_bits_their_value(csv):
    assert asked(load(csv, "key\n007\n7\nx y\n0\n", object_type="text")) == ["007", "7", "x y", "0"]
    large = [2**64 - 1, 2**63, 10**19, 0, 12]
    assert asked(load(csv, "key\n" + "\n".join(map(str, large)))) == large


def test_requests_are_put_in_order_of_time_and_the_disorder_reported(csv):
    got = load(csv, "time,key\n3,c\n1,a\n2,b\n4,d\n")
    assert asked(got) == ["a", "b", "c", "d"]
    (finding,) = got.report.findings
    assert (finding.kept, finding.count, finding.examples[0].where) == (True, 1, "line 3")


def test_equal_times_keep_the_order_of_the_log(csv):
    assert asked(load(csv, "time,key\n2,a\n1,b\n2,c\n1,d\n")) == ["b", "d", "a", "c"]


@pytest.mark.parametrize(
    "times",
    [
        ["1760000000.5", "1760000000.25", "1760000001"],
        ["1760000000000000002", "1760000000000000001", "1760000000000000003"],
        ["1760000000001.5", "1760000000001.25", "1760000000002"],
        ["1760000000000001.5", "1760000000000000.5", "1760000000000002"],
        ["2025-10-09T08:53:20.000002", "2025-10-09 08:53:20.000001", "2025-10-09T08:53:21"],
        ["2025-10-09T10:53:20+02:00", "2025-10-09T08:53:19Z", "2025-10-09T08:53:21Z"],
        [".2", "1e-1", "3"],
    ],
)
def test_times_of_any_unit_are_ordered(csv, times):
    rows = zip(times, "abc", strict=True)
    got = load(csv, "time,key\n" + "".join(f"{time},{key}\n" for time, key in rows))
    assert asked(got) == ["b", "a", "c"]
    assert reasons(got.report) == {}


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_a_time_in_the_future_is_left_out_whatever_its_unit(csv, unit):
    now, later = 1_700_000_000 * unit, 4_000_000_000 * unit
    got = load(csv, f"time,key\n{now},a\n{now + unit},b\n{later},c\n")
    assert asked(got) == ["a", "b"]
    assert reasons(got.report) == {"time in the future": 1}


def test_times_that_count_from_an_unknown_origin_are_never_in_the_future(csv):
    got = load(csv, f"time,key\n0,a\n100,b\n{10**18},c\n")
    assert asked(got) == ["a", "b", "c"]


def test_epochs_become_windows_and_phases_cut_them(csv):
    text = "epoch,key\n" + "".join(f"{epoch},{key}\n" for epoch in (3, 7) for key in "abcd")
    got = load(csv, text, phases=2)
    assert got.trace.starts.tolist() == [0, 2, 4, 6, 8]
    assert got.trace.history().epochs.tolist() == [1, 1, 2, 2]
    assert reasons(got.report, kept=True) == {"epoch without a request": 1}
    with pytest.raises(LogError, match="epoch 3 has 4 requests, fewer than 5 phases"):
        load(csv, text, phases=5)


@pytest.mark.parametrize("unit", [1, 1000])
@pytest.mark.parametrize("step", [1, 0])
def test_an_epoch_that_is_a_time_is_refused_and_may_be_named_as_one(csv, unit, step):
    text = "epoch,key\n" + "".join(f"{(1_700_000_000 + step * i) * unit},{i}\n" for i in range(20, 0, -1))
    with pytest.raises(LogError, match=r"log 'log\.csv', column 'epoch': values like 17\d+ are times, .*--time-column"):
        load(csv, text)
    got = load(csv, text, time_column="epoch")
    assert got.trace.windows == 20
    assert asked(got) == (list(range(1, 21)) if step else list(range(20, 0, -1)))


def test_large_numbers_of_epochs_that_are_no_times_are_windows(csv):
    text = "epoch,key\n" + "".join(f"{5_000_000 + i // 10},{i % 3}\n" for i in range(30))
    assert load(csv, text).trace.windows == 3


def test_the_report_says_which_columns_were_used(tmp_path):
    got = load(tmp_path / "a.csv", "name,Size,id,ts\nx,1,5,1\n")
    assert got.report.columns == {"object": "id", "time": "ts", "size": "Size"}
    assert load(tmp_path / "a.csv", "5\n6\n").report.columns == {"object": "0"}
    (tmp_path / "b.csv").write_text("path,ts\n5,2\n")
    (tmp_path / "a.csv").write_text("name,Size,id,ts\nx,1,5,1\n")
    assert import_trace(tmp_path).report.columns == {"object": "id, path", "time": "ts", "size": "Size"}
    assert load(tmp_path / "a.lis", "1 1 0 1\n").report.columns == {}


def test_windows_asked_for_are_of_equal_numbers_of_requests(csv):
    text = "epoch,key\n1,a\n2,b\n2,c\n2,d\n"
    assert load(csv, text).trace.starts.tolist() == [0, 1, 4]
    assert load(csv, text, windows=2).trace.starts.tolist() == [0, 2, 4]
    with pytest.raises(LogError, match="4 requests do not make 5 windows"):
        load(csv, text, windows=5)
    assert load(csv, "key\n" + "a\n" * 100).trace.windows == 24


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,abc,1", "object no integer"),
        (b"1,1.5,1", "object no integer"),
        (b"1,-4,1", "object negative"),
        (b"1,,1", "object missing"),
        (b"1,18446744073709551616,1", "object no integer"),
        (b"1,99999999999999999999999999,1", "object no integer"),
        (b"1,\xff\xfe,1", "object no integer"),
        (b"1,4\x00,1", "object no integer"),
        (b"x,4,1", "time unreadable"),
        (b",4,1", "time unreadable"),
        (b"-1,4,1", "time negative"),
        (b"1e400,4,1", "time unreadable"),
        (b"1,4", "wrong number of fields"),
        (b"1,4,1,1", "wrong number of fields"),
        (b'1,"4,1', "wrong number of fields"),
        (b"1,4\r,1", "wrong number of fields"),
        (b"7" * (log_files.LINE_BYTES + 1), log_files.TOO_LONG),
    ],
)
def test_a_malformed_line_is_left_out_and_quoted(csv, line, reason):
    rows = [b"0,9,1", b"1,9,1", b"2,8,1", b"3,7,1"]
    got = load(csv, b"time,key,size\n" + b"\n".join([*rows[:2], line, *rows[2:]]) + b"\n", object_type="int")
    assert asked(got) == [9, 9, 8, 7]
    (finding,) = got.report.findings
    assert (finding.reason, finding.kept, finding.count) == (reason, False, 1)
    assert (finding.examples[0].file, finding.examples[0].where) == ("log.csv", "line 4")
    assert len(finding.examples[0].value) < 250


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ("", "size missing"),
        ("-1", "size negative"),
        ("-1.0", "size negative"),
        ("big", "size no integer"),
        ("1.5", "size no integer"),
        ("9223372036854775808", "size above 9223372036854775807"),
    ],
)
def test_a_request_is_kept_though_its_size_is_not_known(csv, size, reason):
    got = load(csv, f"key,size\n1,10\n2,{size}\n1,{size}\n")
    assert asked(got) == [1, 2, 1]
    assert got.trace.nbytes.tolist() == [10, 1]
    assert reasons(got.report) == {}
    assert reasons(got.report, kept=True) == {reason + UNKNOWN: 2}
    assert got.report.findings[0].examples[0].where == "line 3"


def test_whole_numbers_may_be_written_with_a_fraction_of_zeros(csv):
    got = load(csv, "key,size,epoch\n7.0,10.00,1.\n8,20,2.0\n", object_type="int")
    assert asked(got) == [7, 8]
    assert got.trace.nbytes.tolist() == [10, 20]
    assert got.trace.starts.tolist() == [0, 1, 2]
    assert got.report.findings == ()


@pytest.mark.parametrize("quoted", [False, True])
def test_blanks_around_values_and_names_are_no_part_of_them(csv, quoted):
    rows = ["time, key ,\tsize", "1, a ,10", " 2 ,b b,\t20 ", "3,   a,10"] + ['4, "c,d" , 5'] * quoted
    got = load(csv, "\n".join(rows) + "\n", size_column="size", object_column="key")
    assert asked(got) == ["a", "b b", "a"] + ["c,d"] * quoted
    assert got.trace.nbytes.tolist()[:2] == [10, 20]
    assert got.report.findings == ()


PADDING = st.sampled_from(["", " ", "  ", "\t", " \t"])


@given(st.lists(st.tuples(PADDING, st.sampled_from(["a", "b c", "d  e"]), PADDING), min_size=1, max_size=5))
def test_blanks_count_nowhere_whether_lines_are_parted_together_or_one_by_one(tmp_path_factory, cells):
    path = tmp_path_factory.getbasetemp() / "blanks.csv"
    for last in (True, False):
        lines = [f"1,{before}{name}{behind}" if last else f"{before}{name}{behind},1" for before, name, behind in cells]
        header = "x,key" if last else "key,x"
        for quoted in ([], ['"1","1"']):
            got = load(path, "\n".join([header, *lines, *quoted]) + "\n", object_type="text")
            assert asked(got) == [name for _, name, _ in cells] + ["1"] * len(quoted)


def test_a_field_of_a_line_that_may_be_read_is_read(csv):
    long = "x" * (log_files.LINE_BYTES - 100)
    got = load(csv, f'key,agent\n1,"a"\n2,{long}\n3,"{long}"\n')
    assert asked(got) == [1, 2, 3]
    assert got.report.findings == ()


def test_a_header_that_comes_again_is_no_request(csv):
    got = load(csv, "key,ip\r\n1,x\r\nkey,ip\r\n2,y\r\n")
    assert asked(got) == [1, 2]
    assert reasons(got.report) == {HEADER_AGAIN: 1}
    assert got.report.findings[0].examples[0].where == "line 3"


@given(st.lists(st.sampled_from(["1", "01", "1.0", "12345678901234567890123", "97815X", "a b", "é"]), min_size=1))
def test_objects_are_integers_only_if_all_are_and_else_keep_their_spelling(tmp_path_factory, ids):
    path = tmp_path_factory.getbasetemp() / "mixed.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_files, "BLOCK_BYTES", 9)
        got = load(path, "key\n" + "\n".join(ids) + "\n")
    whole = all(value in {"1", "01", "1.0"} for value in ids)
    assert asked(got) == ([1] * len(ids) if whole else ids)
    assert reasons(got.report) == {}
    assert set(reasons(got.report, kept=True)) <= {MIXED}


def test_a_file_with_texts_behind_one_with_integers_makes_texts_of_all(tmp_path):
    (tmp_path / "a.csv").write_text("time,key,size\n1,007,1\n2,x,-\n")
    (tmp_path / "b.csv").write_text("key,time,size\nabc,3,5\n8,x,5\n")
    aside = tmp_path / "aside.jsonl"
    got = import_trace(tmp_path, quarantine=aside, format="csv")
    assert asked(got) == ["007", "x", "abc"]
    assert reasons(got.report) == {"time unreadable": 1}
    assert len(aside.read_text().splitlines()) == 1
    assert reasons(got.report, kept=True)[MIXED] == 1


def test_a_malformed_line_makes_no_texts_of_integers(csv):
    got = load(csv, b"time,key\n1,007\nx,abc\n2,7\n3,\xff\n")
    assert asked(got) == [7, 7]
    assert reasons(got.report) == {"object no integer": 2}


def test_text_that_is_no_utf8_is_left_out_of_texts(csv):
    got = load(csv, b"key\na\n\xff\xfe\nb\n")
    assert asked(got) == ["a", "b"]
    assert reasons(got.report) == {"object not UTF-8": 1}


def test_lines_behind_a_long_one_keep_their_numbers_wherever_blocks_end(csv, monkeypatch):
    text = b"key\n1\n" + b"9" * 500 + b"\n2\n" + b"8" * 100 + b"\nx\n3\n"
    for size in (7, 64, 501, 10_000):
        monkeypatch.setattr(log_files, "BLOCK_BYTES", size)
        monkeypatch.setattr(log_files, "LINE_BYTES", 99)
        got = load(csv, text, object_type="int")
        assert asked(got) == [1, 2, 3]
        places = [example.where for finding in got.report.findings for example in finding.examples]
        assert sorted(places) == ["line 3", "line 5", "line 6"]


def test_blocks_change_nothing(csv, monkeypatch):
    rng = np.random.default_rng(3)
    rows = [f"{i},{key}" for i, key in enumerate(rng.integers(0, 50, 400))]
    text = "time,key\n" + "\n".join(rows)
    whole = load(csv, text)
    monkeypatch.setattr(log_files, "BLOCK_BYTES", 100)
    parts = load(csv, text)
    assert asked(parts) == asked(whole)
    assert parts.trace.names.tolist() == whole.trace.names.tolist()


@pytest.mark.parametrize("pack", [gzip.compress, lambda raw: pa.Codec("zstd").compress(raw, asbytes=True)])
def test_compressed_logs_are_read_and_what_is_cut_off_is_reported(tmp_path, pack):
    rng = np.random.default_rng(1)
    keys = rng.integers(0, 10**9, 60_000)
    packed = pack(b"key\n" + b"\n".join(b"%d" % key for key in keys))
    assert asked(load(tmp_path / "a.csv.gz", packed)) == keys.tolist()
    got = load(tmp_path / "b.csv.gz", packed[: len(packed) * 2 // 3])
    kept = asked(got)
    assert 10_000 < len(kept) < 60_000
    assert kept[:-1] == keys[: len(kept) - 1].tolist()
    assert reasons(got.report) == {log_files.CUT_SHORT: 1}


def test_a_damaged_gzip_gives_what_is_in_front_of_the_damage(tmp_path):
    keys = np.random.default_rng(1).integers(0, 10**9, 60_000)
    packed = bytearray(gzip.compress(b"key\n" + b"\n".join(b"%d" % key for key in keys) + b"\n"))
    packed[-6] ^= 1  # the checksum: every byte of the content is there
    got = load(tmp_path / "a.csv.gz", bytes(packed))
    assert asked(got) == keys.tolist()
    assert reasons(got.report) == {log_files.CUT_SHORT: 1}


def test_gzip_files_one_behind_another_are_one(tmp_path):
    packed = gzip.compress(b"key\n1\n") + gzip.compress(b"2\n") + b"\0" * 10
    got = load(tmp_path / "a.csv.gz", packed)
    assert asked(got) == [1, 2]
    assert got.report.findings == ()


def test_a_folder_is_read_by_name_each_file_with_its_own_columns(tmp_path):
    (tmp_path / "b.csv").write_text("size,key\n2,y\n")
    (tmp_path / "a.csv").write_text("key\nx\n")
    (tmp_path / "note.md").write_text("nothing")
    got = import_trace(tmp_path)
    assert asked(got) == ["x", "y"]
    assert got.report.files == ("a.csv", "b.csv")


@pytest.mark.parametrize(("column", "what"), [("time", "times"), ("epoch", "epochs")])
def test_a_folder_of_which_some_files_lack_a_column_is_refused(tmp_path, column, what):
    (tmp_path / "a.csv").write_text(f"{column},key\n2,y\n")
    (tmp_path / "b.csv").write_text("key\nx\n")
    with pytest.raises(LogError, match=f"only some of the log's files have {what}"):
        import_trace(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"key\n", b"key\n\n\n"])
def test_a_log_without_a_request_is_an_error(csv, content):
    with pytest.raises(LogError, match="holds no valid request"):
        load(csv, content)


def test_a_log_of_nothing_but_faults_says_which(csv):
    with pytest.raises(LogError, match="2 x object negative"):
        load(csv, "key\n-1\n-2\n", object_type="int")
