"""The Prometheus export is read back by a strict parser of text format 0.0.4, and written whole or not at all."""

import re
import threading

import pytest

from foreshard.errors import ConfigError
from foreshard.prefetch.monitor import BatchFigures, EpochStats, Monitor
from foreshard.prefetch.prometheus import to_prometheus, write_prometheus

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
PAIR = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\\\|\\"|\\n)*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({PAIR}(?:,{PAIR})*)\}})? ([-+]?[0-9.]+(?:e[-+]?[0-9]+)?)")
UNESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def parse(text):
    """Return kind and samples by metric; refuse what Prometheus' parser refuses or warns of."""
    assert text.endswith("\n")
    metrics, name = {}, None
    lines = text[:-1].split("\n")
    for i, line in enumerate(lines):
        if line.startswith("# HELP "):
            name, _, told = line[7:].partition(" ")
            assert re.fullmatch(NAME, name)
            assert name not in metrics, "a metric's lines must be together"
            assert told
            assert lines[i + 1].startswith(f"# TYPE {name} ")
        elif line.startswith("# TYPE "):
            typed, kind = line[7:].split(" ")
            assert typed == name
            assert kind in ("counter", "gauge")
            assert (kind == "counter") == name.endswith("_total")
            metrics[name] = (kind, {})
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match[1] == name
            pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "")
            labels = tuple((key, re.sub(r"\\.", lambda found: UNESCAPED[found[0]], value)) for key, value in pairs)
            assert len(dict(labels)) == len(labels)
            assert labels not in metrics[name][1]
            metrics[name][1][labels] = float(match[3])
    return metrics


def filled():
    monitor = Monitor(budget=5_000_000)
    monitor.batch(0, BatchFigures(fetch_s=0.25, touches=10, hits=4, samples=64, origin_bytes=12_345_678_901))
    monitor.batch(1, BatchFigures(queue_s=1e-7, touches=10, hits=10, samples=64))
    monitor.epoch(EpochStats(1))
    monitor.epoch(EpochStats(2, steps=2, ready_steps=1, touches=20, hits=14, min_hits=16, origin_bytes=6, min_bytes=4))
    return monitor


def test_every_figure_can_be_read_back():
    found = parse(to_prometheus(filled().snapshot(), {"run": "demo", "rank": "3"}))
    labels = (("run", "demo"), ("rank", "3"))

    def value(name, *more):
        return found[f"foreshard_loader_{name}"][1][(*labels, *more)]

    assert value("batches_total") == 2
    assert value("samples_total") == 128
    assert value("origin_bytes_total") == 12_345_678_901
    assert value("wait_seconds_total", ("cause", "fetch")) == 0.25
    assert value("wait_seconds_total", ("cause", "queue")) == 1e-7
    assert len(found["foreshard_loader_wait_seconds_total"][1]) == 4
    assert value("memory_budget_bytes") == 5_000_000
    assert value("rolling_residency_hit_rate") == 0.7
    assert value("epoch") == value("epochs_total") == 2
    assert value("epoch_ready_rate") == 0.5
    assert value("epoch_fraction_of_min") == 14 / 16
    assert value("epoch_origin_over_min") == 1.5


def test_without_epochs_and_labels_it_is_still_the_format():
    found = parse(to_prometheus(Monitor().snapshot()))
    assert found["foreshard_loader_batches_total"] == ("counter", {(): 0.0})
    assert "foreshard_loader_epoch" not in found


def test_label_values_survive_whatever_they_hold():
    awkward = 'C:\\new "run"\nsecond } line, k="v" - ü'
    found = parse(to_prometheus(filled().snapshot(), {"run": awkward}))
    assert list(found["foreshard_loader_batches_total"][1]) == [(("run", awkward),)]


@pytest.mark.parametrize("name", ["", "1st", "a-b", "__name__", "cause", "a b", "ü"])
def test_labels_that_prometheus_refuses_are_refused_by_name(name):
    with pytest.raises(ConfigError, match=re.escape(repr(name))):
        to_prometheus(Monitor().snapshot(), {name: "x"})


def test_the_file_is_replaced_whole_and_may_be_read_by_others(tmp_path):
    path, monitor, done = tmp_path / "loader.prom", filled(), threading.Event()
    write_prometheus(path, monitor.snapshot(), {"run": "demo"})

    def write():
        for _ in range(200):
            monitor.batch(0, BatchFigures(samples=1))
            write_prometheus(path, monitor.snapshot(), {"run": "demo"})
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    counts = []
    while not done.wait(0.0005):
        counts.append(parse(path.read_text())["foreshard_loader_batches_total"][1][(("run", "demo"),)])
    thread.join()
    assert counts == sorted(counts)
    assert path.read_text() == to_prometheus(monitor.snapshot(), {"run": "demo"})
    assert [file.name for file in tmp_path.iterdir()] == ["loader.prom"]
    assert path.stat().st_mode & 0o444 == (0o444 & ~_umask(tmp_path))


def _umask(folder):
    probe = folder / "probe"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return ~mode & 0o666


def test_a_file_that_nobody_collects_or_that_cannot_be_written_is_an_error(tmp_path):
    snapshot = filled().snapshot()
    with pytest.raises(ConfigError, match=r"loader\.txt.*\.prom"):
        write_prometheus(tmp_path / "loader.txt", snapshot)
    with pytest.raises(ConfigError, match="nowhere"):
        write_prometheus(tmp_path / "nowhere" / "loader.prom", snapshot)
    (tmp_path / "taken.prom").mkdir()
    with pytest.raises(ConfigError, match=r"taken\.prom"):
        write_prometheus(tmp_path / "taken.prom", snapshot)
    assert [file.name for file in tmp_path.iterdir()] == ["taken.prom"]
