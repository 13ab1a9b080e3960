"""One file per step, run by `services.meshkit.sql.migrations`."""
