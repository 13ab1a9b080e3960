"""The chart, rendered once for all tests here: by every file of values, as an upgrade, and by what cannot be meant."""

from collections.abc import Mapping
from typing import Any, Final

import pytest

from tests.support.render_chart import Rendered, render, values_of

VALUES: Final[Mapping[str, dict[str, Any]]] = {
    "default": {},
    "evaluation": values_of("evaluation"),
    "production": values_of("production"),
    "region": values_of("production", "region"),
    "air-gapped": values_of("air-gapped"),
    "east-west": values_of("production") | {"eastWest": {"enabled": True}},
}

#: Values that cannot be meant, and what is said of them.
CONTRADICTIONS: Final[Mapping[str, tuple[dict[str, Any], str]]] = {
    "ingress without host": ({"ingress": {"enabled": True}}, "ingress.host must be the name"),
    "two ways in": (
        {"ingress": {"enabled": True, "host": "a.b"}, "gatewayApi": {"enabled": True}},
        "published by one of the two",
    ),
    "a route without gateway": (
        {"gatewayApi": {"enabled": True, "host": "a.b"}},
        "gatewayApi.parentRefs must name the Gateway",
    ),
    "no Postgres": ({"postgres": {"enabled": False}}, "postgres.external.host must name a server"),
    "an external Postgres without secret": (
        {"postgres": {"enabled": False, "external": {"host": "db"}}},
        "postgres.external.existingSecret must name the Secret",
    ),
    "a Postgres that nobody can verify": (
        {"postgres": {"enabled": False, "external": {"host": "d", "existingSecret": "s", "sslMode": "verify-full"}}},
        "postgres.external.caSecret must name the Secret",
    ),
    "a prefix that no name begins with": ({"postgres": {"prefix": "blue-2"}}, "prefix"),
    "two Postgres": ({"postgres": {"external": {"host": "db"}}}, "choose one of the two"),
    "no NATS": ({"nats": {"enabled": False}}, "nats.external.existingSecret must name the Secret"),
    "no gateway": ({"services": {"gateway": {"replicas": 0}}}, "services.gateway would have no replica"),
    "no edge": ({"edge": {"replicas": 0}}, "without the edge nobody gets in"),
    "two orchestrators with a store each": (
        {"services": {"orchestrator": {"replicas": 2}}},
        "set objectStore.url to an object store",
    ),
    "no Milvus": ({"milvus": {"enabled": False}}, "milvus.external.existingSecret must name the Secret"),
    "two local models": (
        {"localModel": {"enabled": True}, "services": {"inference": {"settings": {"local_model_url": "http://m"}}}},
        "localModel.enabled is true and services.inference.settings.local_model_url is set",
    ),
    "less than least": (
        {"services": {"cost": {"autoscaling": {"enabled": True, "maxReplicas": 1}}}},
        "maxReplicas (1) is less than minReplicas (2)",
    ),
    "less edges than least": (
        {"edge": {"autoscaling": {"enabled": True, "maxReplicas": 1}}},
        "edge.autoscaling.maxReplicas (1) is less than minReplicas (2)",
    ),
    "quiet hours without KEDA": (
        {"services": {"cost": {"autoscaling": {"enabled": True, "quietHours": {"enabled": True}}}}},
        "quietHours needs autoscaling.enabled and autoscaling.kind keda",
    ),
    "plain text in public": (
        {"edge": {"service": {"type": "LoadBalancer"}}},
        "tokens would cross the network in plain",
    ),
    "TLS by nobody": ({"edge": {"tls": {"enabled": True}}}, "edge.tls.existingSecret must name a Secret"),
    "a Gateway before TLS": (
        {
            "gatewayApi": {"enabled": True, "host": "a.b", "parentRefs": [{"name": "g"}]},
            "edge": {"tls": {"enabled": True, "existingSecret": "s"}},
        },
        "end TLS at the Gateway",
    ),
    "an Ingress in plain text": ({"ingress": {"enabled": True, "host": "a.b"}}, "ingress.tlsSecret is empty"),
    "an issuer of the cluster without name": (
        {"mtls": {"issuer": {"kind": "ClusterIssuer"}}},
        "mtls.issuer.name must name it",
    ),
    "renewed before it is made": ({"mtls": {"renewBefore": "168h"}}, "must be less than mtls.duration"),
    "outliving what signs it": ({"mtls": {"duration": "90000h"}}, "longer than the life of what signs it"),
    "an east-west listener without certificates": (
        {"eastWest": {"enabled": True}, "mtls": {"enabled": False}},
        "eastWest.enabled is true and mtls.enabled is false",
    ),
    "no east-west listener between services that need one": (
        {"eastWest": {"enabled": True, "replicas": 0}},
        "without it no service reaches another",
    ),
    "a listener of the chart as a setting": (
        {"services": {"cost": {"settings": {"east_west_target": "x:1"}}}},
        "east_west_target",
    ),
    "some queue": (
        {"services": {"cost": {"autoscaling": {"enabled": True, "queue": {"items": 1}}}}},
        "autoscaling.queue.name must say which queue",
    ),
    "busier when it is quiet": (
        {
            "services": {
                "cost": {
                    "autoscaling": {"enabled": True, "kind": "keda", "quietHours": {"enabled": True, "replicas": 3}}
                }
            }
        },
        "quietHours.replicas (3) is more than minReplicas (2)",
    ),
    "a debate without a model": ({"tests": {"debate": True}}, "stub_enabled must be true"),
    "a debate behind a certificate": (
        {
            "tests": {"debate": True},
            "services": {"inference": {"settings": {"stub_enabled": True}}},
            "edge": {"tls": {"enabled": True, "existingSecret": "s"}},
        },
        "tests.url must be an address that its certificate is for",
    ),
    "a store that no policy lets in reach": (
        {"objectStore": {"url": "s3://a/b"}, "networkPolicies": {"internet": {"enabled": False}}},
        "services.orchestrator.extraEgress must say where the store is",
    ),
    "a host with a port": (
        {"postgres": {"enabled": False, "external": {"host": "db:5432", "existingSecret": "s"}}},
        "/postgres/external/host': 'db:5432' does not match",
    ),
    "a host that is an address": ({"ingress": {"enabled": True, "host": "https://a.b"}}, "/ingress/host'"),
    "a size of no unit that is known": ({"postgres": {"size": "10 GB"}}, "/postgres/size'"),
    "hours that are no cron": (
        {"services": {"cost": {"autoscaling": {"quietHours": {"start": "20:00"}}}}},
        "/autoscaling/quietHours/start'",
    ),
    "a test of nowhere": ({"tests": {"url": "comitia.example.com"}}, "/tests/url'"),
    "an unknown key": ({"postgress": {}}, "postgress"),
    "a name server without a port": ({"networkPolicies": {"dns": {"ports": []}}}, "dns"),
    "an unknown key of a service": ({"services": {"cost": {"replica": 2}}}, "replica"),
    "an unknown setting": ({"services": {"cost": {"settings": {"sweep_second": 1}}}}, "sweep_second"),
    "a setting out of bounds": ({"services": {"cost": {"settings": {"sweep_seconds": 61}}}}, "sweep_seconds"),
    "a secret as a setting": ({"services": {"inference": {"settings": {"openai_api_key": "sk"}}}}, "openai_api_key"),
    "a setting of the chart": ({"services": {"cost": {"settings": {"listen": "x:1"}}}}, "listen"),
    "a setting of all": ({"serviceDefaults": {"settings": {"pool_size": 4}}}, "settings"),
    "a setting twice": (
        {
            "services": {
                "inference": {
                    "settings": {"stub_enabled": True},
                    "secretSettings": {"openai_api_key": {"name": "a", "key": ""}},
                }
            }
        },
        "openai_api_key",
    ),
}


