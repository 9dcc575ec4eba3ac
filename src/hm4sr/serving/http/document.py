"""What /openapi.json says beyond types: the limits of this service, and the names that it knows.

The limits are settings and the names come with the runs, so neither can stand in the classes of
`hm4sr.serving.http.schemas`; what is refused is decided in `hm4sr.serving.http.service`, and a test compares.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from hm4sr.serving.http.service import Service
from hm4sr.serving.http.settings import RequestLimits

MOST_CATEGORIES = 1000
"""Categories that are told; a catalogue of more is not listed whole."""
_Schema = dict[str, Any]


def state_limits(app: FastAPI, service: Service) -> None:
    """Let the application's document state what its service accepts, after every reload anew."""
    plain = app.openapi

    def stated() -> _Schema:
        document = copy.deepcopy(plain())
        schemas = document["components"]["schemas"]
        limits = service.config.limits
        recommenders = [run.recommender for run in service.runs.loaded.values()]
        modalities = sorted({"time"}.union(*(recommender.modalities for recommender in recommenders)))
        categories = sorted(set().union(*(recommender.categories for recommender in recommenders)))
        for name, batch, k in (
            ("Question", limits.batch, limits.k),
            ("WhyQuestion", limits.explain_batch, limits.explain_k),
            ("SimilarQuestion", limits.batch, limits.k),
        ):
            properties = schemas[name]["properties"]
            properties["k"]["maximum"] = k
            for key in ("users", "items"):
                if key in properties:
                    _array(properties[key])["maxItems"] = batch
            _name_categories(_array(properties["categories"]), categories)
            if name != "SimilarQuestion":
                _array(properties["histories"]).update(maxItems=batch, items=_history(properties, limits))
                _array(properties["without"])["items"]["enum"] = modalities
                schemas[name]["anyOf"] = [
                    {"required": [key], "properties": {key: {"type": "array"}}}
                    for key in ("users", "histories")
                ]
        for path in document["paths"].values():
            if "post" in path:
                path["post"]["responses"]["422"]["description"] = _beyond(limits)
        return document

    app.openapi = stated  # type: ignore[method-assign]


def _array(schema: _Schema) -> _Schema:
    """The array of a property that may also be null."""
    found: _Schema = next(part for part in schema.get("anyOf", [schema]) if part.get("type") == "array")
    return found


def _history(properties: Mapping[str, Any], limits: RequestLimits) -> _Schema:
    """A history: so many events at most, and all of them with a moment or none."""
    history = dict(_array(properties["histories"])["items"])
    timed = {"items": {"required": ["time"], "properties": {"time": {"type": "number"}}}}
    untimed = {"items": {"properties": {"time": {"type": "null"}}}}
    return history | {"maxItems": limits.history, "anyOf": [timed, untimed]}


def _name_categories(array: _Schema, categories: Sequence[str]) -> None:
    if not categories:
        array["maxItems"] = 0
    elif len(categories) <= MOST_CATEGORIES:
        array["items"] = {**array["items"], "enum": list(categories)}


def _beyond(limits: RequestLimits) -> str:
    return (
        "A value is not accepted. Beyond what the schema states: users and histories given together are as "
        f"many; users, histories or items times k are {limits.items:,} at most; where several runs are "
        "served, a modality or category is one of the run asked."
    )
