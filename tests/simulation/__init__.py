"""Conversations on the slots of modelled servers, placed by the code that runs, in no real time."""
