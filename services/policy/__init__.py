"""Law: bundles of rules, verdicts under them, and what broke them."""
