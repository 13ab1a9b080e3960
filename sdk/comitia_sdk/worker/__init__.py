"""Steps of workflows, made by functions of yours.

    from comitia_sdk.worker import Step, StepFailed, Worker

    worker = Worker(concurrency=16)

    @worker.step("charge")
    async def charge(step: Step, card: str, amount: int) -> dict[str, str]:
        answer = await bank.charge(card, amount, idempotency_key=step.key)
        if answer.declined:
            raise StepFailed("the bank says no", reason="CARD_DECLINED", permanent=True)
        return {"receipt": answer.id}

    worker.run()

Or `comitia worker run module:worker`. A step may be made more than once, such as when a machine dies in the
middle: `step.key` is the same each time.
"""

from comitia_sdk.worker.step import GiveBack, Step, StepCancelled, StepFailed
from comitia_sdk.worker.worker import Worker, WorkerNews

__all__ = ["GiveBack", "Step", "StepCancelled", "StepFailed", "Worker", "WorkerNews"]
