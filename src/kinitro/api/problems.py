"""Errors as HTTP: one clear line in `detail`, the fields named in a 422, never a traceback."""

from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as RoutingError

from kinitro.errors import DatabaseError, ExecutorQuarantined
from kinitro.logs import get_logger
from kinitro.schemas import FieldProblem, InvalidRequest, Problem

Documented = dict[int | str, dict[str, Any]]  # Any: FastAPI's type of `responses`

INVALID: Documented = {422: {"model": InvalidRequest, "description": "A field is not valid; it is named."}}
UNAVAILABLE: Documented = {503: {"model": Problem, "description": "The database does not answer. Try again."}}
NOT_FOUND: Documented = {404: {"model": Problem, "description": "There is none, or none yet."}}
STILL_OPEN: Documented = {409: {"model": Problem, "description": "The cycle still runs."}}
GUARDED: Documented = {
    401: {"model": Problem, "description": "The API has a key, and it was not given."},
    403: {
        "model": Problem,
        "description": "The API has no key and the caller is not on its machine, or the executor is quarantined.",
    },
    408: {"model": Problem, "description": "The body did not arrive in time."},
    413: {"model": Problem, "description": "The body is too large."},
}

_RETRY_AFTER = {"Retry-After": "5"}

_log = get_logger("api")


def not_found(message: str) -> HTTPException:
    """A 404 that says what to do."""
    return HTTPException(404, message)


def still_open(cycle_id: int, what: str) -> HTTPException:
    """A 409: what a cycle is judged by stays hidden until it ends."""
    return HTTPException(409, f"Cycle {cycle_id} still runs; its {what} can be read when it has ended. See /v1/status.")


def install(app: FastAPI) -> None:
    """Gives the app its error answers."""
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RoutingError, _refused)
    app.add_exception_handler(ExecutorQuarantined, _quarantined)
    app.add_exception_handler(DatabaseError, _unavailable)
    app.add_exception_handler(Exception, _broken)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # The input itself is left out: it may be huge, not JSON (NaN), or a secret in the wrong place.
    problems = [FieldProblem(loc=list(item["loc"]), msg=item["msg"], type=item["type"]) for item in error.errors()[:20]]
    return _invalid_response(problems)


def _invalid_response(problems: list[FieldProblem]) -> JSONResponse:
    return JSONResponse(InvalidRequest(detail=problems).model_dump(mode="json"), status_code=422)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RoutingError)
    if error.status_code == 400:
        # FastAPI's only 400: a body that is not UTF-8, nested too deep, or with a number of thousands of digits.
        return _invalid_response([FieldProblem(loc=["body"], msg="The body is not valid JSON", type="json_invalid")])
    return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)


async def _quarantined(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=403)


async def _unavailable(_request: Request, error: Exception) -> JSONResponse:
    # Addresses are for the operator's log, not for the public.
    _log.error("database_unavailable", error=str(error))
    detail = "The database does not answer. Try again in a few seconds; the API's log has the cause."
    return JSONResponse({"detail": detail}, status_code=503, headers=_RETRY_AFTER)


async def _broken(_request: Request, _error: Exception) -> JSONResponse:
    # The server logs the traceback.
    return JSONResponse({"detail": "The API failed on this request. Its log has the cause."}, status_code=500)
