"""Errors of the control endpoints."""

from fastapi.responses import Response

from app.apis.errors import error_json

KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
"""Words of OpenAI's API, by status; of any other status, the request is not valid."""


def error_response(status: int, message: str, challenge: str = "Bearer") -> Response:
    """Write an error; with a 401 goes the `challenge` (RFC 9110 section 11.6.1)."""
    error = error_json(status, KINDS.get(status, "invalid_request_error"), message)
    headers = {"www-authenticate": challenge} if status == 401 else None
    return Response(error, status, headers, "application/json")
