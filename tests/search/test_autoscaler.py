"""What is told of Ray's autoscaler, from what Ray's own formatters write; a real one is in test_no_node_comes.py."""

from __future__ import annotations

import time
import traceback

from ray.autoscaler._private.autoscaler import AutoscalerSummary
from ray.autoscaler._private.load_metrics import LoadMetricsSummary
from ray.autoscaler._private.node_provider_availability_tracker import (
    NodeAvailabilityRecord,
    NodeAvailabilitySummary,
    UnavailableNodeInformation,
)
from ray.autoscaler._private.util import format_info_string
from ray.autoscaler.v2.schema import ClusterStatus, LaunchRequest, NodeInfo
from ray.autoscaler.v2.utils import ClusterStatusFormatter

from stssl.search import autoscaler

FAILED = LaunchRequest.Status.FAILED


def test_the_newer_autoscaler() -> None:
    assert autoscaler.summary(ClusterStatusFormatter.format(ClusterStatus(), verbose=True)) == ""
    status = ClusterStatus(
        pending_launches=[LaunchRequest("g6.2xlarge", "gpu_spot", 2, LaunchRequest.Status.PENDING, 0)],
        pending_nodes=[NodeInfo("g6.2xlarge", "gpu_spot", "i-1", "10.0.0.1", details="RAY_INSTALLING")],
        failed_launches=[
            LaunchRequest("g6.2xlarge", "gpu_spot", 1, FAILED, second, details="No\ncapacity") for second in range(5)
        ],
    )
    said = autoscaler.summary(ClusterStatusFormatter.format(status, verbose=True))
    assert said == (
        "Pending: gpu_spot, 1 launching, i-1: gpu_spot, ray_installing; Recent failures: gpu_spot: LaunchFailed - No, capacity"
    )


def test_the_older_autoscaler() -> None:
    bad = NodeAvailabilityRecord(
        "gpu_spot", False, time.time(), UnavailableNodeInformation("Quota", "You are at 0 of 0.")
    )
    summary = AutoscalerSummary(
        active_nodes={"head": 1}, idle_nodes={}, pending_nodes=[], pending_launches={}, failed_nodes=[("10.0.0.1", "gpu_spot")],
        node_availability_summary=NodeAvailabilitySummary({"gpu_spot": bad}),
    )  # fmt: skip
    said = autoscaler.summary(format_info_string(LoadMetricsSummary({}, [], [], [], [], {}), summary, verbose=True))
    failures = "gpu_spot: Quota - You are at 0 of 0., gpu_spot: NodeTerminated (ip: 10.0.0.1)"
    assert said == f"Recent failures: {failures}"


def test_the_last_error_of_a_log() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise ImportError("the SDK is\nmissing") from None
    except ImportError:
        text = traceback.format_exc()
    for end in ("\nmore", "2026-01-01 12:00:00,001 INFO more"):
        log = f"2026-01-01 INFO at work: no Error here\n{text}{end}"
        assert autoscaler.last_error(log) == "ImportError: the SDK is\nmissing"
    launch = "Failed to launch 1 nodes of type gpu_spot: Node Launch Exception (Quota): 0 of 0"
    assert (
        autoscaler.last_error(f"{text}\n2026-01-01 12:00:00 INFO x.py:1 -- {launch}\n2026-01-01 12:00:01 INFO")
        == launch
    )
    assert autoscaler.last_error("all is well\nErrors: 0") is None


def test_long_reports_are_cut() -> None:
    assert (
        autoscaler._shortened("a\n b") == "a b"
        and len(autoscaler._shortened("word " * 1000)) == autoscaler.MAX_CHARACTERS
    )
