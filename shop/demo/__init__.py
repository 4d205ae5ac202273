"""`shop demo`: a whole flash sale on this machine, watched while it runs, and proved when it is over."""

from shop.demo.run import DemoPlan, run_demo

__all__ = ["DemoPlan", "run_demo"]
