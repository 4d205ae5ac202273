"""The HTTP server: HTTP/1.1, the accept loop, connections in bounds, and the overload gate. It imports no domain.

What it must know of the application it asks through `shop.server.admission.Admission`.

protocol     one connection: what the parser reads, in `states`, `heads` and `exchange` (a request and its answer)
connections  all of a process: `connection_cap`, `time_limits`, `back_pressure`, and `admission_control` with its `gate`
serving      the process that accepts and serves; `sending` and `answers` are how an answer leaves
"""
