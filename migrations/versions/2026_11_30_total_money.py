"""Keep the money of each currency in totals, so that its report costs the same however many payments there were.

`payments.counted` is what the totals have of a payment, `recount` says that it may be something else by now. Triggers
set that, so the previous release, which knows nothing of it, does not leave a change out. Every payment that is there
is to be counted: the worker does it afterwards, in batches. The index is built while everybody goes on writing; if
that is broken off, the next run begins anew.
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_30_total_money"
down_revision = "2026_11_30_return_buyers"

STATEMENT_TIMEOUT_MS = 60_000
LOCK_TIMEOUT_MS = 4_000
PARTS = ("captured", "paid", "refunded", "refund_pending", "refund_taken_back", "unsettled")

FUNCTIONS = (
    """CREATE OR REPLACE FUNCTION recount_changed_payment() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (OLD.amount_minor, OLD.currency) IS DISTINCT FROM (NEW.amount_minor, NEW.currency) THEN
            RAISE check_violation USING MESSAGE = 'the sum and the currency of a counted payment never change';
        END IF;
        NEW.recount := true;
        RETURN NEW;
    END $$""",
    """CREATE OR REPLACE FUNCTION recount_payment_of_order() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE payments SET recount = true WHERE paid_order_id = NEW.id;
        RETURN NULL;
    END $$""",
    """CREATE OR REPLACE FUNCTION recount_payment_of_refund() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE payments SET recount = true WHERE order_id = COALESCE(NEW.payment_id, OLD.payment_id);
        RETURN NULL;
    END $$""",
)
# One that is to be counted already needs no word, and the job that counts it takes the mark away.
TRIGGERS = (
    """CREATE OR REPLACE TRIGGER recount BEFORE UPDATE OF captured_at, settled_at, paid_order_id, amount_minor, currency
    ON payments FOR EACH ROW WHEN (NOT OLD.recount AND NOT NEW.recount) EXECUTE FUNCTION recount_changed_payment()""",
    """CREATE OR REPLACE TRIGGER recount AFTER UPDATE OF status ON orders FOR EACH ROW
    WHEN (OLD.status <> NEW.status AND 'paid' IN (OLD.status, NEW.status))
    EXECUTE FUNCTION recount_payment_of_order()""",
    """CREATE OR REPLACE TRIGGER recount AFTER INSERT OR DELETE OR UPDATE OF status, amount_minor ON refunds
    FOR EACH ROW EXECUTE FUNCTION recount_payment_of_refund()""",
)


def upgrade() -> None:
    """Apply. Each lock is taken alone and kept for a moment; a run that was broken off has left nothing in the way."""
    with op.get_context().autocommit_block():
        op.execute(
            "ALTER TABLE payments ADD COLUMN IF NOT EXISTS counted smallint,"
            " ADD COLUMN IF NOT EXISTS recount boolean DEFAULT true NOT NULL"
        )
        for statement in (*FUNCTIONS, *TRIGGERS):
            op.execute(statement)
        op.execute("SET statement_timeout = 0")
        op.execute("SET lock_timeout = 0")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_payments_recount")
        op.execute("CREATE INDEX CONCURRENTLY ix_payments_recount ON payments (counted, order_id) WHERE recount")
        op.execute(f"SET statement_timeout = {STATEMENT_TIMEOUT_MS}")
        op.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
    op.create_table(
        "money_totals",
        sa.Column("currency", sa.String(length=3), nullable=False),
        *(sa.Column(f"{part}_minor", sa.Numeric(), nullable=False) for part in PARTS),
        sa.Column("wrong_payments", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("currency", name=op.f("pk_money_totals")),
    )


def downgrade() -> None:
    """Undo."""
    op.drop_table("money_totals")
    for table in ("refunds", "orders", "payments"):
        op.execute(f"DROP TRIGGER recount ON {table}")
    for function in ("recount_payment_of_refund", "recount_payment_of_order", "recount_changed_payment"):
        op.execute(f"DROP FUNCTION {function}()")
    op.drop_index("ix_payments_recount", table_name="payments")
    op.drop_column("payments", "recount")
    op.drop_column("payments", "counted")
