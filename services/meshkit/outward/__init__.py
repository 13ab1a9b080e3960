"""How addresses are asked that somebody outside names: tools' pages, the issuers of tenants."""
