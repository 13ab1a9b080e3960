"""Which models the settings configure, in the order in which the chain tries them."""

from dataclasses import replace

from services.inference.domain.deployment import Adapter, AdapterForm, Deployments, DeploymentVersion, Task, usual_payee
from services.inference.settings import InferenceSettings


def configured(settings: InferenceSettings) -> Deployments:
    """Lists the deployments: OpenAI, Anthropic, the compatible server, the local model; the stub only by name."""
    found: list[DeploymentVersion] = []
    if settings.openai_api_key is not None:
        found += _pair(
            Adapter(settings.openai_adapter),
            settings.openai_model,
            settings.openai_embedding_model,
            form=settings.openai_form,
            region=settings.openai_region,
            context_tokens=settings.openai_context_tokens,
        )
    if settings.anthropic_api_key is not None:
        found += _pair(
            Adapter.ANTHROPIC,
            settings.anthropic_model,
            None,
            form=settings.anthropic_form,
            region=settings.anthropic_region,
            context_tokens=settings.anthropic_context_tokens,
        )
    if settings.compatible_base_url is not None:
        found += _pair(
            settings.compatible_adapter,
            settings.compatible_model,
            settings.compatible_embedding_model,
            region=settings.compatible_region,
            image_tokens=settings.compatible_image_tokens,
        )
    if settings.local_model_url is not None:
        found += _pair(Adapter.LOCAL, settings.local_model, settings.local_embedding_model)
    if settings.stub_enabled:
        found.append(DeploymentVersion(name="stub", adapter=Adapter.STUB, model="stub", in_default_chain=False))
    limits = {str(adapter): asked.model_dump() for adapter, asked in settings.provider_limits.items()}
    return Deployments([replace(one, **limits.get(one.payee, {})) for one in found])


def _pair(
    adapter: str,
    model: str,
    embedding_model: str | None,
    *,
    form: str = "wire",
    region: str = "",
    image_tokens: int = 0,
    context_tokens: int = 0,
) -> list[DeploymentVersion]:
    payee = usual_payee(adapter)
    generator = DeploymentVersion(
        name=f"{payee}/{model}",
        adapter=adapter,
        model=model,
        form=AdapterForm(form),
        region=region,
        provider=payee,
        image_tokens=image_tokens,
        context_tokens=context_tokens,
    )
    if embedding_model is None:
        return [generator]
    name = f"{payee}/{embedding_model}"
    embedder = DeploymentVersion(
        name=name, adapter=adapter, model=embedding_model, task=Task.EMBED, region=region, provider=payee
    )
    return [generator, embedder]
