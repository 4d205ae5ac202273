"""The HTTP server: HTTP/1.1, the accept loop, connections in bounds, and the overload gate. It knows no shop.

What it must know of the application it asks through `shop.server.admission.Admission`.
"""
