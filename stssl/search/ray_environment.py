"""What Ray must find in the environment when it is imported. Call `prepare` before the first `import ray`."""

from __future__ import annotations

import os
import secrets

from stssl.proxies import exempt_loopback


def prepare(address: str | None) -> None:
    """Set Ray's environment for a driver.

    Args:
        address: Of a running cluster, whose owner decides on authentication; None for a cluster of our own, which
            listens on loopback, behind a token that lives in the environment alone (Ray would leave one in the home
            directory, and that file would change how the user's later clusters start).
    """
    exempt_loopback()
    if address is None:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it but once in a process
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = (
            "0"  # on any system: "one machine only", all binds to loopback
        )
    defaults = {
        "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: Ray prints nothing, our own line does
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C reaches us at once; the ledger is always whole
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # CSV, JSON and TensorBoard files of what the ledger holds; 0 brings them
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",  # about Ray's snapshot, which we do not use
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
