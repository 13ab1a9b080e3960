"""What law is made of: bundles, subjects, verdicts, violations."""
