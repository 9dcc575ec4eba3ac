"""The application: routes, their documents, and refusals in one sentence."""

import logging
from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import hm4sr
from hm4sr.errors import UserError
from hm4sr.serving.answers import Recommendations
from hm4sr.serving.http.document import MOST_CATEGORIES, state_limits
from hm4sr.serving.http.guard import Guard, extra_headers, problem
from hm4sr.serving.http.runs import LoadedRun
from hm4sr.serving.http.schemas import (
    Answers,
    CatalogueItem,
    Explanations,
    FoundItems,
    Health,
    Problem,
    Question,
    Runs,
    RunTold,
    SimilarQuestion,
    WhyQuestion,
)
from hm4sr.serving.http.service import RefusedError, Service

logger = logging.getLogger(__name__)

_PAGE_FILES = {
    "icon.svg": "image/svg+xml",
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
}
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request is no HTTP or JSON that can be read."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    404: {"model": Problem, "description": "There is no such user, item or run."},
    405: {"model": Problem, "description": "The route has other methods."},
    408: {"model": Problem, "description": "The body did not arrive in time."},
    413: {"model": Problem, "description": "The body is too large."},
    422: {"model": Problem, "description": "A value is not accepted."},
    503: {"model": Problem, "description": "Too much to do; see Retry-After."},
}
_LARGE = 2000
"""Items beyond which an answer is put into words in a thread."""

RunName = Annotated[str | None, Query(description="Name of the run; the first one if left out.")]


def create_app(service: Service) -> FastAPI:
    """The application of a service; it closes the service when it ends."""
    app = FastAPI(
        title="HM4SR recommendations",
        version=hm4sr.__version__,
        description=_describe(service),
        docs_url=None,  # their scripts would come from elsewhere
        redoc_url=None,
        responses=_REFUSALS,
    )
    app.add_middleware(Guard, service=service)
    _add_refusals(app)
    _add_questions(app, service)
    _add_catalogue(app, service)
    _add_state(app, service)
    if service.config.page:
        _add_page(app)
    state_limits(app, service)
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", response_model=Answers, summary="Recommend to users or after histories")
    async def recommend(question: Question) -> Response:
        run = service.run_of(question.run)
        return await _told(service, run, await service.recommend(run, question))

    @app.post("/explain", response_model=Explanations, summary="Recommend, and say why")
    async def explain(question: WhyQuestion) -> Response:
        run = service.run_of(question.run)
        explanations, excluded, included = await service.explain(run, question)
        found = Explanations.model_validate(
            {
                "run": run.name,
                "explanations": explanations,
                "unknown_excluded": excluded,
                "unknown_included": included,
            }
        )
        return _json(found)

    @app.post("/similar", response_model=Answers, summary="Items like given ones")
    async def similar(question: SimilarQuestion) -> Response:
        run = service.run_of(question.run)
        return await _told(service, run, await service.similar(run, question))


