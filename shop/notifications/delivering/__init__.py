"""From rows of the outbox to those who are told: at least once, each time under the same id."""
