"""A file of API keys, in the same form as the setting, or a folder with one file for each."""

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
    """Read the keys of a file; or of a folder, in which each file has the name of its key.

    Raises:
        ValueError: it cannot be read, or holds a mistake; no key is part of the message.
    """
    try:
        return _adapter.validate_python(_folder(path) if path.is_dir() else _file(path))
    except OSError as error:
        raise mistake(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise mistake(f"{path} is no text in UTF-8") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise mistake(f"{path}: {where + ': ' if where else ''}{first['msg']}") from None


def _file(path: Path) -> object:
    return read_json(path.read_text(encoding="utf-8-sig"), secret=True)


def _folder(path: Path) -> dict[str, str]:
    # Kubernetes' own entries there begin with two dots.
    files = (file for file in path.iterdir() if not file.name.startswith(".") and file.is_file())
    return {file.name: file.read_text(encoding="utf-8-sig").strip() for file in files}


def readable(path: Path) -> Path:
    """Check that a file of keys can be read."""
    read_key_file(path)
    return path