def _add_catalogue(app: FastAPI, service: Service) -> None:
    @app.get("/runs", response_model=Runs, summary="The runs that answer, and the limits")
    async def runs() -> Response:
        told = [_run_told(name, run) for name, run in service.runs.loaded.items()]
        return _json(Runs(runs=told, limits=service.config.limits.model_dump()))

    @app.get("/items", response_model=FoundItems, summary="Find items by words")
    async def find(
        words: Annotated[str, Query(max_length=200, description="Words of the title, or an id.")] = "",
        first: Annotated[int, Query(ge=0, le=10_000_000, description="Items to skip.")] = 0,
        count: Annotated[int, Query(ge=1, le=100, description="Items to tell.")] = 24,
        run: RunName = None,
    ) -> Response:
        loaded = service.run_of(run)
        numbers, total = await service.work(loaded.search.find, words, first, count)
        return _json(FoundItems(total=total, items=[_item(loaded, number) for number in numbers]))

    @app.get(
        "/items/{item_id:path}/picture",
        summary="A small picture of an item",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}, "description": "A JPEG."}},
    )
    async def picture(item_id: str, run: RunName = None) -> Response:
        loaded = service.run_of(run)
        data = await service.work(loaded.pictures.read, service.number_of(loaded, item_id))
        if data is None:
            raise RefusedError(404, "the item has no picture.")
        return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})

    @app.get("/items/{item_id:path}", response_model=CatalogueItem, summary="An item of the catalogue")
    async def item(item_id: str, run: RunName = None) -> Response:
        loaded = service.run_of(run)
        return _json(_item(loaded, service.number_of(loaded, item_id)))


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health/live", response_model=Health, summary="Whether the process runs")
    async def live() -> Response:
        return _json(Health(status="live"))

    @app.get("/health/ready", response_model=Health, summary="Whether questions are answered")
    async def ready() -> Response:
        if not service.ready:
            raise RefusedError(503, "the service is stopping: ask another one.")
        return _json(Health(status="ready"))

    @app.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI) -> None:
    folder = files("hm4sr.serving") / "page"
    contents = {name: (folder / name).read_bytes() for name in _PAGE_FILES}

    def page_file(name: str) -> Response:
        headers = {"content-security-policy": _PAGE_POLICY, "cache-control": "no-cache"}
        return Response(contents[name], headers=headers, media_type=_PAGE_FILES[name])

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return page_file("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in contents:
            raise RefusedError(404, "the page has no such file.")
        return page_file(name)


def _add_refusals(app: FastAPI) -> None:
    def answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
        allowed = {**extra_headers(status), **(headers or {})}
        return Response(problem(sentence), status, allowed, media_type="application/json")

    @app.exception_handler(RefusedError)
    async def refused(_: Request, error: RefusedError) -> Response:
        return answer(error.status, error.sentence)

    @app.exception_handler(UserError)
    async def mistaken(_: Request, error: UserError) -> Response:
        return answer(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return answer(400, "the body is not valid JSON: mend it.")
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            return answer(422, f"{where}: no such key: /openapi.json has those that there are.")
        return answer(422, f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}.")

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        return answer(error.status_code, _SENTENCES.get(error.status_code, str(error.detail)), error.headers)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return answer(500, "the service failed on this request: it has been logged.")


_SENTENCES = {
    400: "the body cannot be read as JSON: mend it.",
    404: "there is no such route: see /openapi.json.",
    405: "the route has other methods: see /openapi.json.",
}


async def _told(service: Service, run: LoadedRun, found: Recommendations) -> Response:
    def render() -> Response:
        told = {
            "run": run.name,
            "answers": list(found),
            "unknown_excluded": found.unknown_excluded,
            "unknown_included": found.unknown_included,
        }
        return _json(Answers.model_validate(told))

    return await service.work(render) if found.numbers.size > _LARGE else render()


def _json(content: BaseModel) -> Response:
    return Response(content.model_dump_json(), media_type="application/json")


def _item(run: LoadedRun, number: int) -> CatalogueItem:
    shelf = run.recommender.served.shelf
    return CatalogueItem(
        item_id=shelf.ids[number - 1],
        title=shelf.titles[number - 1],
        categories=shelf.table["categories"][number - 1].to_list(),
        events=int(shelf.counts[number]),
        picture=run.pictures.has(number),
    )


def _run_told(name: str, run: LoadedRun) -> RunTold:
    recommender = run.recommender
    return RunTold(
        name=name,
        model=run.model,
        items=len(recommender.served.shelf),
        modalities=recommender.modalities,
        categories=recommender.categories[:MOST_CATEGORIES],
        last_moment=recommender.invented.last,
        gap=recommender.invented.gap,
    )


def _describe(service: Service) -> str:
    limits = service.config.limits
    return (
        "Recommendations for known users and for histories never seen. Limits of a request: "
        f"a body of {limits.body_bytes:,} bytes, {limits.batch:,} users or histories of {limits.history:,} "
        f"events, k up to {limits.k:,}, {limits.items:,} items in all, {limits.deadline_seconds:g} s. "
        "Moments are seconds since 1970."
    )
