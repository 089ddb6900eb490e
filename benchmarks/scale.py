"""How far does one driver reach? `python benchmarks/scale.py`, about half an hour on two CPU cores; prints JSON.

Trials that only sleep, on 1, 4, 16 and 64 workers of simulated nodes (real raylets on this machine that claim eight CPUs
each). Nothing is computed, so what is lost is lost to the driver, to Ray, and to the few cores that carry all of it.

- `efficiency`: of the time of all workers, the part that was slept, between the moment when every worker has reported and the
  one when no trial is left to begin.
- `driver_load`: CPU seconds of the driver's process a second, in that time.
- `reports_a_second`: what the driver took in.
- `most_reports_a_second`: the same for workers that do not sleep at all: what the driver takes in at the most.

`paper`: from these, to 1,000 GPUs, whose trials report every so many seconds: the driver's CPU if it grows with the reports
alone, as it does from the fewest to the most workers. An estimate on paper; nothing of it was run.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from search import SearchAlone, search_config  # sets Ray's environment before Ray is imported
from sleeper import Sleeper

# isort: split
import ray
from ray.cluster_utils import Cluster

from stssl.search import driver
from stssl.search.ledger import Event, Ledger
from stssl.search.study import Study

CPUS_PER_NODE, REPORTS = 8, 5
os.environ["STSSL_SLEEP"] = "0"


def run(workers: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Run `rounds` trials a worker.

    Args:
        workers: How many trials at a time.
        seconds: What an interval takes.
        rounds: How many trials a worker, on average; the first one is not counted.
    """
    os.environ["STSSL_SLEEP"] = str(seconds)  # the raylets inherit it, and their workers
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for first in range(0, workers, CPUS_PER_NODE):
        cluster.add_node(num_cpus=min(CPUS_PER_NODE, workers - first), object_store_memory=100 << 20)
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    loads: list[tuple[float, float]] = []

    def observe(study: Study) -> None:
        loads.append((time.time(), time.process_time()))

    changes = {
        "trials": workers * rounds, "scheduler.name": "none", "sampler.name": "random", "resources.cpus": 1,
        "recipe.training.steps": REPORTS, "recipe.training.eval_interval": 1, "recipe.optimizer.warmup_steps": 0,
    }  # fmt: skip
    config, space = search_config(**changes)
    try:
        with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder)) as ledger:
            study = SearchAlone(config, space, ledger)
            driver.run(study, Path(folder), observe, trainable=Sleeper)
            return _measured(ledger.events, loads, workers, seconds)
    finally:
        ray.shutdown()
        cluster.shutdown()


def _measured(events: list[Event], loads: list[tuple[float, float]], workers: int, seconds: float) -> dict[str, Any]:
    seen: set[str] = set()
    begin = 0.0
    for event in events:
        if event["event"] == "result" and len(seen) < workers:
            seen.add(event["trial"])
            begin = event["time"]
    end = max(event["time"] for event in events if event["event"] == "created")
    inside = [event for event in events if event["event"] == "result" and begin < event["time"] <= end]
    ticks = [(at, cpu) for at, cpu in loads if begin < at <= end]
    span = end - begin
    return {
        "reports": len(inside),
        "seconds": round(span, 1),
        "reports_a_second": round(len(inside) / span, 1),
        "efficiency": round(len(inside) * seconds / (workers * span), 3),
        "driver_load": round((ticks[-1][1] - ticks[0][1]) / (ticks[-1][0] - ticks[0][0]), 3),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=4.0, help="what an interval takes")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, Any] = {"interval_seconds": options.seconds, "cpus": os.cpu_count(), "workers": {}}
    for workers in options.workers:
        runs = [run(workers, options.seconds, rounds=3) for _ in range(options.repeat)]
        names = ("efficiency", "driver_load", "reports_a_second")
        found["workers"][workers] = {
            name: {"median": statistics.median(r[name] for r in runs), "all": [r[name] for r in runs]} for name in names
        }
        print(json.dumps({workers: found["workers"][workers]}), file=sys.stderr)
    most = [run(8, 0.0, rounds=30) for _ in range(options.repeat)]
    rates = [m["reports_a_second"] for m in most]
    found["most_reports_a_second"] = {"median": statistics.median(rates), "all": rates}
    few, many = (found["workers"][n] for n in (min(options.workers), max(options.workers)))
    load, rate = ([n[name]["median"] for n in (few, many)] for name in ("driver_load", "reports_a_second"))
    if rate[1] > rate[0]:
        cost = (load[1] - load[0]) / (rate[1] - rate[0])
        found["paper"] = {
            "cpu_seconds_a_report": round(cost, 4),
            **{
                f"driver_load with 1000 GPUs, a report every {s} s": round(load[0] + cost * 1000 / s, 2)
                for s in (10, 60, 300)
            },
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
