import json
import subprocess
import sys
from datetime import date

import measure
import pytest


def test_candidates_take_turns_and_the_first_round_does_not_count(monkeypatch):
    now, calls = [0.0], []
    monkeypatch.setattr(measure, "perf_counter", lambda: now[0])
    seconds = {"a": iter([60, 1, 2, 9]), "b": iter([60, 0.5, 0.25, 0.125])}

    def run(name):
        calls.append(name)
        now[0] += next(seconds[name])

    medians = measure.interleaved({"a": lambda: run("a"), "b": lambda: run("b")}, rounds=3)
    assert medians == {"a": 2000, "b": 250}  # milliseconds; a's mean would be 4000
    assert "".join(calls) == "abababab"


def test_peak_memory_counts_what_is_held_at_once():
    nothing = measure.peak_memory("")
    assert nothing < 40  # a bare Python, however much this process holds
    assert measure.peak_memory("x = b'1' * (200 << 20); del x; y = b'1' * (100 << 20)") - nothing == pytest.approx(
        200, abs=5
    )
    assert measure.peak_memory("print('printed text is no figure')") == pytest.approx(nothing, abs=5)
    with pytest.raises(subprocess.CalledProcessError):
        measure.peak_memory("raise SystemExit(3)")


def test_a_figure_replaces_the_one_of_its_name(tmp_path, monkeypatch):
    words = ["/b/weights.py", "--cases", "12", "--output", "results.json", "--data", "/data", "--full"]
    monkeypatch.setattr(sys, "argv", words)
    output = tmp_path / "results.json"
    measure.record(output, "weights", 90, 100)
    measure.record(output, "memory", 21.26, 20, "times less memory")
    measure.record(output, "weights", 123.456, 100)
    first, second = json.loads(output.read_text())
    machine = first.pop("machine")
    assert first == {
        "name": "weights",
        "ratio": 123.0,
        "at_least": 100,
        "unit": "times faster",
        "command": "python benchmarks/weights.py --cases 12 --full",
        "date": date.today().isoformat(),
    }
    assert machine.endswith(" cores")
    assert (second["name"], second["ratio"], second["unit"]) == ("memory", 21.3, "times less memory")


def test_without_a_file_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measure.record(None, "weights", 123, 100)
    assert not list(tmp_path.iterdir())


def test_the_only_option_is_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["weights.py", "--output", str(tmp_path / "results.json")])
    assert measure.output_argument("Claim.") == tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["weights.py"])
    assert measure.output_argument("Claim.") is None
