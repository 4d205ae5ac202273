"""What every process of the API begins with: the application's modules, and what is the same in all of them.

Imported by the server that forks them (`shop.processes`): no thread, no connection and no event loop may begin here.
"""

import gc


def _preload() -> None:
    gc.disable()  # What is imported stays: to look for cycles in it takes time and finds none.
    import shop.app.factory
    import shop.server.serving  # noqa: F401 - to have it
    from shop.payments.gateway import authorities
    from shop.users.passwords import dummy_hash

    authorities()
    dummy_hash()
    gc.freeze()  # A collector that looked at it in a forked process would copy its pages.
    gc.enable()


_preload()
