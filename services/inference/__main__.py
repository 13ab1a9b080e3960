"""Runs inference: `python -m services.inference`."""

from services.meshkit.core.imports import for_good

with for_good():
    from services.inference.settings import InferenceSettings
    from services.inference.wiring import inference
    from services.meshkit.process import run_service

if __name__ == "__main__":
    run_service("inference", InferenceSettings, inference)
