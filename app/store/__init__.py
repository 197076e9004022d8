"""What several balancers share, in a store that speaks Redis' protocol (Valkey's, Redis')."""
