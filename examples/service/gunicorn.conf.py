"""Worker processes that share one mapped bank file: ``gunicorn -c gunicorn.conf.py app:app``."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

from mlpbank import cpu_budget

# Before prometheus_client is imported: where workers leave their counters for each other. A
# variable of its own tells which process's folder that is, because SIGHUP runs this file again.
own_folder = os.environ.get("OWN_METRICS_FOLDER", "")
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    own_folder = tempfile.mkdtemp(prefix="metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ["OWN_METRICS_FOLDER"] = own_folder

bind = os.environ.get("BIND", "127.0.0.1:8000")
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "uvicorn_worker.UvicornWorker"
# Workers share the imported modules. Each maps the bank file, and its pages are shared too.
preload_app = True
control_socket_disable = True
graceful_timeout = 30
# Each worker predicts with its share of the CPUs, or of a container's quota, instead of all of them
# at once.
if not os.environ.get("MLPBANK_NUM_THREADS"):
    os.environ["MLPBANK_NUM_THREADS"] = str(max(1, cpu_budget().threads // workers))


def child_exit(server: Any, worker: Any) -> None:
    """Forget a worker that is gone, in the metrics that count the living."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def pre_exec(server: Any) -> None:
    """Give the master that takes over at SIGUSR2 its own folder: this one removes its folder."""
    if own_folder:
        for name in ("PROMETHEUS_MULTIPROC_DIR", "OWN_METRICS_FOLDER"):
            server.cfg.env_orig.pop(name, None)


def on_exit(server: Any) -> None:
    """Remove that folder."""
    if own_folder:
        shutil.rmtree(own_folder, ignore_errors=True)
