"""What the APIs of model servers look like."""
