"""The running shop with an audit that hardly ever rests."""

import pytest

from shop.settings import Settings
from tests.recovery.audit.breaking import AUDIT_SECONDS


@pytest.fixture(scope="session")
def live_settings(live_settings: Settings) -> Settings:
    """The settings of the running shop; its worker audits all the time."""
    return live_settings.model_copy(update={"audit_interval_seconds": AUDIT_SECONDS})
