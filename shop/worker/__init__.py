"""The worker process: the controller, one persister for each sale that has a ledger, and arq for what happens later."""

from shop.worker.context import Context
from shop.worker.running import run_worker, running_worker

__all__ = ["Context", "run_worker", "running_worker"]
