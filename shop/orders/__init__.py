"""Orders: written by the persister, closed by cancel and expiry, their units given back in one place."""
