"""Which requests reach Dagster's web server, and which a page of another site cannot make it obey."""

import asyncio

import pytest

from influence_assets.orchestration.guard import LOCAL, Guard

OWN = "127.0.0.1:3000"


def answered(method="GET", path="/", query="", kind="http", host=OWN, hosts=LOCAL, **headers):
    """Whether a request reaches the application; if not, it gets 403, or its socket is closed."""
    reached, sent = [], []

    async def application(scope, *_channels):
        reached.append(scope)

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        sent.append(message)

    named = [("host", host)] if isinstance(host, str) else [("host", each) for each in host or ()]
    lines = [*named, *((name.replace("_", "-"), value) for name, value in headers.items())]
    scope = {
        "type": kind,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in lines],
        **({"method": method} if kind == "http" else {}),
    }
    asyncio.run(Guard(application, hosts)(scope, receive, send))
    if reached:
        assert not sent
        return True
    if kind == "websocket":
        assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", 1008)]
    else:
        assert sent[0]["status"] == 403
        assert sent[1]["body"]
    return False


@pytest.mark.parametrize(
    "request_of_a_page",
    [
        {},
        {"path": "/graphql"},  # the page on which people write queries
        {"path": "/graphql", "method": "POST", "origin": f"http://{OWN}", "sec_fetch_site": "same-origin"},
        {"path": "/graphql", "method": "POST"},  # a program that is no browser
        {"path": "/graphql", "kind": "websocket", "origin": f"http://{OWN}"},
        {"path": "/assets", "query": "view=graph"},
        {"host": "localhost:3000"},
        {"host": "LOCALHOST"},
        {"host": "[::1]:3000"},
        {"host": "team.example:80", "hosts": (*LOCAL, "team.example")},
    ],
)
def test_our_own_pages_and_programs_are_served(request_of_a_page):
    assert answered(**request_of_a_page)


@pytest.mark.parametrize(
    "request_of_another_site",
    [
        {"path": "/graphql", "query": "query=mutation%20%7B%7D"},
        {"path": "/graphql/", "query": "a=1&query="},
        {"path": "/prefix/graphql", "query": "query=x", "method": "HEAD"},
        {"path": "/graphql", "method": "POST", "origin": "https://other.example"},
        {"path": "/graphql", "method": "POST", "origin": "null"},
        {"path": "/graphql", "method": "POST", "origin": "http://127.0.0.1:8888"},
        {"path": "/graphql", "method": "POST", "sec_fetch_site": "cross-site"},
        {"path": "/graphql", "method": "POST", "sec_fetch_site": "same-site", "origin": f"http://{OWN}"},
        {"path": "/graphql", "kind": "websocket", "origin": "https://other.example"},
        {"path": "/report_asset_materialization/a", "method": "POST", "origin": "https://other.example"},
        {"method": "DELETE"},
        {"method": "OPTIONS", "path": "/graphql"},
        {"host": "rebound.example:3000"},
        {"host": "127.0.0.1.rebound.example"},
        {"host": None},
        {"host": (OWN, "rebound.example")},
        {"kind": "websocket", "host": "rebound.example"},
    ],
)
def test_what_a_page_of_another_site_can_send_is_refused(request_of_another_site):
    assert not answered(**request_of_another_site)
