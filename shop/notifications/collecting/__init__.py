"""From what happened to rows of the outbox: nothing is written for it while a purchase is made or recorded."""
