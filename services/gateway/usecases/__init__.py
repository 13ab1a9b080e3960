"""What can be done with identities and tenants, one verb a file."""