#: Threads that an Envoy should take with some values of its own.
THREADS: Final[tuple[tuple[int, dict[str, Any]], ...]] = (
    (2, {}),
    (1, {"resources": {"limits": {"memory": "1Gi", "cpu": "200m"}}}),
    (2, {"resources": {"limits": {"memory": "1Gi", "cpu": "1500m"}}}),
    (3, {"resources": {"limits": {"memory": "1Gi", "cpu": 3}}}),
    (8, {"resources": {"limits": {"memory": "1Gi", "cpu": "2"}}, "concurrency": 8}),
)


@pytest.fixture(scope="session")
def renders() -> dict[str, Rendered]:
    """Everything that is rendered, by name."""
    cases: dict[str, dict[str, Any]] = {name: {"values": values, "lint": True} for name, values in VALUES.items()}
    cases["repair"] = {"values": {}, "upgrade": True}
    cases["contract"] = {"values": {"migration": {"contract": True}}, "upgrade": True}
    cases["blue"] = {
        "values": VALUES["production"] | {"postgres": VALUES["production"]["postgres"] | {"prefix": "blue"}}
    }
    cases["long"] = {"values": {"fullnameOverride": f"a.{'b' * 60}", "postgres": {"maxConnections": 2_000_000}}}
    cases["guarded"] = {
        "values": {
            "networkPolicies": {
                "edgeFrom": [{"namespaceSelector": {}}],
                "dns": {"to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}], "ports": [5353]},
                "kubernetes": {"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [8443]},
            },
            "monitoring": {"otlpEndpoint": "https://collector.monitoring:4318"},
            "localModel": {"enabled": True},
            "tests": {"url": "https://comitia.example.com:8443/here"},
        }
    }
    cases["more edges"] = {"values": {"edge": {"replicas": 5, "service": {"annotations": {"a": "b"}}}}}
    for threads, values in THREADS:
        both = {"edge": values, "eastWest": values | {"enabled": True}}
        cases[f"{threads} threads of {values}"] = {"values": both}
    for calls in ("beside", "through"):
        cases[f"east-west {calls}"] = {"values": {"eastWest": {"enabled": True, "calls": calls}}}
    cases["new release"] = {"values": VALUES["production"] | {"image": {"tag": "9.9.9"}}, "upgrade": True}
    cases["same release"] = {"values": VALUES["production"], "upgrade": True}
    cases |= {name: {"values": values} for name, (values, _) in CONTRADICTIONS.items()}
    return render(cases)


@pytest.fixture(params=VALUES)
def rendered(request: pytest.FixtureRequest, renders: dict[str, Rendered]) -> Rendered:
    """The chart by one file of values after the other."""
    found = renders[request.param]
    assert not found.error, found.error
    return found
