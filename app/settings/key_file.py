"""A file of API keys, in the same form as the setting."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, TypeAdapter, ValidationError

from app.settings.api_key import ApiKey, ApiKeySettings, unlike
from app.settings.mistakes import mistake
from app.settings.values import KeyName
from app.settings.variables import read_json

ApiKeys = Annotated[dict[KeyName, ApiKey], AfterValidator(unlike)]

_adapter: TypeAdapter[dict[str, ApiKeySettings]] = TypeAdapter(ApiKeys)


def read_key_file(path: Path) -> dict[str, ApiKeySettings]:
    """Read the keys of a file.

    Raises:
        ValueError: it cannot be read, or holds a mistake; no key is part of the message.
    """
    try:
        return _adapter.validate_python(
            read_json(path.read_text(encoding="utf-8-sig"), secret=True)
        )
    except OSError as error:
        raise mistake(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise mistake(f"{path} is no text in UTF-8") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise mistake(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None


def readable(path: Path) -> Path:
    """Check that a file of keys can be read."""
    read_key_file(path)
    return path
