"""Money: intents at the provider, what its events mean for orders, refunds, and money that comes too late."""
