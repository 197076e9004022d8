"""Who may ask for models."""
