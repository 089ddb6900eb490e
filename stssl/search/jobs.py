"""Ray jobs: code and search space travel to a running cluster, and the driver runs there.

Only Ray's jobs server is talked to, over HTTP, so this machine needs no route to the cluster's other ports and may be
switched off once the job is there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import stssl
from stssl.config import dump_yaml
from stssl.errors import RunError
from stssl.files import write_text
from stssl.proxies import exempt_loopback
from stssl.search import auth_token, programs
from stssl.search.config import SearchConfig
from stssl.search.run_folder import commit

SPACE, RUN = "search.yaml", "stssl_run"  # the file in the package; the key in the job's metadata
# A job's shell reads ~/.bashrc, which may put another Python in front.
VENV_PYTHON = "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/}python"
ANSWER_SECONDS = 15.0
PATIENCE_SECONDS = 60.0  # a jobs server that has just started has no agent to run a job yet
_LAUNCH = '''"""Run stssl from what was packed."""

from stssl.cli.launch import main

main("let the nodes have what constraints.txt names, or say `submit --python` where it is")
'''


def authenticate() -> None:
    """Make Ray send the token that this machine has. Call it before the first `import ray`.

    Who has a cluster without authentication says RAY_AUTH_MODE=disabled.

    Raises:
        RunError: The token belongs to another user.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    exempt_loopback()
    auth_token.protect()


def pack(folder: Path, config: SearchConfig) -> None:
    """Put into a folder what a job needs: this package, a script that starts it, and the search with all it refers to.

    Left out are the tables of public patches, which only `prepare` reads.
    """
    package = Path(stssl.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__", ".*", "*.parquet"))
    write_text(folder / "launch.py", _LAUNCH)
    write_text(folder / SPACE, dump_yaml(config.dump()))


class Jobs:
    """A cluster's jobs.

    Args:
        address: Of its jobs server, such as `http://127.0.0.1:8265`.

    Raises:
        RunError: Nothing answers there, or it wants a token that this machine does not have.
    """

    def __init__(self, address: str) -> None:
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for module in (
            "dashboard.modules.dashboard_sdk",
            "dashboard.modules.job.sdk",
            "_private.runtime_env.packaging",
        ):
            logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)
        self._refused = AuthenticationError
        self.address = address
        parts = urlsplit(address)
        if parts.username or parts.password or parts.query:
            raise RunError(
                f"--address {parts.scheme}://{parts.hostname}: holds credentials or a query, which would be printed; the token "
                "goes into RAY_AUTH_TOKEN or ~/.ray/auth_token"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RunError(
                f"--address {address}: give the jobs server, which is the dashboard's address, such as http://127.0.0.1:8265"
            )
        if not programs.answers(address, ANSWER_SECONDS):
            raise RunError(f"{address}: no Ray jobs server answers there")
        self._client = self._ask(lambda: JobSubmissionClient(address))

    def _ask(self, call: Callable[[], Any]) -> Any:
        """What the server says, or one sentence on why it does not: whatever answers there may answer anything."""
        try:
            return call()
        except Exception as error:
            raise self._fault(error) from None

    def _fault(self, error: Exception) -> RunError:
        if isinstance(error, self._refused | UnicodeError) or "header" in str(error):  # which would show the token
            return RunError(
                f"{self.address}: wants a token that this machine does not have, or has another one; put the cluster's token "
                "into RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token (a cluster without "
                "authentication: RAY_AUTH_MODE=disabled)"
            )
        what = "not what a Ray jobs server answers"
        if isinstance(error, OSError):
            what = "no Ray jobs server answers there"
        elif isinstance(error, RuntimeError):
            what = "Ray's jobs server refuses"
        return RunError(f"{self.address}: {what}: {(str(error).splitlines() or [type(error).__name__])[0][:300]}")

    def at_work(self, run: str) -> str | None:
        """The job that works on a run folder, if there is one."""
        for job in self._ask(self._client.list_jobs):
            if (job.metadata or {}).get(RUN) == run and not job.status.is_terminal():
                return str(job.submission_id)
        return None

    def submit(
        self,
        arguments: Iterable[str],
        config: SearchConfig,
        run: str,
        python: str | None = None,
        environment: dict[str, str] | None = None,
    ) -> str:
        """Start a job.

        Args:
            arguments: Of `launch.py`.
            config: The search, which is `search.yaml` for the job.
            run: The run folder as the cluster sees it.
            python: The interpreter on the cluster; None = that of the virtual environment in which Ray runs, else `python`.
            environment: More variables for the job.

        Returns:
            The job's id.
        """
        job = f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
        interpreter = shlex.join(shlex.split(python)) if python else VENV_PYTHON
        entrypoint = f"{interpreter} {shlex.join(['launch.py', *arguments])}"
        variables = {"STSSL_COMMIT": commit() or "", "PYTHONUNBUFFERED": "1", **(environment or {})}
        with tempfile.TemporaryDirectory() as folder:
            pack(Path(folder), config)
            runtime = {"working_dir": folder, "env_vars": variables}
            until = time.monotonic() + PATIENCE_SECONDS
            while True:
                try:
                    return str(
                        self._client.submit_job(
                            entrypoint=entrypoint, runtime_env=runtime, submission_id=job, metadata={RUN: run}
                        )
                    )
                except Exception as error:
                    if "try again later" not in str(error) or time.monotonic() > until:
                        raise self._fault(error) from None
                    time.sleep(1)

    def status(self, job: str) -> tuple[str, int | None]:
        """A job's status, such as RUNNING, and the exit code of its driver."""
        info = self._ask(lambda: self._client.get_job_info(job))
        return str(info.status.value), info.driver_exit_code

    def follow(self, job: str, write: Callable[[str], Any]) -> None:
        """Hand on what a job prints, until it ends.

        Raises:
            RunError: The server is gone.
        """

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job):
                write(text)

        self._ask(lambda: asyncio.run(tail()))
