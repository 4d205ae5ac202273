"""A whole shop on this machine: the embedded servers, an API and a worker, each a process of its own.

Everything is a child that does not outlive this process, and nothing listens on TCP but the API, the payment provider
and the metrics.

parts       the running shop: its processes, started, watched and stopped one by one
ports       where it listens: bound here, handed on to the children
starting    everything in order, in a directory that nobody else uses
"""

from shop.local.parts import LocalShop, NotStarted, environment_of, worker_urls
from shop.local.starting import local_shop

__all__ = ["LocalShop", "NotStarted", "environment_of", "local_shop", "worker_urls"]
