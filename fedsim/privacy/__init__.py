"""What protects records: clipping; mechanisms, accounting and a ledger are to come."""
