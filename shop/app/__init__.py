"""The API: one ASGI application made of the lane for purchases and FastAPI for everything else.

factory      puts the application together
state        what an application holds: connected, closed, and put where its routers find it
following    the tasks in its background
processes    one process that serves it, or several and the one that keeps them, which imports no application
"""
