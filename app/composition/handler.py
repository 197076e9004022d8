"""What serves requests by the present settings; a reload builds it anew."""

import asyncio
import functools
import re
import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.apis.aliases import Aliases
from app.apis.endpoints import OLLAMA_CHAT_PATH
from app.apis.rewrites import Rewrites
from app.apis.stable_prompts import known, untouched
from app.composition.runtime import Runtime
from app.control import admin, login, model_orders, models, routes, usage
from app.control.access import Access
from app.control.dashboard import page
from app.control.dispatch import Dispatch
from app.control.explain import explain
from app.control.joins import Joins
from app.control.ollama import OllamaLists
from app.control.requests import Requests
from app.control.servers import Servers
from app.control.session import Sessions
from app.downstream import asgi
from app.downstream.forwarded import Origin
from app.downstream.hosts import Hosts
from app.proxy.cors import Cors
from app.proxy.model_request import ModelRequest, Reading, username_finder
from app.proxy.proxy import Proxy
from app.settings import Settings


def build(
    settings: Settings,
    runtime: Runtime,
    stopping: asyncio.Event,
    reload: Callable[[], Awaitable[dict[str, object]]],
) -> tuple[Dispatch, FastAPI]:
    """Build what serves all requests, and the control endpoints, which are part of it.

    `stopping` ends the monitor's streams; `reload` reads the settings again.
    """
    rewrites = Rewrites(
        reasoning=settings.rewrite_reasoning,
        edit_suffix=settings.rewrite_edit_suffix,
        grammar=settings.rewrite_grammar,
        stabilise=_stabilise(settings, runtime),
    )
    aliases = Aliases(settings.aliases)
    reading = Reading(
        username_finder(re.compile(settings.username_pattern)),
        rewrites,
        aliases,
        settings.model_fallbacks,
        prompts=settings.affinity == "prompt",
    )
    hosts = Hosts(settings.allowed_hosts)
    cors = Cors(settings.origins())
    origin = Origin(settings.trusted_networks())
    proxy = Proxy(
        runtime.balancer,
        runtime.pools,
        runtime.queue,
        origin=origin,
        read=functools.partial(ModelRequest, reading),
        rewrites=rewrites,
        routed_paths=settings.routed_paths,
        max_body_bytes=settings.max_body_bytes,
        buffer=runtime.buffer,
        parser=runtime.parser,
        finished=runtime.batcher.put,
        in_flight=runtime.in_flight,
        tells_route=settings.route_headers,
        passes_control=settings.passes_control,
        keepalive=settings.stream_keepalive,
        keys=runtime.keys,
        wrong_keys=runtime.wrong_keys,
        hosts=hosts,
        cors=cors,
        forwarding=runtime.forwarding,
        loops=runtime.loops,
        owners=runtime.owners,
        underway=runtime.underway,
        enter=None if runtime.places is None else runtime.places.enter,
        trace=None if runtime.tracing is None else runtime.tracing.begin,
    )
    requests = Requests(runtime.recent, runtime.underway, runtime.batcher.flush)
    admin_key = settings.admin_key
    sessions = Sessions(None if admin_key is None else admin_key.get_secret_value())
    ollama = []
    if OLLAMA_CHAT_PATH in settings.routed_paths:  # else its clients see the fallback alone
        lists = OllamaLists(runtime.balancer, runtime.pools, aliases, rewrites.names)
        ollama.append(lists.routes())
    control = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    routers = [
        routes.routes(
            health=runtime.sampler.health,
            unready=lambda: "it stops" if stopping.is_set() else runtime.unready(),
            snapshot=runtime.state,
            stats=runtime.counted,
            backends=runtime.balancer.backends,
            metrics=runtime.render,
        ),
        models.routes(
            backends=lambda: runtime.balancer.listing(settings.models_interval),
            fleet=lambda: runtime.balancer.fleet,
            aliases={name: rewrites.names(model) for name, model in aliases.names.items()},
            resolved=aliases.model,
        ),
        *ollama,
        page.routes(
            lambda: runtime.state(page.MOST_ROWS),
            runtime.counted,
            requests,
            stopping,
            has_session=lambda request: sessions.opens(dict(request.scope["headers"])),
            is_home=settings.home == "monitor",
        ),
        admin.routes(
            explain=lambda *request: explain(runtime.balancer, proxy.ask_of(*request), time.time()),
            drain=lambda server, on: runtime.balancer.drain(server, on=on),
            servers=lambda: runtime.balancer.fleet.servers,
            max_body_bytes=settings.max_body_bytes,
            reload=reload,
        ),
        requests.routes(),
        usage.routes(runtime.usage, runtime.batcher.flush),
        model_orders.routes(runtime.balancer, runtime.pools),
        Servers(runtime.roster, runtime.balancer.backend).routes(),
        Joins(runtime.roster, runtime.balancer, runtime.wrong_keys).routes(),
        login.routes(
            page=runtime.login_page,
            sessions=sessions,
            keys=runtime.keys,
            wrong_keys=runtime.wrong_keys,
            origin=origin,
            pages=lambda: {path for path, _ in own},
        ),
    ]
    for router in routers:
        control.include_router(router)
    own = [
        (route.path, route.methods or ())
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute)
    ]
    access = Access(
        runtime.keys,
        sessions,
        origin,
        runtime.wrong_keys,
        runtime.login_page,
        settings.opened(),
        hosts=hosts,
        cors=cors,
    )
    return Dispatch(asgi.handler(access.guarded(control)), proxy, own), control


def _stabilise(settings: Settings, runtime: Runtime) -> Callable[[bytes, str], bytes]:
    """Return what makes the system texts of conversations stable."""
    if settings.stable_prompts == "learn":
        return runtime.fronts.settle
    return known if settings.stable_prompts == "known" else untouched
