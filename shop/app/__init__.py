"""The API: one ASGI application made of the lane for purchases and FastAPI for everything else."""

from shop.app.factory import ShopApp, create_app, create_app_from_environment

__all__ = ["ShopApp", "create_app", "create_app_from_environment"]
