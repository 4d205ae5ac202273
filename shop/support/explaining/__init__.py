"""Why a purchase was refused, from its signed witness and the recorded ledger."""
