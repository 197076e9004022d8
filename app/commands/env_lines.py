"""Settings as lines of .env."""

import json


def quoted_json(value: object) -> str:
    """Write JSON for .env, so that shells, compose and this program read the same.

    They differ about backslashes, quotes and `${` within single quotes, so JSON's own
    escapes take their place.
    """
    text = json.dumps(value, ensure_ascii=False)
    text = text.replace("\\\\", "\\u005c").replace("'", "\\u0027").replace("${", "\\u0024{")
    return f"'{text}'"
