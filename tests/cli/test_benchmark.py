"""calmgrad benchmark"""

import json
from typing import ClassVar

import pytest

from calmgrad.cli.benchmark import PROMPT, completion_times, timed
from calmgrad.generation import Completion
from tests.cli.conftest import Run


def test_json(run: Run) -> None:
    done = run(
        "benchmark", "-s", "micro", "-s", "nano", "--seconds", 0.05, "--threads", 1, "--json"
    )
    result = json.loads(done.stdout)
    assert {"calmgrad", "python", "numpy", "numba", "blas", "cpu", "completion"} <= set(result)
    assert result["threads"] == 1
    assert [row["size"] for row in result["sizes"]] == ["nano", "micro"]
    for row in result["sizes"]:
        assert 0 < row["forward_ms"]["best"] <= row["forward_ms"]["median"]
        assert 0 < row["token_ms"]["best"] <= row["token_ms"]["median"]
        speed = row["train_tokens_per_second"]
        assert speed["best"] >= speed["median"] > 0
        assert min(row["repeats"].values()) >= 3
        assert 30 < row["peak_memory_mb"] < 4000
        assert row["added_memory_mb"] >= 0
    assert result["sizes"][0]["peak_memory_mb"] <= result["sizes"][1]["peak_memory_mb"]
    assert result["sizes"][0]["parameters"] == 168_064


def test_table(run: Run) -> None:
    done = run("benchmark", "-s", "nano", "--seconds", 0.05)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["best", "size", "nano", "a"]
    assert "model.generate" in done.stdout
    assert done.stderr.startswith("machine  ")


def test_ops(run: Run) -> None:
    done = run("benchmark", "-s", "nano", "--seconds", 0.01, "--ops")
    head, speeds, heading, *rows = done.stdout.splitlines()
    assert head.startswith("nano: a step of ")
    assert speeds.startswith("this machine: products ")
    assert heading.split()[0] == "op"
    shares = [float(row.partition("%")[0].split()[-1]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(rows))
    assert not any(" - " in row for row in rows)  # every op's work is known


def test_ops_json(run: Run) -> None:
    result = json.loads(run("benchmark", "-s", "nano", "--seconds", 0.01, "--ops", "--json").stdout)
    assert result["threads"] == 1
    [found] = result["sizes"]
    assert (found["size"], found["shards"], found["tokens"]) == ("nano", 4, 8 * 255)
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1)
    by_name = {row["op"]: row for row in found["rows"]}
    assert by_name["selective_scan"]["calls"] == 3 * 4
    assert by_name["logits"]["calls"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ops", "--threads", "2"], "one thread"),
        (["-s", "huge"], "'huge' is not one of"),
        (["--seconds", "0"], "0.0 is not in the range"),
    ],
)
def test_bad_calls(run: Run, arguments: list[str], message: str) -> None:
    assert message in run("benchmark", *arguments, code=2).stderr


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def wait(self, seconds: float = 1.0) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("calmgrad.cli.benchmark.time", clock)
    return clock


def test_repeats_follow_the_time(clock: Clock) -> None:
    assert timed(clock.wait, 0.0) == [1.0] * 3
    assert clock.now == 5  # two do not count
    assert timed(clock.wait, 10.0) == [1.0] * 10


def test_time_of_a_token_is_a_share_of_its_completion(clock: Clock) -> None:
    """A completion may end early: then fewer tokens share the time."""

    class Fake:
        asked: ClassVar[list[dict[str, object]]] = []

        def generate(self, prompt: list[int], **options: object) -> list[Completion]:
            self.asked.append(options)
            clock.wait(8.0)
            return [Completion([1, 2, 3], "", 0.0, "end")]

    times = completion_times(Fake(), [1] * PROMPT, 0.0)  # type: ignore[arg-type]
    assert Fake.asked[0] == {"temperature": 0, "max_tokens": PROMPT}
    assert times == [2.0] * 3  # three tokens, and the end
