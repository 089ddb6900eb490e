"""Shards written by the workers of a Ray cluster; `prepare` itself needs no Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from stssl.data.jobs import Job, Note, Task, write_shard
from stssl.errors import DataError


def on_ray(task: Task, jobs: list[Job], on_rows: Callable[[int], None]) -> Iterator[Note]:
    """Run jobs on the cluster that this process is connected to, one a CPU; see `stssl.data.jobs.Spread`.

    Every node must see the source and the target. A job whose worker or node died is run again by Ray.

    Raises:
        DataError: A sample is damaged, or workers die again and again.
        OSError: The target cannot be written.
    """
    remote = ray.remote(num_cpus=1, max_retries=3)(write_shard)
    shared = ray.put(task)
    waiting = list(jobs)
    running: dict[Any, Job] = {}
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # enough to keep all busy, few enough to stop soon
    try:
        while waiting or running:
            while waiting and len(running) < most:
                job = waiting.pop(0)
                running[remote.remote(shared, job)] = job
            for done in ray.wait(list(running))[0]:
                job = running.pop(done)
                yield ray.get(done)
                on_rows(job.stop - job.start)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"a worker that wrote shards died again and again: {reason}; try fewer --workers") from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
