"""The claims' statistics, and the whole script on a few steps."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "claims.py"


@pytest.fixture(scope="module")
def claims() -> Any:
    spec = importlib.util.spec_from_file_location("claims", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = sys.modules["claims"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_interval_is_students(claims: Any) -> None:
    values = np.array([0.1, 0.4, 0.2, 0.6, 0.3])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = claims.interval(np.append(values, np.nan))
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["mean"] == pytest.approx(0.32) and found["seeds"] == 5
    assert claims.interval(values[:1]) == {"mean": 0.1, "low": None, "high": None, "seeds": 1}
    assert claims.interval(np.array([np.nan]))["mean"] is None


def test_accuracy_of_the_share_that_is_believed(claims: Any) -> None:
    curves = np.linspace(1.0, 0.01, 100)[None, None].repeat(3, 0)  # 1 % -> 1.00, 2 % -> 0.99, ... 100 % -> 0.01
    found = claims.believed({"curves": curves}, np.array([0.005, 0.5, 0.0]))
    assert found[:2] == pytest.approx([1.0, 0.51]) and np.isnan(found[2])


@pytest.mark.soak
def test_the_whole_script(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--quick", "--out", tmp_path, "--only", "eurosat"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["eurosat"]
    assert said["images"] == 103 and said["pseudo_labels"]["teacher is metadata_input"]
    plots = {f"claims_{kind}.png" for kind in ("pseudo_labels", "holdout", "distillation")}
    assert plots == {path.name for path in tmp_path.glob("*.png")}
