"""What ModelService says, domain to proto, pure."""

from collections.abc import Sequence
from typing import Final

from comitia.inference.v1 import model_pb2
from services.inference.domain.deployment import DeploymentVersion, Task

_TASKS: Final = {
    Task.GENERATE: model_pb2.MODEL_TASK_GENERATE,
    Task.EMBED: model_pb2.MODEL_TASK_EMBED,
}


def deployments_to_proto(listed: Sequence[tuple[DeploymentVersion, bool]]) -> list[model_pb2.ModelDeployment]:
    """Writes deployments, each with whether it is priced."""
    return [
        model_pb2.ModelDeployment(
            name=deployment.name,
            adapter=deployment.adapter,
            model=deployment.model,
            task=_TASKS[deployment.task],
            in_default_chain=deployment.in_default_chain,
            priced=priced,
            region=deployment.region,
        )
        for deployment, priced in listed
    ]
