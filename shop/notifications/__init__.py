"""What the shop tells others: collected from what happened, kept in an outbox, delivered by log, mail and webhook."""
