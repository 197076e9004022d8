"""What the balancer answers itself."""
