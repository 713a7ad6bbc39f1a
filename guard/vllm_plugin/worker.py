"""vLLM's worker, which lets the V1 logits processor know how far each prompt has been read.

The V1 runner calls a processor with the rows of all requests, those among them whose prompts are
read in chunks and whose samples it discards, and does not say which. With this class as vLLM's
`--worker-cls` an assistant keeps pace with the chunks; without it, it reads a new prompt whole in
its first step. (The V2 runner says it.) Read at vLLM 0.32.
"""

from __future__ import annotations

from vllm.platforms import current_platform

from guard.vllm_plugin.v1 import GuardLogitsProcessor

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class GuardWorker(PlatformWorker):
    """The platform's worker."""

    def init_device(self) -> None:
        """Introduce the runner, once it is there, to the guard's processor."""
        super().init_device()
        for processor in self.model_runner.input_batch.logitsprocs.all:
            if isinstance(processor, GuardLogitsProcessor):
                processor.follow(self.model_runner)
