"""The ledger of a sale in Redis: one function for each script. It knows neither HTTP nor Postgres."""
