"""Makes everything under `gen/` from the protos: Python stubs, descriptor set, guard table, OpenAPI document."""
