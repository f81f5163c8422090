"""What peers agree on: identities, trust, groups, desired state, releases, and the stores behind them."""
