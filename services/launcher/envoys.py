"""How the Envoys of a mesh are run: the edge and, where it is asked for, the east-west listener."""

import asyncio
from pathlib import Path

from services.launcher import databases, envoy_file
from services.launcher.child import ChildSpec
from services.launcher.embedded import envoy
from services.launcher.environment import MeshFacts, ordinary_environment
from services.launcher.options import UpOptions


async def envoy_spec(name: str, facts: MeshFacts, options: UpOptions, *, root: Path) -> tuple[ChildSpec, str]:
    """Renders the configuration of an Envoy. Gives how to run it, and the digest of the configuration.

    Args:
        name: `edge` or `east-west`, who has a certificate and ports under this name.
        root: directory that `services` is imported from.
    Raises: LauncherError: it cannot be rendered.
    """
    data, environment = facts.data, ordinary_environment(facts.user)
    configuration = data.of("envoy") / ("envoy.json" if name == envoy_file.EDGE else f"{name}.json")
    shown = data.certificate(name)
    mesh_tls = {
        "secrets": configuration.with_name("mesh_tls" if name == envoy_file.EDGE else f"{name}_tls"),
        "certificate_chain": shown,
        "private_key": shown,
        "authorities": data.authorities,
    }
    arguments = envoy_file.arguments(
        name,
        configuration,
        host=options.edge_host,
        ports=facts.ports,
        token_check=data.token_check,
        mesh_tls=mesh_tls if options.mtls else None,
        replicas=options.counts,
    )
    await envoy.render(configuration, arguments, environment, root=root)
    port = name.replace("-", "_")
    spec = envoy.prepare_envoy(
        name,
        configuration,
        admin_port=facts.ports[f"{port}_admin"],
        port=facts.ports[port],
        log=data.log(name),
        environment=environment,
    )
    return spec, databases.digest_of(await asyncio.to_thread(configuration.read_bytes))
