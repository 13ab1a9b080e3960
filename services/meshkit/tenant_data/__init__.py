"""What a service holds of a tenant: stated per table beside the tables, planned and erased here."""
