"""The audit that goes on by itself in the worker: it verifies what is new, and stops a sale that is proven wrong."""
