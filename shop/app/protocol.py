"""HTTP/1.1 as the shop speaks it: uvicorn's protocol, with the bounds that a crowd makes necessary."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class ShopProtocol(HttpToolsProtocol):
    """One connection."""
