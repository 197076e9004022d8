"""Rules that a balancer goes by after a reload."""

from typing import Any, Final

RULES: Final[dict[str, Any]] = {
    "sticky_ttl": 180.0,
    "window_length": 5,
    "overflow": "queue",
    "adopt_slots": True,
    "numbered": True,
    "rise": 2,
    "fall": 3,
    "tier_wait": 0.0,
    "hold_max": 0.0,
    "wait_max": 1.0,
    "pinned": None,
    "saved_prompts": 0,
}
