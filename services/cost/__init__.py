"""Cost: budgets that are never overspent, prices, and the ledger of what was paid."""
