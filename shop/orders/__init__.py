"""Orders: a sale's written by the persister, ordinary ones placed here; closed by cancel and expiry, in one life."""
