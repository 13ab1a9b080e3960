"""Generate from the wire to the provider and back."""

from tests.integration.inference.conftest import InferenceMesh


async def test_an_answer_is_judged_recorded_and_paid_for(mesh: InferenceMesh) -> None:
    answer = await mesh.generate(path="rounds/1/Athena")
    assert answer.parts[0].text.text == "Rivers meet. They argue about the sea!"
    assert (answer.provider, answer.model) == ("openai", "gpt-4o-mini")
    assert mesh.law.stages() == ["before", "after"]
    (charge,) = await mesh.charges()
    assert charge.hold_id == answer.hold_id
    assert charge.cost_nano_usd == answer.cost_nano_usd > 0
    assert charge.usage.input_tokens == mesh.provider.meter.prompt_tokens
    assert charge.usage.output_tokens == mesh.provider.meter.completion_tokens
    (row,) = await mesh.rows("settle_state, charged_nano_usd, token")
    assert tuple(row) == ("settled", answer.cost_nano_usd, None)


async def test_the_stub_answers_by_name(mesh: InferenceMesh) -> None:
    answer = await mesh.generate(model="stub")
    assert answer.stub
    assert answer.parts[0].text.text.startswith("This is the stub model")
    assert answer.cost_nano_usd == 0
