"""The settings of the audit that goes on by itself."""

from pydantic import PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class AuditSettings(BaseSettings):
    """The bounds of the audit in one worker."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    audit_interval_seconds: PositiveFloat = 5.0
    """How often each sale is audited."""
    audit_rows_max: PositiveInt = 10_000
    """Rows of a ledger that are verified in one transaction; what is left is next at once."""
    audit_undrained_max: PositiveInt = 2_000
    """Undrained events of a sale that an audit reads from Redis at once."""
